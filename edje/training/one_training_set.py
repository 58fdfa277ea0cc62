"""Ranks of one training read the same data."""

from collections.abc import Callable

import lightning as L

from edje.errors import EdjeError
from edje.parallel.collectives import num_ranks, of_every_rank


class OneTrainingSet(L.Callback):
    """Refuses ranks that would train on different data.

    Each rank reads the annotations itself, and a node may have a copy of its own. Ranks share
    batches by row numbers, so with other rows they would take pairs for each other's.

    Args:
        facts: says what this rank trains on, in the same text as a rank with the same data.
    """

    def __init__(self, facts: Callable[[], str]):
        self.facts = facts

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Before the first step, on every rank.

        Raises:
            EdjeError: on every rank; the message says what each has.
        """
        if num_ranks() == 1:
            return
        found = of_every_rank(self.facts())
        if len(set(found)) > 1:
            said = "; ".join(
                f"{each} on {found.count(each)} of {len(found)} ranks, such as {found.index(each)}"
                for each in sorted(set(found), key=found.index)
            )
            raise EdjeError(
                f"The ranks read different training data: {said}. Give every node the same "
                "annotations and images under data.root (of a mixture, each data.sources.<name>."
                "root), on a shared disk or as equal copies."
            )
