"""Pinned host memory, from which a GPU copies asynchronously on its own stream."""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

IN_FLIGHT = 2  # batches that are copied or scored at once


class PinnedRing:
    """Two buffers of pinned memory used in turn: one is copied to the GPU, the next is filled.

    The buffers are reused, because pinning memory takes longer than copying it. Call `launched`
    once all work on a batch is launched. At most `IN_FLIGHT` batches are in progress, so memory
    is bounded by the batch size.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.copies: Any = torch.cuda.Stream(device)
        self.parts: deque[tuple[Tensor, Any]] = deque(maxlen=IN_FLIGHT)
        self.given: deque[Any] = deque()

    def moved(
        self, shape: tuple[int, ...], dtype: torch.dtype, fill: Callable[[Tensor], object]
    ) -> Tensor:
        """What `fill` writes to a tensor of this shape, copied to the device without blocking it.

        Blocks until the buffer that is refilled has been copied, and the batch before the last
        one has been scored.
        """
        while (scored := _oldest(self.given)) is not None:
            scored.synchronize()
        size = torch.Size(shape).numel() * dtype.itemsize
        memory, copied = self._part(size)
        part = memory[:size].view(dtype).view(shape)
        fill(part)
        with torch.cuda.stream(self.copies):
            there = torch.empty_like(part, device=self.device).copy_(part, non_blocking=True)
            copied.record(self.copies)
        self.parts.append((memory, copied))
        scoring = torch.cuda.current_stream(self.device)
        scoring.wait_stream(self.copies)
        there.record_stream(scoring)  # its memory is reused only once that stream is done
        return there

    def launched(self) -> None:
        """Note that all work that reads the last batch has been launched."""
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        self.given.append(event)

    def _part(self, size: int) -> tuple[Tensor, Any]:
        """Memory of at least `size` bytes from which no copy is in progress."""
        if (oldest := _oldest(self.parts)) is not None:
            memory, copied = oldest
            copied.synchronize()
            if len(memory) >= size:
                return memory, copied
        return pinned(1 << (size - 1).bit_length() if size else 1), torch.cuda.Event()


def _oldest(queue: deque[Any]) -> Any:
    """Remove and return the first item of a full queue, else None; safe to call from threads."""
    try:
        return queue.popleft() if len(queue) >= IN_FLIGHT else None
    except IndexError:  # another thread took it
        return None


def pinned(size: int) -> Tensor:
    """Pinned memory of `size` bytes."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor moved to a device; to a GPU through pinned memory, without blocking."""
    if device.type == "cuda" and tensor.device.type == "cpu" and tensor.numel():
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
