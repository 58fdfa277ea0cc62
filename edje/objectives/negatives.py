"""Hard negatives: the most similar wrong images and captions under the frozen dual encoder."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from edje.objectives.draws import uniform


@dataclass(frozen=True)
class Negatives:
    """Rows of the batch that serve each sample as wrong images and wrong captions.

    A batch may hold fewer than requested: `images_found` and `captions_found` say which
    places are filled (None: all). The other places repeat the hardest negative, or the sample's
    own row if it has none at all.
    """

    images: Int[Tensor, "batch n"]
    captions: Int[Tensor, "batch n"]
    images_found: Bool[Tensor, "batch n"] | None = None
    captions_found: Bool[Tensor, "batch n"] | None = None

    def of_rows(self, rows: slice) -> "Negatives":
        """The negatives of some samples only."""
        found = (self.images_found, self.captions_found)
        kept = (None if places is None else places[rows] for places in found)
        return Negatives(self.images[rows], self.captions[rows], *kept)

    @property
    def missing(self) -> Int[Tensor, "2"]:
        """How many of the requested wrong images, and wrong captions, the batch lacks."""
        none = torch.zeros((), dtype=torch.long, device=self.images.device)
        found = (self.images_found, self.captions_found)
        return torch.stack([none if places is None else (~places).sum() for places in found])


def similarities(
    text_embeddings: Float[Tensor, "captions embedding"],
    image_embeddings: Float[Tensor, "images embedding"],
) -> Float[Tensor, "captions images"]:
    """The first stage's cosines in float32, also under autocast."""
    with torch.autocast(text_embeddings.device.type, enabled=False):
        return text_embeddings.float() @ image_embeddings.float().T


def matching_pairs(
    image_ids: Int[Tensor, "pairs"], caption_keys: Int[Tensor, "pairs"]
) -> Bool[Tensor, "captions images"]:
    """Which caption matches which pair's image: such pairs are never negatives of each other.

    A caption matches an image if any pair of the batch says so: one of these two pairs, or a third
    one with the same image and an equal caption. Computed as a matrix product, so that no size
    depends on the ids, which would wait for a GPU.
    """
    equal_captions = caption_keys[:, None] == caption_keys
    same_image = image_ids[:, None] == image_ids
    with torch.autocast(image_ids.device.type, enabled=False):
        return equal_captions.float() @ same_image.float() > 0  # no sum of ones rounds to zero


class HardNegatives:
    """Mines `count` negatives per sample and direction inside the batch.

    They are drawn from the `pool` most similar wrong ones (`pool = count`: simply the hardest).
    The draw depends only on (seed, step, sample id). A caption that is true of an image in the
    batch is never its negative, and a sample's negatives are distinct images and captions with
    distinct texts. A sample with fewer than `count` possible negatives uses those. Similarities
    are compared in float32: after a softmax in half precision, the hardest negative is often lost
    to ties.

    For a curriculum from easy to hard, set `easy_steps`: over the first `easy_steps` optimiser
    steps the pool shrinks evenly from `pool` to `count`. With 0 it stays constant.
    """

    def __init__(self, *, count: int = 3, pool: int = 3, easy_steps: int = 0):
        if not 1 <= count <= pool:
            raise ValueError(f"negatives: need 1 <= count <= pool, got count={count}, pool={pool}")
        if easy_steps < 0:
            raise ValueError(f"negatives: need easy_steps >= 0, got easy_steps={easy_steps}")
        self.count = count
        self.pool = pool
        self.easy_steps = easy_steps

    def pool_at(self, step: int) -> int:
        """The number of hardest candidates from which a step's negatives are drawn."""
        if not self.easy_steps:
            return self.pool
        left = max(1 - step / self.easy_steps, 0.0)
        return self.count + round((self.pool - self.count) * left)

    def __call__(
        self,
        image_embeddings: Float[Tensor, "batch embedding"],
        text_embeddings: Float[Tensor, "batch embedding"],
        image_ids: Int[Tensor, "batch"],
        caption_keys: Int[Tensor, "batch"],
        sample_ids: Int[Tensor, "batch"],
        seed: int,
        step: int,
    ) -> Negatives:
        """Negatives of every sample, hardest first; `step` counts optimiser steps."""
        similarity = similarities(text_embeddings, image_embeddings)
        true = matching_pairs(image_ids, caption_keys)
        draws = (seed, step, sample_ids)
        images, images_found = self._mine(similarity, true | _repeated(image_ids), 1, *draws)
        captions, captions_found = self._mine(
            similarity.T, true.T | _repeated(caption_keys), 2, *draws
        )
        return Negatives(images, captions, images_found, captions_found)

    def _mine(
        self,
        similarity: Tensor,
        forbidden: Tensor,
        direction: int,
        seed: int,
        step: int,
        sample_ids: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """`count` columns for each row, and which of them are filled."""
        pool = min(self.pool_at(step), len(similarity))
        ranked = similarity.masked_fill(forbidden, -torch.inf).topk(pool, dim=1).indices
        found = ~forbidden.gather(1, ranked)
        if pool > self.count:
            columns = torch.arange(pool, device=ranked.device)
            chance = uniform(seed, step, direction, sample_ids[:, None], columns)
            chance = chance.masked_fill(~found, -1.0)
            chosen = chance.topk(self.count, dim=1).indices.sort(dim=1).values  # hardest first
            ranked, found = ranked.gather(1, chosen), found.gather(1, chosen)
        lacking = max(self.count - pool, 0)  # the batch has fewer pairs
        ranked, found = F.pad(ranked, (0, lacking)), F.pad(found, (0, lacking))
        own = torch.arange(len(ranked), device=ranked.device)[:, None]
        return ranked.where(found, ranked[:, :1].where(found[:, :1], own)), found


def _repeated(keys: Int[Tensor, "pairs"]) -> Bool[Tensor, "pairs"]:
    """Which keys have occurred before."""
    return (keys[:, None] == keys).tril(diagonal=-1).any(dim=1)
