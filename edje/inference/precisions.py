"""The device and number format of a reranker, from the request and what the machine supports."""

import logging

import torch

from edje.errors import EdjeError
from edje.inference.cpu import has_bf16_instructions, has_int8_products
from edje.inference.scorer import PRECISIONS

log = logging.getLogger(__name__)


def device_of(asked: str | torch.device | None) -> torch.device:
    """The requested device; by default a CUDA device if there is one, else the CPU.

    Raises:
        EdjeError: there is no such device.
    """
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # from any backend
        said = str(error).strip().partition("\n")[0]
        raise EdjeError(f"device={asked}: is not available here ({said}). Use cpu.") from error
    return device


def precision_of(
    asked: str | torch.dtype | None, of_run: torch.dtype, device: torch.device
) -> torch.dtype:
    """The requested number format, by default the run's; bf16 if that was int8 and isn't possible.

    Raises:
        EdjeError: there is no such format, or the device doesn't support it.
    """
    computes_int8 = device.type == "cpu" and has_int8_products()
    if asked is None:
        if of_run == torch.int8 and not computes_int8:
            log.info("its run scored in int8, which %s doesn't support here: bf16", device.type)
            return torch.bfloat16
        return of_run
    found = asked if isinstance(asked, torch.dtype) else PRECISIONS.get(asked)
    if found not in PRECISIONS.values():
        raise EdjeError(f"precision={asked}: expected one of {', '.join(PRECISIONS)}.")
    if found == torch.int8 and not computes_int8:
        raise EdjeError(
            f"precision={asked}: needs a CPU with exact int8 products (VNNI), and this "
            f"{device.type} has none. Use bf16."
        )
    assert found is not None
    return found


def has_bf16(device: torch.device) -> bool:
    """Whether this device has instructions for matrix products in bf16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return has_bf16_instructions()
