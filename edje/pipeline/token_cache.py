"""The cache: the folder of all stores, how they are written, and on which devices."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from edje.pipeline.devices import devices_of, of_this_process
from edje.pipeline.storage import Storage


@dataclass(frozen=True)
class Cache:
    """Where stores and what else is computed once lie, and how what is missing is made.

    Args:
        folder: holds a folder for each split of each data set.
        storage: how token stores are written.
        devices: one process for each writes stores; what is one process's work is done on the
            first. A CPU may be named several times.
        by_all_ranks: all processes of a launcher come here and write stores together, each with
            the device of its own.
    """

    folder: Path
    storage: Storage = field(default_factory=Storage)
    devices: tuple[torch.device, ...] = field(default_factory=devices_of)
    by_all_ranks: bool = False

    @property
    def device(self) -> torch.device:
        """The device of this process: rank i of a run has the i-th."""
        return of_this_process(self.devices)

    def split_folder(self, dataset: str, split: str) -> Path:
        """Where files about a split lie beside its stores."""
        return self.folder / f"{dataset}-{split}"
