"""All private parts of torch that edje uses; each kernel is tested before its first use.

The kernels are oneDNN's, as torch's own compiler calls them. A new version of torch may change or
remove them. If a test finds one missing, changed or wrong, it isn't used and the log says so; the
plain layers give the same scores, slower. Nothing else in edje touches a private part.
"""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edje.errors import first_line

log = logging.getLogger(__name__)
LARGEST_CODE = 127  # of signed codes
LARGEST_UNSIGNED = 255
TRIED_SIZE = 64  # rows, inputs and outputs of the products that are tried
MISSING = (AttributeError, TypeError, ValueError, RuntimeError)  # missing, or other arguments
Output = tuple[float, int, torch.dtype]  # scale, zero point and number format


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN can use its own weight layout: float32, or bf16 with hardware support."""
    if not torch.backends.mkldnn.is_available() or dtype not in (torch.float32, torch.bfloat16):
        return False
    return _works(f"packed linear layers in {dtype}", lambda: _packs_rightly(dtype))


def pack(weight: Tensor) -> Tensor:
    """Weights of a linear layer, (outputs, inputs), in oneDNN's layout."""
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def packed_linear(states: Tensor, packed: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    """A linear layer with packed weights, followed by an exact GELU if `gelu`."""
    after = "gelu" if gelu else "none"
    return torch.ops.mkldnn._linear_pointwise(states.contiguous(), packed, bias, after, [], "none")


@cache
def has_int8_products() -> bool:
    """Whether torch has oneDNN's int8 linear layer and this processor computes it exactly.

    Without the instructions for it (VNNI), oneDNN may add pairs of products in 16 bits, where
    large ones saturate.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    return _works("linear layers in int8", _multiplies_int8_exactly)


def pack_int8(codes: Tensor) -> Tensor:
    """Weights of a linear layer as signed codes, (outputs, inputs), in oneDNN's layout."""
    return torch.ops.onednn.qlinear_prepack(codes, None)


def int8_linear(
    codes: Tensor,
    scale: float,
    zero: int,
    packed: Tensor,
    weight_scale: Tensor,
    weight_zero: Tensor,
    bias: Tensor,
    output: Output,
    gelu: bool,
) -> Tensor:
    """A linear layer of unsigned codes with packed weights, activated; format as in `output`."""
    return torch.ops.onednn.qlinear_pointwise(
        codes,
        scale,
        zero,
        packed,
        weight_scale,
        weight_zero,
        bias,
        *output,
        "gelu" if gelu else "none",
        [],
        "none",
    )


@cache
def has_bf16_instructions() -> bool:
    """Whether this processor has AVX-512's products in bf16, and torch uses AVX-512."""
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    return _works(
        "query for bf16 instructions",
        lambda: bool(torch.cpu._is_avx512_bf16_supported()),
    )


@cache
def has_tiles() -> bool:
    """Whether this processor has tiles (AMX) for products in bf16, and torch uses them."""
    return _works("query for tiles", lambda: bool(torch.cpu._is_amx_tile_supported()))


def packed_products() -> list[Any]:
    """The operators that are matrix products, for counting floating-point operations."""
    found = (
        getattr(torch.ops.mkldnn, "_linear_pointwise", None),
        getattr(torch.ops.onednn, "qlinear_pointwise", None),
    )
    return [operator for operator in found if operator is not None]


def stay_in_place(weights: Iterable[Tensor]) -> None:
    """Tell compiled functions that these inputs never move, so that a graph needn't copy them."""
    with suppress(*MISSING):
        for weight in weights:
            torch._dynamo.mark_static_address(weight, guard=False)


def _works(what: str, trial: Callable[[], bool]) -> bool:
    try:
        return trial()
    except MISSING as error:
        log.warning(
            "torch %s has no %s as edje knows them (%s): the slower plain version is used.",
            torch.__version__,
            what,
            first_line(error),
        )
        return False


def _packs_rightly(dtype: torch.dtype) -> bool:
    """Check with small whole numbers, whose sums are exact even in bf16, and their GELU."""
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    numbers = torch.arange(TRIED_SIZE**2, device="cpu").view(TRIED_SIZE, TRIED_SIZE)
    states, weight = (numbers % 3 - 1).to(dtype), (numbers % 5 - 2).to(dtype)
    bias = numbers[0].remainder(7).to(dtype)
    expected = F.linear(states.float(), weight.float(), bias.float())
    packed = pack(weight)
    plain, activated = (packed_linear(states, packed, bias, gelu) for gelu in (False, True))
    near = 1e-5 if dtype == torch.float32 else 0.01
    if torch.equal(plain.float(), expected) and torch.allclose(
        activated.float(), F.gelu(expected), rtol=near, atol=near
    ):
        return True
    raise ValueError("they give other results")


def _multiplies_int8_exactly() -> bool:
    """Check the largest sum that codes can make."""
    size = TRIED_SIZE
    found = int8_linear(
        torch.full((size, size), LARGEST_UNSIGNED, dtype=torch.uint8, device="cpu"),
        1.0,
        0,
        pack_int8(torch.full((size, size), LARGEST_CODE, dtype=torch.int8, device="cpu")),
        torch.ones(size, device="cpu"),
        torch.zeros(size, dtype=torch.long, device="cpu"),
        torch.zeros(size, device="cpu"),
        (1.0, 0, torch.float32),
        gelu=False,
    )
    return bool((found == float(size * LARGEST_CODE * LARGEST_UNSIGNED)).all())
