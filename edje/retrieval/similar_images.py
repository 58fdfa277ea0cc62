"""Mining: for every image of a training set, the images that its captions may be confused with."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edje.errors import EdjeError
from edje.retrieval.exact import SIMILARITY_BYTES, similarities

MOST_CAPTIONS = 1024  # compared with all images at a time


def similar_images(
    image_embeddings: Float[Tensor, "images embedding"],
    text_embeddings: Float[Tensor, "captions embedding"],
    image_of_caption: Int[Tensor, "captions"],
    count: int,
    *,
    margin: float | None = None,
    caption_keys: Int[Tensor, "captions"] | None = None,
    chunk: int | None = None,
) -> Int[Tensor, "images count"]:
    """Rows of the `count` other images most similar to each image's captions, hardest first.

    An image's similarity to another is that of its closest caption. `count` is limited to the
    number of other images.

    With a `margin`, likely false negatives are left out: images that are more similar to a caption
    than its own image by more than `margin`, in units of the similarity. Below zero, images within
    -`margin` of its own are left out too (the positive-aware mining of NV-Retriever, Moreira et
    al. 2024, arXiv 2407.15831). With `caption_keys`, images with an equal caption are left out too.

    Args:
        chunk: approximate number of captions compared with all images at a time; by default
            1,024, or as many as make 64 MB of similarities.

    Raises:
        EdjeError: fewer than `count` images are left for some image.
    """
    images = len(image_embeddings)
    count = min(count, images - 1)
    if chunk is None:
        chunk = min(MOST_CAPTIONS, SIMILARITY_BYTES // (4 * images))
    order = image_of_caption.argsort(stable=True)  # an image's captions together
    ends = torch.bincount(image_of_caption, minlength=images).cumsum(0).tolist()
    per_chunk = max(chunk * images // len(text_embeddings), 1)
    parts = []
    for first in range(0, images, per_chunk):
        rows = range(first, min(first + per_chunk, images))
        captions = order[ends[first - 1] if first else 0 : ends[rows[-1]]]
        own = image_of_caption[captions]
        similarity = similarities(text_embeddings[captions], image_embeddings)
        closest = _closest(similarity, similarity.gather(1, own[:, None]), own - first, margin)
        closest[:, first:].fill_diagonal_(-torch.inf)
        if caption_keys is not None:
            closest[
                _equally_described(captions, first, image_of_caption, caption_keys)
            ] = -torch.inf
        parts.append(_hardest(closest, count))
    return torch.cat(parts)


def hardest_by_scores(
    candidates: Int[Tensor, "images pool"],
    scores: Float[Tensor, "captions pool"],
    own: Float[Tensor, "captions 1"],
    image_of_caption: Int[Tensor, "captions"],
    count: int,
    *,
    margin: float | None = None,
) -> Int[Tensor, "images count"]:
    """Like `similar_images`, but among each image's candidates and by a reranker's scores.

    `scores[c]` are caption c's scores with its image's candidates, `own[c]` with its own image.

    Raises:
        EdjeError: fewer than `count` candidates are left for some image.
    """
    closest = _closest(scores, own, image_of_caption, margin)
    return candidates.gather(1, _hardest(closest, min(count, candidates.shape[1])))


def _closest(
    similarity: Float[Tensor, "captions candidates"],
    own: Float[Tensor, "captions 1"],
    group: Int[Tensor, "captions"],
    margin: float | None,
) -> Float[Tensor, "groups candidates"]:
    """The largest similarity to a group's captions; -inf if it is too large for a negative."""
    index = group[:, None].expand_as(similarity)
    closest = similarity.new_full((int(group.max()) + 1, similarity.shape[1]), -torch.inf)
    if margin is not None:
        excess = torch.full_like(closest, -torch.inf)
        excess.scatter_reduce_(0, index, similarity - own, reduce="amax")
    closest.scatter_reduce_(0, index, similarity, reduce="amax")
    return closest if margin is None else closest.masked_fill(excess > margin, -torch.inf)


def _equally_described(
    captions: Int[Tensor, "some"],
    first: int,
    image_of_caption: Int[Tensor, "captions"],
    caption_keys: Int[Tensor, "captions"],
) -> tuple[Int[Tensor, "found"], Int[Tensor, "found"]]:
    """Pairs of images with an equal caption: a row of the chunk from `first` on, and any image."""
    others = torch.isin(caption_keys, caption_keys[captions]).nonzero().squeeze(1)
    equal: Bool[Tensor, "some others"] = caption_keys[captions, None] == caption_keys[others]
    here, there = equal.nonzero(as_tuple=True)
    return image_of_caption[captions[here]] - first, image_of_caption[others[there]]


def _hardest(closest: Float[Tensor, "rows candidates"], count: int) -> Int[Tensor, "rows count"]:
    best = closest.topk(count, dim=1)
    if (left := int(best.values.isfinite().sum(dim=1).min())) < count:
        raise EdjeError(
            f"an image has {left} similar images that are not likely false negatives, but {count} "
            "are to be mined. Raise loader.mined_margin or lower loader.mined_pool."
        )
    return best.indices
