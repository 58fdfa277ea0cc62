"""The first stage: every query's best candidates under the dual encoder, both directions."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edje.errors import EdjeError
from edje.records import CandidateList, Direction


def candidate_lists(
    image_embeddings: Float[Tensor, "images embedding"],
    text_embeddings: Float[Tensor, "captions embedding"],
    image_of_caption: Int[Tensor, "captions"],
    direction: Direction,
    k: int,
    *,
    chunk: int = 1024,
) -> CandidateList:
    """The `k` best images of each caption (t2i) or the `k` best captions of each image (i2t).

    `image_of_caption` holds each caption's row in the images: it alone says what is relevant.
    """
    images = torch.arange(len(image_embeddings), device=image_of_caption.device)
    if direction == "t2i":
        sides = text_embeddings, image_embeddings, image_of_caption, images
    else:
        sides = image_embeddings, text_embeddings, images, image_of_caption
    return first_stage_candidates(*sides, direction, k, chunk=chunk)


def first_stage_candidates(
    queries: Float[Tensor, "queries embedding"],
    gallery: Float[Tensor, "gallery embedding"],
    image_of_query: Int[Tensor, "queries"],
    image_of_candidate: Int[Tensor, "gallery"],
    direction: Direction,
    k: int,
    *,
    chunk: int = 1024,
) -> CandidateList:
    """The `k` candidates of highest dot product for each query, best first, in float32.

    A candidate is relevant when its image is the query's. The pool is min(k, gallery) wide.
    Among equal scores the relevant candidate comes last, inside the list and at its end: so a
    tie never wins by index order, and the rank of a listed relevant item is its rank in the
    whole gallery. `chunk` queries are compared with the gallery at a time.

    Raises:
        EdjeError: `k` is below 1, the gallery is empty, or a similarity is not finite.
    """
    pool = min(k, len(gallery))
    if pool < 1:
        raise EdjeError(
            f"The first stage ({direction}) needs at least one candidate per query: "
            f"got k={k} and a gallery of {len(gallery)}. Raise the number of candidates "
            "or look at the split."
        )
    gallery = gallery.float()
    parts = [
        _best(
            rows.float() @ gallery.T,
            groups[:, None] == image_of_candidate[None, :],
            pool,
            direction,
        )
        for rows, groups in zip(queries.split(chunk), image_of_query.split(chunk), strict=True)
    ]
    candidates, scores, relevant, num_relevant = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    return CandidateList(direction, candidates, scores, relevant, num_relevant)


def _best(
    similarity: Float[Tensor, "queries gallery"],
    relevant: Bool[Tensor, "queries gallery"],
    pool: int,
    direction: Direction,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Candidates, scores and relevance of the `pool` best, and the number of relevant items."""
    if not similarity.isfinite().all():
        bad = (~similarity.isfinite()).any(1).sum().item()
        raise EdjeError(
            f"The first stage ({direction}) gave similarities that are not finite for {bad} of "
            f"{len(similarity)} queries. Look at the backbone's weights, or cache again in float32."
        )
    # Doubles lie so densely between floats that one step down puts a relevant item behind its
    # equals and ahead of everything smaller.
    keys = similarity.double()
    below = torch.full_like(keys, -torch.inf)
    keys = torch.where(relevant, torch.nextafter(keys, below), keys)
    candidates = keys.topk(pool, dim=1).indices.sort(dim=1).values
    order = keys.gather(1, candidates).argsort(dim=1, descending=True, stable=True)
    candidates = candidates.gather(1, order)
    return (
        candidates,
        similarity.gather(1, candidates),
        relevant.gather(1, candidates),
        relevant.sum(1),
    )
