"""Random numbers that are a function of their keys, so that no generator state must be kept.

A draw depends only on (seed, step, sample id, position), not on the batch's neighbours, the number
of ranks or workers, or where a run was interrupted.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer (splitmix64, Steele 2014)
_FIRST = -4658895280553007687  # 0xBF58476D1CE4E5B9
_SECOND = -7723592293110705685  # 0x94D049BB133111EB


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift of 64-bit integers (torch's own keeps the sign)."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    """The finaliser of splitmix64: every input bit reaches every output bit."""
    value = (value ^ _shift(value, 30)) * _FIRST
    value = (value ^ _shift(value, 27)) * _SECOND
    return value ^ _shift(value, 31)


def _between_0_and_1(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The highest bits as a fraction, as many as the type holds, so that it stays below 1."""
    bits = 24 if dtype == torch.float32 else 53
    return _shift(value, 64 - bits).to(dtype) / (1 << bits)


def uniform(*keys: int | Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Uniform numbers in [0, 1), one per broadcast combination of the keys.

    They are float64; on Apple's GPUs (mps), which have none, the same cut to float32.
    """
    state: Tensor = torch.zeros((), dtype=torch.long)
    for key in keys:
        key = torch.as_tensor(key, dtype=torch.long)
        # A CPU scalar combines with tensors on any device; copying it there would block.
        state = _mix(state + _GOLDEN + _mix(key))
    return _between_0_and_1(state, torch.float32 if state.device.type == "mps" else torch.float64)


def fraction(*keys: int) -> float:
    """One number in [0, 1), drawn on the CPU."""
    return uniform(*keys).item()


def integer(*keys: int) -> int:
    """One non-negative integer below 2**53, for seeding a generator."""
    return int(fraction(*keys) * (1 << 53))
