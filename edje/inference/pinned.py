"""Host memory that a GPU copies from by itself, on a stream of its own."""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

IN_FLIGHT = 2  # batches that are moved or scored at once


class PinnedRing:
    """Two parts of pinned memory in turns: while one is copied to the GPU the next is filled.

    They are kept and used again, as pinning memory takes longer than copying it. `launched` tells
    when a batch has been given all of its work. No more than `IN_FLIGHT` are on the way, so memory
    is bounded by the batch.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.copies: Any = torch.cuda.Stream(device)
        self.parts: deque[tuple[Tensor, Any]] = deque(maxlen=IN_FLIGHT)
        self.given: deque[Any] = deque()

    def moved(
        self, shape: tuple[int, ...], dtype: torch.dtype, fill: Callable[[Tensor], object]
    ) -> Tensor:
        """What `fill` writes to a tensor of this shape, on the device; nothing waits for it there.

        Waits until the part that it is written to has been copied, and the batch before the last
        has been scored.
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
        there.record_stream(scoring)  # its memory is free for other use when that stream is done
        return there

    def launched(self) -> None:
        """All that reads the last batch has been launched."""
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        self.given.append(event)

    def _part(self, size: int) -> tuple[Tensor, Any]:
        """Memory of at least so many bytes that nothing is copied from any more."""
        if (oldest := _oldest(self.parts)) is not None:
            memory, copied = oldest
            copied.synchronize()
            if len(memory) >= size:
                return memory, copied
        return pinned(1 << (size - 1).bit_length() if size else 1), torch.cuda.Event()


def _oldest(queue: deque[Any]) -> Any:
    """The first of a full queue, taken out; None of another. Threads may call it at once."""
    try:
        return queue.popleft() if len(queue) >= IN_FLIGHT else None
    except IndexError:  # another thread took it
        return None


def pinned(size: int) -> Tensor:
    """Bytes that stay where they are."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor on a device, to a GPU through pinned memory; neither side waits."""
    if device.type == "cuda" and tensor.device.type == "cpu" and tensor.numel():
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
