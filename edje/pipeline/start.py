"""The initial weights of a reranker: from a seed, another reranker, or training-set statistics."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from edje.backbones.protocol import Backbone
from edje.errors import EdjeError
from edje.identity import differing_names
from edje.inference.checkpoint import Checkpoint, load_checkpoint, warm_start
from edje.inference.fitted_sums import FittedSums, sums_of
from edje.inference.origins import origin
from edje.pipeline.canonical import canonical_start
from edje.pipeline.collection import Collection
from edje.pipeline.first_stage import FittedProjections, reason_to_fit
from edje.pipeline.trained import Published, trained_content
from edje.ranges import check_path
from edje.registry import short_name

log = logging.getLogger(__name__)
ONLY_TRAINED = {"masked_language", "text_recovery"}  # heads that scores don't depend on


class Start:
    """Changes the fresh weights of a new reranker, in place, before it is trained."""

    path: str | None = None  # of a reranker to load
    sums: FittedSums = {}  # noqa: RUF012  # its weights of score=sum, after `load`; never changed

    def load(
        self, new: Checkpoint, backbone: Backbone, published: Published
    ) -> Mapping[str, Any] | None:
        """The part that needs no data; returns what the checkpoint keeps of where it started."""

    def projections(self, backbone: Backbone) -> dict[str, Tensor]:
        """Fitted projections of an aligned backbone; empty if they are to be fitted."""
        return {}

    def fit(self, new: Checkpoint, train: Collection, seed: int, device: torch.device) -> None:
        """The part computed from the training set; the model is on the CPU before and after."""


class FreshStart(Start):
    """Fresh weights from the seed."""

    def __init__(self) -> None:
        pass


class CheckpointStart(Start):
    """Another reranker's weights wherever name and shape agree.

    Args:
        path: our run folder, .ckpt or saved folder, a name on the hub or one that comes with edje,
            or a published checkpoint.
        first_stage: kept uses its fitted projections too, if it has some and both encoders are
            this run's; fitted fits them on this run's images, for many images of another kind.

    Raises:
        EdjeError: `first_stage` is neither.
    """

    def __init__(self, *, path: str, first_stage: Literal["kept", "fitted"] = "kept"):
        if first_stage not in ("kept", "fitted"):
            raise EdjeError(f"start.first_stage={first_stage}: expected kept or fitted.")
        check_path("start.path", path)
        self.path, self.first_stage = path, first_stage

    def projections(self, backbone: Backbone) -> dict[str, Tensor]:
        """Its fitted projections, if they are of this run's encoders; the log says so, or why not.

        Raises:
            EdjeError: it can't be read.
        """
        if self.path is None or not isinstance(backbone, FittedProjections):
            return {}
        reason = f"start.first_stage={self.first_stage}"
        if self.first_stage == "kept":
            trained = load_checkpoint(Path(self.path))
            reason = reason_to_fit(trained, backbone)
            if not reason:
                log.info(
                    "first stage: the fitted projections of %s are kept (start.first_stage=fitted "
                    "fits them on this run's images)",
                    self.path,
                )
                return trained.first_stage
            reason = f"those of {self.path} are not kept: {reason}"
            self.sums = {}
        log.info("first stage: the projections are fitted on this run's images; %s", reason)
        return {}

    def load(self, new: Checkpoint, backbone: Backbone, published: Published) -> Mapping[str, Any]:
        """Copy its weights; returns what a model card says of it.

        Raises:
            EdjeError: it can't be read, or its joint encoder differs.
        """
        assert self.path is not None
        content = trained_content(self.path, "start.path", backbone, published)
        fresh = warm_start(new.model, Path(self.path), content)
        parts = dict.fromkeys(name.split(".")[0] for name in fresh)
        is_kept = self.first_stage == "kept" or not isinstance(backbone, FittedProjections)
        is_kept &= not differing_names(content["edje"]["backbone"], new.backbone)
        is_kept &= content["edje"]["adapter"]["target"] == short_name("adapter", new.adapter.target)
        if is_kept and not parts.keys() - ONLY_TRAINED:
            self.sums = sums_of(content["edje"].get("fusion", {}), new.model.adapter.num_tokens)
        heads, here = content["edje"].get("facts", {}).get("num_heads"), new.facts.num_heads
        if heads not in (None, here) and "adapter" not in parts:
            log.warning(
                "start.path=%s: its adapter attends with %d heads and the new one with %d, so that "
                "its weights have another effect",
                *(self.path, heads, here),
            )
        log.info("warm start from %s; fresh: %s", self.path, ", ".join(parts) or "nothing")
        return origin(self.path, content["edje"])


class CanonicalStart(Start):
    """Adapter and evidence in closed form, by the training set's canonical correlations."""

    def __init__(self) -> None:
        pass

    def fit(self, new: Checkpoint, train: Collection, seed: int, device: torch.device) -> None:
        """Set adapter and evidence.

        Raises:
            EdjeError: as `canonical_start`.
        """
        canonical_start(new, train, None, device)


class ContrastiveStart(Start):
    """The same, then trained for a minute on the mean tokens and words of the training set.

    Args:
        mean_share: initial share of the mean cosine in the evidence; the rest is late
            interaction's. null leaves it as it is.

    Raises:
        EdjeError: the share isn't between 0 and 1.
    """

    def __init__(self, *, mean_share: float | None = None):
        if mean_share is not None and not 0 < mean_share < 1:
            raise EdjeError(
                f"start.mean_share={mean_share}: expected a share above 0 and below 1, or null to "
                "keep joint.evidence's."
            )
        self.mean_share = mean_share

    def fit(self, new: Checkpoint, train: Collection, seed: int, device: torch.device) -> None:
        """Set and train adapter and evidence.

        Raises:
            EdjeError: as `canonical_start`.
        """
        canonical_start(new, train, seed, device)
        evidence = new.model.evidence
        if self.mean_share is not None and evidence is not None:
            evidence.set_mean_share(self.mean_share)
