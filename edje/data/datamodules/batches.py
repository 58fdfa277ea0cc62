"""Batches on their way from a loader to the device that uses them."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

Record = TypeVar("Record")


class Batch:
    """A frozen dataclass of tensors, some perhaps in nested records; a loader can pin it.

    It is copied to a GPU in the form it has in host memory, such as stored bytes. From pinned
    memory the program doesn't wait for the copies: they are queued before the work that reads them.
    """

    def pin_memory(self) -> Self:
        """The batch in pinned memory, which a GPU reads by itself; called by a DataLoader."""
        return each_tensor(self, Tensor.pin_memory)

    def to(self, device: torch.device) -> Self:
        """The batch on the device."""
        on_gpu = device.type == "cuda"
        return each_tensor(self, lambda own: own.to(device, non_blocking=on_gpu))


def each_tensor(record: Record, change: Callable[[Tensor], Tensor]) -> Record:
    """A record with each of its tensors changed, including those of nested records."""
    changed: dict[str, Any] = {}
    for field in fields(record):  # type: ignore[arg-type]  # any dataclass
        value = getattr(record, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = change(value)
        elif is_dataclass(value):
            changed[field.name] = each_tensor(value, change)
    return replace(record, **changed)  # type: ignore[type-var]
