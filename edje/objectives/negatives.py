"""Hard negatives: the most similar wrong images and captions under the frozen dual encoder."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edje.objectives.draws import uniform


@dataclass(frozen=True)
class Negatives:
    """Rows of the batch that serve each sample as wrong images and wrong captions."""

    images: Int[Tensor, "batch n"]
    captions: Int[Tensor, "batch n"]

    def of_rows(self, rows: slice) -> "Negatives":
        """Those of some samples only."""
        return Negatives(self.images[rows], self.captions[rows])


def matching_pairs(
    image_ids: Int[Tensor, "pairs"],
    caption_keys: Int[Tensor, "pairs"],
    rows: slice = slice(None),
) -> Bool[Tensor, "rows pairs"]:
    """Which pairs are of one image, or have equal captions: these are no rivals of each other."""
    same_image = image_ids[rows, None] == image_ids
    return same_image | (caption_keys[rows, None] == caption_keys)


class HardNegatives:
    """Mines `count` negatives per sample and direction inside the batch.

    They are drawn from the `pool` most similar wrong ones (`pool = count`: simply the hardest),
    as a function of (seed, step, sample id) alone. A pair of the same image, or with an equal
    caption, is never a negative. Similarities are compared in float32: after a softmax in
    half precision the hardest negative is often lost to ties.

    A curriculum from easy to hard: over the first `easy_steps` steps the pool shrinks evenly from
    `pool` to `count`. With 0 it stays as it is.
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
        """Negatives of every sample, hardest first.

        Raises:
            ValueError: the batch holds fewer wrong images or captions than `count` for a sample.
        """
        similarity = text_embeddings.float() @ image_embeddings.float().T  # (captions, images)
        forbidden = matching_pairs(image_ids, caption_keys)
        similarity = similarity.masked_fill(forbidden, -torch.inf)
        fewest = int((~forbidden).sum(dim=1).min())
        if fewest < self.count:
            raise ValueError(
                f"a sample has {fewest} possible negatives in its batch of {len(image_ids)}, "
                f"{self.count} are asked for: raise loader.batch_size or lower negatives.count"
            )
        pool = min(self.pool_at(step), fewest)
        images = similarity.topk(pool, dim=1).indices
        captions = similarity.T.topk(pool, dim=1).indices
        if pool > self.count:
            columns = torch.arange(pool, device=images.device)
            images = self._draw(images, uniform(seed, step, 1, sample_ids[:, None], columns))
            captions = self._draw(captions, uniform(seed, step, 2, sample_ids[:, None], columns))
        return Negatives(images[:, : self.count], captions[:, : self.count])

    def _draw(self, ranked: Tensor, chance: Tensor) -> Tensor:
        """`count` random columns of each row, in their order of hardness."""
        chosen = chance.topk(self.count, dim=1).indices.sort(dim=1).values
        return ranked.gather(1, chosen)
