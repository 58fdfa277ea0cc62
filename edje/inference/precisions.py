"""The device and number format of a reranker, from the request and what the machine supports."""

import logging

import torch

from edje.errors import EdjeError
from edje.inference.cpu import has_bf16_instructions, has_int8_products

log = logging.getLogger(__name__)
AUTO = "auto"
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
        said = str(error).strip().partition("\n")[0]
        raise EdjeError(f"device={asked}: is not available here ({said}). Use cpu.") from error
    return device


def precision_of(
    asked: str | torch.dtype | None, of_run: torch.dtype | None, device: torch.device
) -> torch.dtype:
    """The requested number format; by default the run's, if the device has products in it.

    Args:
        asked: auto, a name of `PRECISIONS` or its type, or None for the run's.
        of_run: None for auto.

    Raises:
        EdjeError: there is no such format, or the device doesn't support it.
    """
    if asked == AUTO or (asked is None and of_run is None):
        return auto_precision(device)
    computes_int8 = device.type == "cpu" and has_int8_products()
    if asked is None:
        assert of_run is not None
        missing = {torch.int8: not computes_int8, torch.bfloat16: not has_bf16(device)}
        if not missing.get(of_run, False):
            return of_run
        chosen = auto_precision(device)
        log.info(
            "its run scored in %s, and this %s has no instructions for it: %s",
            NAMES[of_run],
            device.type,
            NAMES[chosen],
        )
        return chosen
    found = asked if isinstance(asked, torch.dtype) else PRECISIONS.get(asked)
    if found not in PRECISIONS.values():
        raise EdjeError(f"precision={asked}: expected one of auto, {', '.join(PRECISIONS)}.")
    assert found is not None
    if found == torch.int8 and not computes_int8:
        raise EdjeError(
            f"precision={asked}: needs a CPU with exact int8 products (VNNI), and this "
            f"{device.type} has none. Use auto."
        )
    if found == torch.bfloat16:
        warn_if_slow("precision=bf16", device)
    return found


def auto_precision(device: torch.device) -> torch.dtype:
    """bf16 if the device has instructions for it, else float32."""
    return torch.bfloat16 if has_bf16(device) else torch.float32


def warn_if_slow(asked: str, device: torch.device) -> None:
    """Log a warning about a request for bf16 if the device has no instructions for it."""
    if not has_bf16(device):
        log.warning(
            "%s: this %s has no instructions for products in bf16, so they are several times "
            "slower than in float32. Use auto.",
            asked,
            device.type,
        )


def has_bf16(device: torch.device) -> bool:
    """Whether this device has instructions for matrix products in bf16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return has_bf16_instructions()
