"""Similarities in full float32, whatever a run allows its training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

SIMILARITY_BYTES = 64 << 20  # of similarities at a time, in float32


@contextmanager
def exact_products() -> Iterator[None]:
    """Matrix products of float32 are computed in it, not in TF32: neighbours lie close together."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def similarities(
    queries: Float[Tensor, "queries embedding"], gallery: Float[Tensor, "gallery embedding"]
) -> Float[Tensor, "queries gallery"]:
    """Dot products in float32, within autocast too."""
    with exact_products(), torch.autocast(queries.device.type, enabled=False):
        return queries.float() @ gallery.float().T
