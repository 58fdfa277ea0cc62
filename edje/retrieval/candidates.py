"""The first stage: every query's best candidates under the dual encoder, in both directions."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from edje.errors import EdjeError
from edje.records import CandidateList, Direction
from edje.retrieval.exact import SIMILARITY_BYTES, similarities

FIRST_POOLS = 16  # size of the gallery's first block, in pools
_SCORE_BITS, _LARGEST_ROW = 32, 2**31 - 1


def candidate_lists(
    image_embeddings: Float[Tensor, "images embedding"],
    text_embeddings: Float[Tensor, "captions embedding"],
    image_of_caption: Int[Tensor, "captions"],
    direction: Direction,
    k: int,
    *,
    queries: Int[Tensor, "some"] | None = None,
    chunk: int = 1024,
    block: int | None = None,
) -> CandidateList:
    """The `k` best images of each caption (t2i) or the `k` best captions of each image (i2t).

    `image_of_caption` holds each caption's row in the images; it alone says what is relevant.
    With `queries` (rows of the captions for t2i, of the images for i2t), only their lists.
    """
    images = torch.arange(len(image_embeddings), device=image_of_caption.device)
    if direction == "t2i":
        sides, groups = (text_embeddings, image_embeddings), (image_of_caption, images)
    else:
        sides, groups = (image_embeddings, text_embeddings), (images, image_of_caption)
    asked = slice(None) if queries is None else queries
    return first_stage_candidates(
        sides[0][asked],
        sides[1],
        groups[0][asked],
        groups[1],
        direction,
        k,
        chunk=chunk,
        block=block,
    )


def first_stage_candidates(
    queries: Float[Tensor, "queries embedding"],
    gallery: Float[Tensor, "gallery embedding"],
    image_of_query: Int[Tensor, "queries"],
    image_of_candidate: Int[Tensor, "gallery"],
    direction: Direction,
    k: int,
    *,
    chunk: int = 1024,
    block: int | None = None,
) -> CandidateList:
    """The `k` candidates with the highest dot product for each query, best first, in float32.

    A candidate is relevant when its image is the query's. The pool is min(k, gallery) wide.
    Among equal scores the relevant candidate comes last, also for the cut at the list's end. So a
    tie is never won by index order, and the rank of a listed relevant item is its rank in the
    whole gallery. Among the irrelevant ones, and among the relevant ones, the lower row comes
    first.

    `chunk` queries are compared with `block` rows of the gallery at a time; by default a block
    makes 64 MB of similarities, so memory doesn't grow with the gallery. On a GPU the products are
    in full float32.

    Raises:
        EdjeError: `k` is below 1, the gallery is empty, or a similarity is not finite.
    """
    pool = min(k, len(gallery))
    if pool < 1:
        raise EdjeError(
            f"The first stage ({direction}) needs at least one candidate per query: "
            f"got k={k} and a gallery of {len(gallery)}. Raise the number of candidates "
            "or check the split."
        )
    block = block or max(SIMILARITY_BYTES // (4 * chunk), 1)
    best = [
        _best(rows, groups, gallery, image_of_candidate, pool, block, direction)
        for rows, groups in zip(queries.split(chunk), image_of_query.split(chunk), strict=True)
    ]
    images = 1 + int(torch.cat([image_of_query, image_of_candidate]).max())
    num_relevant = torch.bincount(image_of_candidate, minlength=images)[image_of_query]
    return CandidateList(direction, *_taken_apart(torch.cat(best)), num_relevant)


def _best(
    queries: Float[Tensor, "queries embedding"],
    image_of_query: Int[Tensor, "queries"],
    gallery: Float[Tensor, "gallery embedding"],
    image_of_candidate: Int[Tensor, "gallery"],
    pool: int,
    block: int,
    direction: Direction,
) -> Int64[Tensor, "queries pool"]:
    """Keys of the `pool` best candidates, best first.

    Once there are `pool` of them, only rows that reach the lowest of them are considered: one
    comparison per similarity, and keys only for a few.
    """
    best = queries.new_empty((len(queries), 0), dtype=torch.int64)
    bad = queries.new_zeros(len(queries), dtype=torch.bool)
    for first, last in _blocks(len(gallery), pool, block):
        images = image_of_candidate[first:last]
        similarity = similarities(queries, gallery[first:last])
        bad |= ~similarity.isfinite().all(dim=1)
        rows = torch.arange(first, last, device=similarity.device)
        if best.shape[1] < pool:
            found = _keys(similarity, image_of_query[:, None] == images, rows)
        else:
            least = _scores(best[:, -1:])
            query, row = (similarity >= least).nonzero(as_tuple=True)
            relevant = image_of_query[query] == images[row]
            keys = _keys(similarity[query, row], relevant, rows[row])
            found = _side_by_side(keys, query, len(queries))
        best = torch.cat([best, found], dim=1)
        best = best.topk(min(pool, best.shape[1]), dim=1).values
    if bad.any():
        raise EdjeError(
            f"The first stage ({direction}) gave similarities that are not finite for "
            f"{int(bad.sum())} of {len(queries)} queries. Check the backbone's weights, or cache "
            "again in float32."
        )
    return best


def _blocks(gallery: int, pool: int, block: int) -> Iterator[tuple[int, int]]:
    """First and last rows of the gallery's blocks; the first block is small and fills the pool."""
    first = 0
    while first < gallery:
        last = min(first + (block if first else min(block, FIRST_POOLS * pool)), gallery)
        yield first, last
        first = last


def _side_by_side(
    keys: Int64[Tensor, "found"], query: Int64[Tensor, "found"], queries: int
) -> Int64[Tensor, "queries most"]:
    """Keys of each query in its own row, followed by padding keys below all others."""
    counts = torch.bincount(query, minlength=queries)
    place = torch.arange(len(keys), device=keys.device) - (counts.cumsum(0) - counts)[query]
    most = int(counts.max()) if queries else 0
    table = keys.new_full((queries, most), torch.iinfo(torch.int64).min)
    table[query, place] = keys
    return table


def _keys(
    similarity: Float[Tensor, "*some"], relevant: Bool[Tensor, "*some"], row: Int64[Tensor, "..."]
) -> Int64[Tensor, "*some"]:
    """Integers in the order of the candidates; no two of a query are equal.

    From the highest bit: the score, 1 if the candidate is not relevant, and its row in the
    gallery, reversed. So the best of several blocks are the best of all, however a device breaks
    ties.
    """
    bits = (similarity + 0.0).view(torch.int32)  # −0 is 0
    keys = _ordered(bits).long()
    keys <<= 1
    keys |= ~relevant
    keys <<= _SCORE_BITS - 1
    keys |= _LARGEST_ROW - row
    return keys


def _taken_apart(
    keys: Int64[Tensor, "queries pool"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates, scores and relevance, decoded from the keys."""
    candidates = _LARGEST_ROW - (keys & _LARGEST_ROW)
    return candidates, _scores(keys), (keys >> (_SCORE_BITS - 1)) & 1 == 0


def _scores(keys: Int64[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The scores, decoded from the keys."""
    return _ordered((keys >> _SCORE_BITS).int()).view(torch.float32)


def _ordered(bits: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """The bits of floats as integers of the same order; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
