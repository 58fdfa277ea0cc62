"""Moving visual tokens to the encoder's device."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edje.inference.pinned import PinnedRing, sent
from edje.tokens.cells import CellReader


@runtime_checkable
class TokenReader(Protocol):
    """Reads stored visual tokens by row; a `TokenStore` is one."""

    @property
    def num_tokens(self) -> int:
        """Tokens per image."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def read(
        self, rows: Int[Tensor, "rows"], *, dtype: torch.dtype, device: torch.device | str
    ) -> Float[Tensor, "rows tokens width"]:
        """Tokens of the rows, unpacked on the device."""
        ...


VisualTokens = Tensor | TokenReader


class Transfer:
    """Gathers batches of visual tokens and moves them to a device.

    To a GPU they go through pinned memory, so that one batch is copied while the one before is
    scored. A tensor is copied as it is. A reader of cells (`TokenStore`, `TokenCells`) sends its
    stored bytes, which are unpacked on the GPU. Call `scored` once all work on a batch is launched.
    """

    def __init__(self, visual: VisualTokens, device: torch.device, ring: PinnedRing | None = None):
        self.visual = visual
        self.device = device
        self.ring = PinnedRing(device) if ring is None and device.type == "cuda" else ring
        on_host = isinstance(visual, Tensor) and visual.device.type == "cpu"
        self.is_pinned = self.ring is not None and (on_host or isinstance(visual, CellReader))

    def of(self, visual: VisualTokens) -> "Transfer":
        """A transfer of other tokens through the same pinned memory."""
        return Transfer(visual, self.device, self.ring)

    @property
    def num_tokens(self) -> int:
        """Visual tokens per image."""
        here = self.visual
        return here.shape[1] if isinstance(here, Tensor) else here.num_tokens

    def gather(self, images: Int[Tensor, "pairs"]) -> Float[Tensor, "pairs tokens width"]:
        """Visual tokens of the images on the device; `images` are rows, on the host."""
        visual, ring = self.visual, self.ring
        if ring is None or not self.is_pinned:
            if isinstance(visual, Tensor):
                return visual[sent(images, visual.device)].to(self.device)
            return visual.read(images, dtype=torch.float32, device=self.device)
        if isinstance(visual, Tensor):
            host = visual
            shape = (len(images), *host.shape[1:])
            return ring.moved(
                shape, host.dtype, lambda part: torch.index_select(host, 0, images, out=part)
            )
        assert isinstance(visual, CellReader)
        cells, rows = visual, images.numpy()
        packed = ring.moved(
            (len(images), cells.codec.cell_bytes),
            torch.uint8,
            lambda part: cells.read_cells(rows, part.numpy()),
        )
        return cells.codec.decode(packed, torch.float32, self.device)

    def scored(self) -> None:
        """Note that all work that reads the last gathered batch has been launched."""
        if self.ring is not None and self.is_pinned:
            self.ring.launched()
