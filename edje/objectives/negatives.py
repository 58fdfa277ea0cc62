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

    A batch may hold fewer than were asked for: `images_found` and `captions_found` say which
    places are filled (None: all). At the others stands the hardest once more, or where there is
    none at all the sample's own row.
    """

    images: Int[Tensor, "batch n"]
    captions: Int[Tensor, "batch n"]
    images_found: Bool[Tensor, "batch n"] | None = None
    captions_found: Bool[Tensor, "batch n"] | None = None

    def of_rows(self, rows: slice) -> "Negatives":
        """Those of some samples only."""
        found = (self.images_found, self.captions_found)
        kept = (None if places is None else places[rows] for places in found)
        return Negatives(self.images[rows], self.captions[rows], *kept)

    @property
    def missing(self) -> Int[Tensor, "2"]:
        """How many wrong images, and wrong captions, of those asked for the batch doesn't hold."""
        none = torch.zeros((), dtype=torch.long, device=self.images.device)
        found = (self.images_found, self.captions_found)
        return torch.stack([none if places is None else (~places).sum() for places in found])


def similarities(
    text_embeddings: Float[Tensor, "captions embedding"],
    image_embeddings: Float[Tensor, "images embedding"],
) -> Float[Tensor, "captions images"]:
    """The first stage's cosines in float32, under autocast too."""
    with torch.autocast(text_embeddings.device.type, enabled=False):
        return text_embeddings.float() @ image_embeddings.float().T


def matching_pairs(
    image_ids: Int[Tensor, "pairs"], caption_keys: Int[Tensor, "pairs"]
) -> Bool[Tensor, "captions images"]:
    """Which caption is true of which pair's image: these are no rivals of each other.

    It is where any pair of the batch says so: the pair of either, or another one of the same image
    with an equal caption. Counted by a product, so that no size depends on the ids, for which a
    GPU would be waited for.
    """
    equal_captions = caption_keys[:, None] == caption_keys
    same_image = image_ids[:, None] == image_ids
    with torch.autocast(image_ids.device.type, enabled=False):
        return equal_captions.float() @ same_image.float() > 0  # no sum of ones rounds to zero


class HardNegatives:
    """Mines `count` negatives per sample and direction inside the batch.

    They are drawn from the `pool` most similar wrong ones (`pool = count`: simply the hardest),
    as a function of (seed, step, sample id) alone. A caption that is true of an image in the
    batch is never its negative, and a sample's negatives are different images and captions of
    different text; a sample that has fewer of them than `count` makes do with these. Similarities
    are compared in float32: after a softmax in half precision the hardest negative is often lost
    to ties.

    A curriculum from easy to hard: over the first `easy_steps` optimiser steps the pool shrinks
    evenly from `pool` to `count`. With 0 it stays as it is.
    """

    def __init__(self, *, count: int = 3, pool: int = 3, easy_steps: int = 0):
        if not 1 <= count <= pool:
            raise ValueError(f"negatives: need 1 <= count <= pool, got count={count}, pool={pool}")
        self.count = count
        self.pool = pool
        self.easy_steps = easy_steps

    def pool_at(self, step: int) -> int:
        """How many of the hardest the negatives of a step are drawn from."""
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
        lacking = max(self.count - pool, 0)  # a batch of fewer pairs than that
        ranked, found = F.pad(ranked, (0, lacking)), F.pad(found, (0, lacking))
        own = torch.arange(len(ranked), device=ranked.device)[:, None]
        return ranked.where(found, ranked[:, :1].where(found[:, :1], own)), found


def _repeated(keys: Int[Tensor, "pairs"]) -> Bool[Tensor, "pairs"]:
    """Which keys have stood before."""
    return (keys[:, None] == keys).tril(diagonal=-1).any(dim=1)
