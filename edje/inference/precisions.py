"""The device and number format of a reranker, from the request and what the machine supports."""

import logging
from functools import cache

import torch

from edje.errors import EdjeError, first_line
from edje.inference.cpu import has_bf16_instructions, has_int8_products

log = logging.getLogger(__name__)
PRECISIONS = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
}
NAMES = {dtype: name for name, dtype in PRECISIONS.items()}


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
        said = first_line(error)
        raise EdjeError(f"device={asked}: is not available here ({said}). Use cpu.") from error
    return device


def precision_of(
    asked: str | torch.dtype | None, of_run: torch.dtype, device: torch.device
) -> torch.dtype:
    """The requested number format, by default the run's; bf16 if that was int8 and isn't possible.

    float32 replaces bf16 if the device has no instructions for bf16: it is more exact and faster.

    Raises:
        EdjeError: there is no such format, or the device doesn't support it.
    """
    computes_int8 = device.type == "cpu" and has_int8_products()
    wanted = of_run if asked is None else asked
    if asked is None and of_run == torch.int8 and not computes_int8:
        log.info("its run scored in int8, which %s doesn't support here: bf16", device.type)
        wanted = torch.bfloat16
    found = wanted if isinstance(wanted, torch.dtype) else PRECISIONS.get(str(wanted))
    if found not in PRECISIONS.values():
        same = [name for name, dtype in PRECISIONS.items() if str(dtype) == f"torch.{asked}"]
        hint = f" Write {same[0]}." if same else ""
        raise EdjeError(f"precision={asked}: expected one of {', '.join(PRECISIONS)}.{hint}")
    if found == torch.int8 and not computes_int8:
        raise EdjeError(
            f"precision={asked}: needs a CPU with exact int8 products (VNNI), and this "
            f"{device.type} has none. Use bf16."
        )
    if found == torch.bfloat16 and not has_bf16(device):
        _say_fp32(device)
        return torch.float32
    assert found is not None
    return found


@cache  # a training scores on dev many times
def _say_fp32(device: torch.device) -> None:
    log.info(
        "precision bf16: this %s has no instructions for it, so fp32 is used, which is faster",
        device.type,
    )


def fast_bf16(device: torch.device) -> torch.dtype:
    """bf16 if the device has instructions for it, else float32."""
    return torch.bfloat16 if has_bf16(device) else torch.float32


def has_bf16(device: torch.device) -> bool:
    """Whether this device has instructions for matrix products in bf16."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return has_bf16_instructions()
