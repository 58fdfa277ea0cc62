"""How float32 is computed; similarities in full float32, whatever a run's training uses."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

SIMILARITY_BYTES = 64 << 20  # of float32 similarities at a time


@contextmanager
def float32_as(precision: Literal["ieee", "tf32"], *backends: Any) -> Iterator[None]:
    """Set the float32 precision of torch backends, such as `torch.backends.cuda.matmul`."""
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = precision
    try:
        yield
    finally:
        for backend, own in zip(backends, before, strict=True):
            backend.fp32_precision = own


def exact_products() -> AbstractContextManager[None]:
    """Compute float32 matrix products exactly, not in TF32, because scores lie close together."""
    mkldnn: Any = torch.backends.mkldnn
    return float32_as("ieee", torch.backends.cuda.matmul, mkldnn.matmul)


def products_in(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Matrix products and convolutions of float32 on a GPU: exact if `precision` is fp32.

    Otherwise both use TF32. By default torch computes exact products but convolutions in TF32, so
    only a part of a tower would be rounded. Other devices are left as they are; autocast is up to
    the caller.
    """
    if device.type != "cuda":
        return nullcontext()
    cudnn: Any = torch.backends.cudnn
    own: Literal["ieee", "tf32"] = "ieee" if precision == "fp32" else "tf32"
    return float32_as(own, torch.backends.cuda.matmul, cudnn.conv)


@contextmanager
def own_arithmetic() -> Iterator[None]:
    """Compute as in a program of its own: without the caller's autocast, with torch's defaults.

    These are float32 and the CPU for new tensors. Where nothing differs, nothing is set.
    """
    default = torch.get_default_dtype()
    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if default != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, default)
        yield


def similarities(
    queries: Float[Tensor, "queries embedding"], gallery: Float[Tensor, "gallery embedding"]
) -> Float[Tensor, "queries gallery"]:
    """Dot products in float32, also within autocast."""
    with exact_products(), torch.autocast(queries.device.type, enabled=False):
        return queries.float() @ gallery.float().T
