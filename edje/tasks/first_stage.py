"""The first stage of a run: the backbone with its projections, fitted once and shared."""

import hashlib
import logging
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from edje.backbones.protocol import Backbone
from edje.durable import new_file
from edje.models.edje import EDJE
from edje.records import DIRECTIONS
from edje.retrieval.candidates import candidate_lists
from edje.tasks.collection import Collection

log = logging.getLogger(__name__)


@runtime_checkable
class FittedProjections(Protocol):
    """A backbone whose projections into the common space are fitted on cached features."""

    def recipe(self) -> dict[str, str | int | float]:
        """Everything but the data and the seed that the fit depends on."""
        ...

    def fit(
        self, image_features: Tensor, text_features: Tensor, image_of_caption: Tensor, *, seed: int
    ) -> dict[str, float]:
        """Fit the projections; returns figures of the fit."""
        ...

    def first_stage_state(self) -> dict[str, Tensor]:
        """The fitted projections."""
        ...

    def load_first_stage_state(self, state: dict[str, Tensor]) -> None:
        """Take fitted projections."""
        ...


STATISTICS_POOL = 100  # candidates per training query whose scores fix mean and deviation


def align(backbone: Backbone, train: Collection, cache_dir: Path, seed: int) -> None:
    """Give an aligned backbone its projections: from the cache, or fitted now on `train`.

    The file's name is a hash of everything the fit depends on. Dual encoders need nothing.
    """
    if not isinstance(backbone, FittedProjections):
        return
    facts = [*map(str, sorted(backbone.identity().items()))]
    facts += map(str, sorted(backbone.text_identity().items()))
    facts += map(str, sorted(backbone.recipe().items()))
    facts += [f"seed {seed}", *(item.caption_id for item in train.split.captions), *train.texts]
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
    path = cache_dir / f"{train.split.dataset}-train" / f"aligned-{digest}.safetensors"
    if path.is_file():
        backbone.load_first_stage_state(load_file(path))
        return
    report = backbone.fit(
        train.image_features, train.text_features, train.image_of_caption, seed=seed
    )
    log.info("fitted the first stage: %s", report)
    with new_file(path) as temporary:
        save_file(backbone.first_stage_state(), temporary)


def first_stage_state(backbone: Backbone) -> dict[str, Tensor]:
    """What a checkpoint keeps of the first stage; nothing for dual encoders."""
    return backbone.first_stage_state() if isinstance(backbone, FittedProjections) else {}


def restore_first_stage(backbone: Backbone, state: dict[str, Tensor]) -> None:
    """Take the projections from a checkpoint, so that nothing is fitted again."""
    if isinstance(backbone, FittedProjections):
        backbone.load_first_stage_state(state)


@torch.inference_mode()
def embeddings(
    backbone: Backbone, collection: Collection
) -> tuple[Float[Tensor, "images embedding"], Float[Tensor, "captions embedding"]]:
    """L2-normalised first-stage embeddings of a collection's images and captions."""
    return (
        backbone.project_images(collection.image_features).float().clone(),
        backbone.project_texts(collection.text_features).float().clone(),
    )


def fix_statistics(
    model: EDJE, image_embeddings: Tensor, text_embeddings: Tensor, image_of_caption: Tensor
) -> None:
    """Mean and deviation of the training lists' first-stage scores, kept in the model."""
    for direction in DIRECTIONS:
        lists = candidate_lists(
            image_embeddings, text_embeddings, image_of_caption, direction, STATISTICS_POOL
        )
        model.set_first_stage_statistics(
            direction, lists.scores.mean().item(), lists.scores.std().item()
        )
