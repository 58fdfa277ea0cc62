"""A linear layer in int8, on a CPU.

Weights have a scale per output. Inputs have fixed scales, found on examples, so that a pair's
score never depends on its neighbours. A factor per input channel moves a part of its spread into
the weights (SmoothQuant, Xiao et al., 2023, with equal parts for both).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from edje.inference.cpu import operators
from edje.inference.cpu.dense import Dense, is_exact_gelu
from edje.inference.cpu.operators import LARGEST_CODE, LARGEST_UNSIGNED, Output

SMALLEST = 1e-5  # of a channel's factor: a channel that is 0 on all examples may not stay 0
MIDDLE = 128  # of unsigned codes; oneDNN has no fast kernels for signed inputs


class Recorder:
    """A product that records the range of each input channel."""

    def __init__(self, dense: Dense):
        self.dense = dense
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def __call__(self, states: Tensor) -> Tensor:
        """The product itself."""
        rows = states.flatten(0, -2).float()
        low, high = rows.amin(dim=0), rows.amax(dim=0)
        self.low = low if self.low is None else self.low.minimum(low)
        self.high = high if self.high is None else self.high.maximum(high)
        return self.dense(states)


class Int8Dense:
    """A linear layer with weights in int8; its input is bf16, or int8 from the product before."""

    def __init__(self, seen: Recorder, smooth: bool):
        dense = seen.dense
        assert seen.low is not None and seen.high is not None
        self.activation, self.fuses = dense.activation, is_exact_gelu(dense.activation)
        weight = torch.cat([linear.weight.detach().float() for linear in dense.linears])
        self.bias = torch.cat([linear.bias.detach().float() for linear in dense.linears])
        factor = torch.ones(weight.shape[1])
        if smooth:
            spread = seen.high.maximum(-seen.low)
            factor = (spread / weight.abs().amax(dim=0).clamp_min(SMALLEST)).sqrt()
            factor = factor.clamp_min(SMALLEST)
        low = min(float((seen.low / factor).min()), 0.0)
        high = max(float((seen.high / factor).max()), 0.0)
        if smooth:  # codes from -127 to 127, shifted to the middle of the unsigned range
            self.scale = max(-low, high, SMALLEST) / LARGEST_CODE
            self.zero = MIDDLE
        else:  # codes from 0 to 255, because an activation's output isn't symmetric
            self.scale = max(high - low, SMALLEST) / LARGEST_UNSIGNED
            self.zero = round(-low / self.scale)
        self.to_codes = (1 / (factor * self.scale)).to(torch.bfloat16)
        weight = weight * factor
        self.weight_scale = weight.abs().amax(dim=1).clamp_min(SMALLEST) / LARGEST_CODE
        codes = (weight / self.weight_scale[:, None]).round().to(torch.int8)
        self.weight = operators.pack_int8(codes)
        self.weight_zero = torch.zeros(len(codes), dtype=torch.long)
        self.output: Output = (1.0, 0, torch.bfloat16)

    def feeds(self, following: "Int8Dense") -> None:
        """Output the codes that the following product reads."""
        self.output = (following.scale, following.zero, torch.uint8)

    def __call__(self, states: Tensor) -> Tensor:
        """The layer's outputs, activated."""
        hidden = operators.int8_linear(
            states if states.dtype == torch.uint8 else self._codes(states),
            self.scale,
            self.zero,
            self.weight,
            self.weight_scale,
            self.weight_zero,
            self.bias,
            self.output,
            self.fuses,
        )
        return hidden if self.activation is None or self.fuses else self.activation(hidden)

    def _codes(self, states: Tensor) -> Tensor:
        """Unsigned codes of bf16 inputs; bf16 represents integers up to 256 exactly."""
        scaled = (states * self.to_codes).round_()
        if self.zero == MIDDLE:
            signed = scaled.clamp_(-LARGEST_CODE, LARGEST_CODE).to(torch.int8)
            return signed.view(torch.uint8).bitwise_xor_(MIDDLE)  # plus 128, a byte at a time
        return (scaled + self.zero).clamp_(0, LARGEST_UNSIGNED).to(torch.uint8)


def int8_product(rows: int, inputs: int, outputs: int) -> Callable[[], Tensor]:
    """A product alone, codes in and codes out: the upper bound of a processor's int8 speed."""
    codes = torch.full((rows, inputs), MIDDLE, dtype=torch.uint8)
    packed = operators.pack_int8(torch.ones(outputs, inputs, dtype=torch.int8))
    scale, zero, bias = torch.ones(outputs), torch.zeros(outputs).long(), torch.zeros(outputs)
    output = (1.0, MIDDLE, torch.uint8)
    return lambda: operators.int8_linear(
        codes, 1.0, MIDDLE, packed, scale, zero, bias, output, gelu=False
    )
