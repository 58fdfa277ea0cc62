"""Where and in which number format a reranker computes, of what is asked for and what is there."""

import logging

import torch

from edje.errors import EdjeError
from edje.inference.cpu import has_bf16_instructions, has_int8_products
from edje.inference.scorer import PRECISIONS

log = logging.getLogger(__name__)


def device_of(asked: str | torch.device | None) -> torch.device:
    """The device asked for; by default CUDA's, where there is one, else the CPU.

    Raises:
        EdjeError: there is no such device.
    """
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # of any backend
        said = str(error).strip().partition("\n")[0]
        raise EdjeError(f"device={asked}: is not to be had here ({said}). Take cpu.") from error
    return device


def precision_of(
    asked: str | torch.dtype | None, of_run: torch.dtype, device: torch.device
) -> torch.dtype:
    """The number format asked for, by default the run's; bf16 where that was int8 and can't be.

    Raises:
        EdjeError: there is no such format, or the device has no products in it.
    """
    computes_int8 = device.type == "cpu" and has_int8_products()
    if asked is None:
        if of_run == torch.int8 and not computes_int8:
            log.info("its run scored in int8, which %s has no products for: bf16", device.type)
            return torch.bfloat16
        return of_run
    found = asked if isinstance(asked, torch.dtype) else PRECISIONS.get(asked)
    if found not in PRECISIONS.values():
        raise EdjeError(f"precision={asked}: expected one of {', '.join(PRECISIONS)}.")
    if found == torch.int8 and not computes_int8:
        raise EdjeError(
            f"precision={asked}: needs a CPU that computes exact products of int8 (with VNNI), "
            f"which this {device.type} isn't. Take bf16."
        )
    assert found is not None
    return found


def has_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 have instructions of their own on this device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return has_bf16_instructions()
