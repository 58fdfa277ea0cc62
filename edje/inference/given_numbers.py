"""Numbers that users hand over: arrays, lists, and tensors of any device and number format."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from edje.errors import EdjeError

Numbers = np.ndarray | Tensor | Sequence[Any]


def given_numbers(values: Numbers, what: str) -> Float32[np.ndarray, "..."]:
    """A user's array, list, or tensor of any device and number format, in float32.

    Raises:
        EdjeError: they aren't numbers.
    """
    if isinstance(values, Tensor):
        values = values.detach().to("cpu", torch.float32).numpy()
    try:
        return np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise EdjeError(
            f"{what}: got a {type(values).__name__} ({error}), expected numbers in an array, a "
            "list or a tensor."
        ) from error


def finite_numbers(values: Numbers, what: str) -> Float32[np.ndarray, "..."]:
    """`given_numbers` that are all finite.

    Raises:
        EdjeError: also if one isn't.
    """
    found = given_numbers(values, what)
    if not np.isfinite(found).all():
        raise EdjeError(f"{what}: some of the numbers are not finite. Compute them again.")
    return found


def number_per(count: int, values: Numbers, what: str) -> Float32[Tensor, "count"]:
    """Finite numbers as a tensor on the CPU, one for each of so many.

    Raises:
        EdjeError: also if there are more or fewer.
    """
    found = torch.tensor(finite_numbers(values, what))
    if found.shape != (count,):
        raise EdjeError(
            f"{what}: got numbers of shape {tuple(found.shape)}, expected {count}, one for each."
        )
    return found
