"""Mean and deviation of the first stage's scores over training queries, for score=residual."""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edje.models.edje import EDJE
from edje.pipeline.kept import Facts, kept
from edje.records import DIRECTIONS
from edje.retrieval.candidates import candidate_lists

STATISTICS_POOL = 100  # candidates per training query, for mean and deviation
STATISTICS_QUERIES = 20_000  # at most, per direction


def fix_statistics(
    model: EDJE,
    image_embeddings: Float[Tensor, "images embedding"],
    text_embeddings: Float[Tensor, "captions embedding"],
    image_of_caption: Int[Tensor, "captions"],
    folder: Path,
    device: torch.device,
) -> None:
    """Set the mean and deviation of the training lists' first-stage scores in the model.

    Only a residual model reads them; for others nothing is done. They are kept in the folder,
    under a hash of everything they depend on.
    """
    if model.residual is None:
        return
    facts = Facts()
    for tensor in (image_embeddings, text_embeddings, image_of_caption):
        facts.tensor(tensor)
    facts.text(f"{STATISTICS_POOL} {STATISTICS_QUERIES}")

    def computed() -> dict[str, Tensor]:
        images, captions, owner = (
            tensor.to(device) for tensor in (image_embeddings, text_embeddings, image_of_caption)
        )
        found: dict[str, Tensor] = {}
        for direction in DIRECTIONS:
            rows = evenly(len(captions if direction == "t2i" else images), STATISTICS_QUERIES)
            lists = candidate_lists(
                images, captions, owner, direction, STATISTICS_POOL, queries=rows.to(device)
            )
            moments = [lists.scores.mean().item(), lists.scores.std().item()]
            found[direction] = torch.tensor(moments, dtype=torch.float64)
        return found

    for direction, moments in kept(folder / f"statistics-{facts}.safetensors", computed).items():
        model.set_first_stage_statistics(direction, *moments.tolist())  # type: ignore[arg-type]


def evenly(count: int, most: int) -> Int[Tensor, "some"]:
    """Rows 0 to count - 1, or if they are more than `most`, `most` of them, evenly spaced."""
    some = min(count, most)
    return torch.arange(some) * count // max(some, 1)
