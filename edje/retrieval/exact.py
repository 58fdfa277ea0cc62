"""How float32 is computed; similarities in full float32, whatever a run allows its training."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

SIMILARITY_BYTES = 64 << 20  # of similarities at a time, in float32


@contextmanager
def float32_as(precision: Literal["ieee", "tf32"], *backends: Any) -> Iterator[None]:
    """Let backends of torch, such as `torch.backends.cuda.matmul`, compute float32 in a format."""
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = precision
    try:
        yield
    finally:
        for backend, own in zip(backends, before, strict=True):
            backend.fp32_precision = own


def exact_products() -> AbstractContextManager[None]:
    """Matrix products of float32 are computed in it, not in TF32: neighbours lie close together."""
    mkldnn: Any = torch.backends.mkldnn
    return float32_as("ieee", torch.backends.cuda.matmul, mkldnn.matmul)


def products_in(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Matrix products and convolutions of float32 on a GPU: exact where `precision` is fp32.

    Else they are TF32's. torch's own setting has exact products but convolutions in TF32, so that
    of one tower a part would be rounded. Other devices are left as they are; autocast is the
    caller's.
    """
    if device.type != "cuda":
        return nullcontext()
    cudnn: Any = torch.backends.cudnn
    own: Literal["ieee", "tf32"] = "ieee" if precision == "fp32" else "tf32"
    return float32_as(own, torch.backends.cuda.matmul, cudnn.conv)


def similarities(
    queries: Float[Tensor, "queries embedding"], gallery: Float[Tensor, "gallery embedding"]
) -> Float[Tensor, "queries gallery"]:
    """Dot products in float32, within autocast too."""
    with exact_products(), torch.autocast(queries.device.type, enabled=False):
        return queries.float() @ gallery.float().T
