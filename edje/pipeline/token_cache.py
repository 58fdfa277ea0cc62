"""The cache: the folder of all stores, how they are written, and on which devices."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from edje.pipeline.devices import devices_of, of_this_process
from edje.pipeline.storage import Storage


@dataclass(frozen=True)
class Cache:
    """The folder of stores and other results that are computed once, and how missing ones are made.

    Args:
        folder: holds a folder for each split of each data set.
        storage: how token stores are written.
        devices: one process per device writes stores; single-process work runs on the first
            device. A CPU may be listed several times.
        by_all_ranks: all processes of a launcher call this and write stores together, each with
            its own device.
    """

    folder: Path
    storage: Storage = field(default_factory=Storage)
    devices: tuple[torch.device, ...] = field(default_factory=devices_of)
    by_all_ranks: bool = False

    @property
    def device(self) -> torch.device:
        """The device of this process: rank i of a run has the i-th device."""
        return of_this_process(self.devices)

    def split_folder(self, dataset: str, split: str) -> Path:
        """The folder of a split's stores and other files."""
        return self.folder / f"{dataset}-{split}"
