"""Ranks of one training compute in one number format."""

import logging

import lightning as L

from edje.errors import EdjeError
from edje.parallel.collectives import of_every_rank

log = logging.getLogger(__name__)


class OnePrecision(L.Callback):
    """Says in which precision a training computes, and refuses ranks that would differ.

    `trainer.precision=auto` depends on each rank's own processor.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Before the first step, on every rank.

        Raises:
            EdjeError: on every rank; the message names the precisions and how many ranks have them.
        """
        found = of_every_rank(str(trainer.precision))
        if len(set(found)) > 1:
            counts = ((each, found.count(each)) for each in sorted(set(found)))
            said = ", ".join(f"{each} ({few} of {len(found)} ranks)" for each, few in counts)
            raise EdjeError(
                f"trainer.precision=auto: the processors of the ranks differ, and so would their "
                f"precisions: {said}. Set trainer.precision=32-true, or use nodes of one kind."
            )
        log.info("training in precision %s on %s", found[0], pl_module.device)
