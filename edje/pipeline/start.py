"""What a new reranker's weights start from: a seed, another reranker, or whole-set statistics."""

import logging
from pathlib import Path

import torch

from edje.backbones.protocol import Backbone
from edje.errors import EdjeError
from edje.inference.checkpoint import Checkpoint, warm_start
from edje.pipeline.canonical import canonical_start
from edje.pipeline.collection import Collection
from edje.pipeline.trained import Published, trained_content

log = logging.getLogger(__name__)


class Start:
    """What changes the fresh weights of a new reranker, in place, before it is trained."""

    path: str | None = None  # of a reranker that is read

    def load(self, new: Checkpoint, backbone: Backbone, published: Published) -> None:
        """What can be done before any data is read."""

    def fit(self, new: Checkpoint, train: Collection, seed: int, device: torch.device) -> None:
        """What is computed from the training set; the model is on the CPU, before and after."""


class FreshStart(Start):
    """The weights that the seed gives."""

    def __init__(self) -> None:
        pass


class CheckpointStart(Start):
    """Another reranker's weights wherever name and shape agree.

    Args:
        path: a run folder or .ckpt of ours, or what names a published checkpoint.
    """

    def __init__(self, *, path: str):
        self.path = path

    def load(self, new: Checkpoint, backbone: Backbone, published: Published) -> None:
        """Take them over.

        Raises:
            EdjeError: it can't be read, or its joint encoder differs.
        """
        assert self.path is not None
        content = trained_content(self.path, "start.path", backbone, published)
        fresh = warm_start(new.model, Path(self.path), content)
        parts = dict.fromkeys(name.split(".")[0] for name in fresh)
        log.info("warm start from %s; fresh: %s", self.path, ", ".join(parts) or "nothing")


class CanonicalStart(Start):
    """Adapter and evidence in closed form, by the training set's canonical correlations."""

    def __init__(self) -> None:
        pass

    def fit(self, new: Checkpoint, train: Collection, seed: int, device: torch.device) -> None:
        """Set them.

        Raises:
            EdjeError: as `canonical_start`.
        """
        canonical_start(new, train, None, device)


class ContrastiveStart(Start):
    """The same, then trained for a minute on the mean tokens and words of the training set.

    Args:
        mean_share: of the mean cosine in the evidence, with which training starts; the rest is
            late interaction's. null leaves it as it is.

    Raises:
        EdjeError: a share that isn't between 0 and 1.
    """

    def __init__(self, *, mean_share: float | None = None):
        if mean_share is not None and not 0 < mean_share < 1:
            raise EdjeError(
                f"start.mean_share={mean_share}: expected above 0 and below 1, or null for that "
                "of joint.evidence. Give such a share."
            )
        self.mean_share = mean_share

    def fit(self, new: Checkpoint, train: Collection, seed: int, device: torch.device) -> None:
        """Set and train them.

        Raises:
            EdjeError: as `canonical_start`.
        """
        canonical_start(new, train, seed, device)
        evidence = new.model.evidence
        if self.mean_share is not None and evidence is not None:
            evidence.set_mean_share(self.mean_share)
