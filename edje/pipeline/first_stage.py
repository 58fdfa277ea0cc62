"""The first stage of a run: the backbone with its projections, which are fitted once and shared."""

import logging
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from edje.backbones.protocol import Backbone, Identity
from edje.data.datamodules.batches import each_tensor
from edje.errors import EdjeError
from edje.identity import LATER, differing_names
from edje.inference.checkpoint import Checkpoint
from edje.inference.run_choices import backbone_of
from edje.pipeline.collection import Collection
from edje.pipeline.kept import Facts, kept
from edje.pipeline.token_cache import Cache
from edje.records import DIRECTIONS, CandidateList, Direction
from edje.retrieval.candidates import candidate_lists
from edje.retrieval.metrics import first_hit_ranks, recall_at_k
from edje.tokens.matrix_file import rows_at_once

log = logging.getLogger(__name__)


@runtime_checkable
class FittedProjections(Protocol):
    """A backbone whose projections into the common space are fitted on cached features."""

    def recipe(self) -> dict[str, str | int | float]:
        """Everything that the fit depends on, except the data and the seed."""
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
        """Use these fitted projections."""
        ...


def align(backbone: Backbone, train: Collection, cache: Cache, seed: int) -> None:
    """Give an aligned backbone its projections: from the cache, or fitted now on `train`.

    The file's name is a hash of everything the fit depends on. Nothing is done for dual encoders.
    """
    if not isinstance(backbone, FittedProjections):
        return
    text = backbone.text_identity()
    former = {name: value for name, value in text.items() if name not in LATER}
    folder = cache.split_folder(train.split.dataset, "train")
    paths = [folder / _fit_file(one, backbone, train, seed) for one in (text, former)]
    path = next((path for path in paths if path.is_file()), paths[0])

    def fitted() -> dict[str, Tensor]:
        report = backbone.fit(
            train.image_features, train.text_features, train.image_of_caption, seed=seed
        )
        log.info("fitted the first stage: %s", report)
        return backbone.first_stage_state()

    backbone.load_first_stage_state(kept(path, fitted))


def _fit_file(text: Identity, backbone: FittedProjections, train: Collection, seed: int) -> str:
    facts = Facts()
    facts.text(train.store.manifest.fingerprint.digest)  # backbone, number format, images
    for named in (text, backbone.recipe(), {"seed": seed}):
        facts.text(f"{sorted(named.items())}")
    for line in (*(item.caption_id for item in train.split.captions), *train.texts):
        facts.text(f"{line}\n")
    return f"aligned-{facts}.safetensors"


def first_stage_state(backbone: Backbone) -> dict[str, Tensor]:
    """The part of the first stage that a checkpoint keeps; empty for dual encoders."""
    return backbone.first_stage_state() if isinstance(backbone, FittedProjections) else {}


def reason_to_fit(trained: Checkpoint, backbone: Backbone) -> str:
    """Why a reranker's fitted projections aren't those of a run's backbone; empty if they are.

    An older checkpoint doesn't say whose captions they are for, so its caption encoder is built.
    """
    if not trained.first_stage:
        return "it has none"
    if trained.facts.embedding_width != backbone.embedding_width:
        return (
            f"its embeddings have width {trained.facts.embedding_width}, this run's "
            f"{backbone.embedding_width}"
        )
    if differing := differing_names(trained.backbone, backbone.identity()):
        return f"they are for another image encoder, which differs in {', '.join(differing)}"
    try:
        text = trained.text_backbone or backbone_of(trained).text_identity()
    except EdjeError as error:
        return f"its caption encoder can't be compared with this run's ({error})"
    if differing := differing_names(text, backbone.text_identity()):
        return f"they are for another caption encoder, which differs in {', '.join(differing)}"
    return ""


def restore_first_stage(backbone: Backbone, state: dict[str, Tensor]) -> None:
    """Use the projections of a checkpoint, so that nothing is fitted again."""
    if isinstance(backbone, FittedProjections):
        backbone.load_first_stage_state(state)


@torch.no_grad()
def embeddings(
    backbone: Backbone, collection: Collection
) -> tuple[Float[Tensor, "images embedding"], Float[Tensor, "captions embedding"]]:
    """L2-normalised first-stage embeddings of a collection's images and captions.

    Intermediate results only take memory for one chunk.
    """
    features, width = collection.image_features, backbone.embedding_width
    images = torch.empty(len(features), width)
    for rows in torch.arange(len(features)).split(rows_at_once(features.shape[1])):
        images[rows] = backbone.project_images(features[rows]).float()
    del features
    captions = torch.empty(len(collection.text_rows), width)
    done = 0
    for features in collection.text_chunks():
        captions[done : done + len(features)] = backbone.project_texts(features).float()
        done += len(features)
    return images, captions


def first_stage_lists(
    backbone: Backbone,
    collection: Collection,
    k: int,
    directions: Sequence[Direction] = DIRECTIONS,
    *,
    device: torch.device,
) -> list[CandidateList]:
    """The first stage's lists for each direction, computed on a device and returned on the CPU."""
    images, captions, owner = (
        tensor.to(device)
        for tensor in (*embeddings(backbone, collection), collection.image_of_caption)
    )
    found = (candidate_lists(images, captions, owner, direction, k) for direction in directions)
    return [each_tensor(one, Tensor.cpu) for one in found]


def first_stage_recall(
    backbone: Backbone, collection: Collection, device: torch.device
) -> dict[str, dict[str, float]]:
    """Recall of the first stage alone, in percent, per direction."""
    recalls: dict[str, dict[str, float]] = {}
    for lists in first_stage_lists(backbone, collection, 50, device=device):
        at = recall_at_k(first_hit_ranks(lists.scores, lists.relevant), (1, 5, 10, 20, 50))
        recalls[lists.direction] = {f"recall@{k}": round(100 * share, 2) for k, share in at.items()}
    return recalls
