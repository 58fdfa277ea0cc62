"""Visual tokens on their way to the encoder's device."""

from collections import deque
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

IN_FLIGHT = 2  # batches that are moved or scored at once


@runtime_checkable
class TokenReader(Protocol):
    """Reads visual tokens by row from where they are stored; a `TokenStore` is one."""

    @property
    def num_tokens(self) -> int:
        """Tokens per image."""
        ...

    def __len__(self) -> int:
        """Images."""
        ...

    def read(
        self, rows: Int[Tensor, "rows"], *, dtype: torch.dtype, device: torch.device | str
    ) -> Float[Tensor, "rows tokens width"]:
        """Tokens of the rows, unpacked on the device."""
        ...


VisualTokens = Tensor | TokenReader


class Transfer:
    """Gathers batches of visual tokens and moves them to a device.

    From host memory to a GPU they go through pinned memory on a stream of their own, so that one
    batch is copied while the one before is scored; `scored` tells when a batch has been given all
    of its work. No more than `IN_FLIGHT` are on the way, so memory is bounded by the batch.
    """

    def __init__(self, visual: VisualTokens, device: torch.device):
        self.visual = visual
        self.device = device
        on_host = isinstance(visual, Tensor) and visual.device.type == "cpu"
        self.is_pinned = device.type == "cuda" and on_host
        self.copies: Any = torch.cuda.Stream(device) if self.is_pinned else None
        self.given: deque[Any] = deque()

    @property
    def num_tokens(self) -> int:
        """Visual tokens per image."""
        here = self.visual
        return here.shape[1] if isinstance(here, Tensor) else here.num_tokens

    def gather(self, images: Int[Tensor, "pairs"]) -> Float[Tensor, "pairs tokens width"]:
        """Visual tokens of the images, on the device."""
        if not isinstance(self.visual, Tensor):
            return self.visual.read(images, dtype=torch.float32, device=self.device)
        if not self.is_pinned:
            return self.visual[images.to(self.visual.device)].to(self.device)
        while len(self.given) >= IN_FLIGHT:
            self.given.popleft().synchronize()
        shape = (len(images), *self.visual.shape[1:])
        pinned = torch.empty(shape, dtype=self.visual.dtype, pin_memory=True)
        torch.index_select(self.visual, 0, images, out=pinned)
        with torch.cuda.stream(self.copies):
            moved = pinned.to(self.device, non_blocking=True)
        scoring = torch.cuda.current_stream(self.device)
        scoring.wait_stream(self.copies)
        moved.record_stream(scoring)  # its memory is free for other use when that stream is done
        return moved

    def scored(self) -> None:
        """All that reads the last gathered batch has been launched."""
        if self.is_pinned:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self.device))
            self.given.append(event)
