"""The initial weights of a reranker: from a seed, another reranker, or training-set statistics."""

import logging
from pathlib import Path

import torch

from edje.backbones.protocol import Backbone
from edje.errors import EdjeError
from edje.inference.checkpoint import Checkpoint, warm_start
from edje.pipeline.canonical import canonical_start
from edje.pipeline.collection import Collection
from edje.pipeline.trained import Published, trained_content
from edje.ranges import check_path

log = logging.getLogger(__name__)


class Start:
    """Changes the fresh weights of a new reranker, in place, before it is trained."""

    path: str | None = None  # of a reranker to load

    def load(self, new: Checkpoint, backbone: Backbone, published: Published) -> None:
        """The part that needs no data."""

    def fit(self, new: Checkpoint, train: Collection, seed: int, device: torch.device) -> None:
        """The part computed from the training set; the model is on the CPU before and after."""


class FreshStart(Start):
    """Fresh weights from the seed."""

    def __init__(self) -> None:
        pass


class CheckpointStart(Start):
    """Another reranker's weights wherever name and shape agree.

    Args:
        path: our run folder or .ckpt, or the name or path of a published checkpoint.
    """

    def __init__(self, *, path: str):
        check_path("start.path", path)
        self.path = path

    def load(self, new: Checkpoint, backbone: Backbone, published: Published) -> None:
        """Copy its weights.

        Raises:
            EdjeError: it can't be read, or its joint encoder differs.
        """
        assert self.path is not None
        content = trained_content(self.path, "start.path", backbone, published)
        fresh = warm_start(new.model, Path(self.path), content)
        parts = dict.fromkeys(name.split(".")[0] for name in fresh)
        heads, here = content["edje"].get("facts", {}).get("num_heads"), new.facts.num_heads
        if heads not in (None, here) and "adapter" not in parts:
            log.warning(
                "start.path=%s: its adapter attends with %d heads and the new one with %d, so that "
                "its weights have another effect",
                *(self.path, heads, here),
            )
        log.info("warm start from %s; fresh: %s", self.path, ", ".join(parts) or "nothing")


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
