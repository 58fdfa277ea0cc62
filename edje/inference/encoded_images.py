"""Encoded images: kept so that the same images can be ranked many times."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from edje.errors import EdjeError


class _SentAlone:
    """Sent to other processes without the rest of what a row or slice was taken from."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value.clone() for name, value in vars(self).items()}


@dataclass(frozen=True, eq=False)
class EncodedImage(_SentAlone):
    """One row of `EncodedImages`."""

    embedding: Float[Tensor, "embedding"]
    tokens: Float[Tensor, "tokens width"]


@dataclass(frozen=True, eq=False)
class EncodedImages(_SentAlone):
    """Images as a reranker reads them, in the order of the input.

    `embeddings` are the first stage's, L2-normalised, in float32. `tokens` are the visual tokens
    as a store would return them: rounded by the run's codec.

    >>> encoded = reranker.encode(paths)                                 # doctest: +SKIP
    >>> encoded[3].tokens.shape, len(encoded[10:20])                     # doctest: +SKIP
    (torch.Size([64, 384]), 10)
    """

    embeddings: Float[Tensor, "images embedding"]
    tokens: Float[Tensor, "images tokens width"]

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, Tensor):
                raise EdjeError(
                    f"EncodedImages: got a {type(value).__name__} as {name}, expected a tensor: "
                    "torch.from_numpy makes one of an array."
                )
        if len(self.embeddings) != len(self.tokens):
            raise EdjeError(
                f"EncodedImages: got {len(self.embeddings)} embeddings and {len(self.tokens)} "
                "images' tokens, expected one of each per image."
            )

    def __len__(self) -> int:
        return len(self.tokens)

    @overload
    def __getitem__(self, rows: int | np.integer) -> EncodedImage: ...
    @overload
    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray | Tensor) -> "EncodedImages": ...
    def __getitem__(
        self, rows: int | np.integer | slice | Sequence[int] | np.ndarray | Tensor
    ) -> "EncodedImage | EncodedImages":
        """One image by its row, or several by a slice, rows, or a mask, on any device.

        Raises:
            EdjeError: rows that aren't whole numbers.
        """
        if isinstance(rows, slice) and (rows.step or 1) < 0:  # which tensors don't have
            rows = range(*rows.indices(len(self)))
        if not isinstance(rows, slice | int) or isinstance(rows, bool):
            rows = _as_rows(rows)
            rows = rows if rows.ndim else int(rows)
        if isinstance(rows, int):
            return EncodedImage(self.embeddings[rows], self.tokens[rows])
        return EncodedImages(self.embeddings[rows], self.tokens[rows])

    def __iter__(self) -> Iterator[EncodedImage]:
        return (self[row] for row in range(len(self)))


def rows_among(count: int, given: Any) -> Int[Tensor, "rows"]:
    """Rows of so many images, on the host.

    Raises:
        EdjeError: they aren't a list of whole numbers, or there is no image of one of them.
    """
    rows = _as_rows(given)
    if rows.ndim != 1 or rows.dtype == torch.bool or ((rows < 0) | (rows >= count)).any():
        raise EdjeError(
            f"got rows of shape {tuple(rows.shape)} from {count} images, expected a list of whole "
            f"numbers from 0 to below {count}."
        )
    return rows


def _as_rows(given: Any) -> Tensor:
    """Rows, or a mask, on the host, from where they pick from every device."""
    try:
        rows = torch.as_tensor(given).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise EdjeError(
            f"EncodedImages: got rows of type {type(given).__name__} ({error}), expected whole "
            "numbers."
        ) from error
    is_one_truth = rows.dtype == torch.bool and not rows.ndim
    if is_one_truth or (rows.numel() and (rows.is_floating_point() or rows.is_complex())):
        raise EdjeError(f"EncodedImages: got rows of type {rows.dtype}, expected whole numbers.")
    if rows.ndim > 1:
        raise EdjeError(f"EncodedImages: got rows of shape {tuple(rows.shape)}, expected a list.")
    return rows if rows.dtype == torch.bool else rows.long()


def stacked(images: Sequence[EncodedImage]) -> EncodedImages:
    """Single images stacked in their order; those of several devices on the CPU."""
    return EncodedImages(
        torch.stack(on_one_device([image.embedding for image in images])),
        torch.stack(on_one_device([image.tokens for image in images])),
    )


def on_one_device(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of one device as they are, those of several on the CPU."""
    if len({tensor.device for tensor in tensors}) <= 1:
        return list(tensors)
    return [tensor.cpu() for tensor in tensors]
