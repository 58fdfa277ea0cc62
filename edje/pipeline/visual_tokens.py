"""The source of a collection's visual tokens while it is scored."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from edje.durable import writing_to
from edje.errors import EdjeError
from edje.inference.batch_size import free_bytes
from edje.models.edje import EDJE
from edje.pipeline.collection import Collection, is_compressed
from edje.tokens.cells import CellFile, CellMemory, TokenCells
from edje.tokens.codec import Codec
from edje.tokens.remote import RemoteFolder

log = logging.getLogger(__name__)
SHARE_OF_MEMORY = 0.25  # of the available memory, for cells
BATCH_SIZE = 64  # images compressed at once


@contextmanager
def visual_tokens(
    model: EDJE, collection: Collection, codec: Codec, *, in_memory: bool = True
) -> Iterator[TokenCells]:
    """Visual tokens of every image, as a store with this codec returns them.

    A compressed store in a local folder is read by row. For any other store the cells are computed
    (or fetched, from a compressed one at a URL). They are kept in memory if `in_memory` is on and
    they take at most a quarter of it. Otherwise they go to a temporary file beside the store,
    which is memory-mapped, and deleted at the end of the block.

    Raises:
        EdjeError: there is no space for that file, or a token can't be stored.
    """
    store, rows = collection.store, collection.store_rows
    if is_compressed(store) and isinstance(store.folder, Path):
        yield TokenCells(store.codec, store, rows)
        return
    own = torch.arange(len(rows))
    size = len(rows) * codec.cell_bytes
    if in_memory and size <= SHARE_OF_MEMORY * free_bytes(torch.device("cpu")):
        memory = torch.empty((len(rows), codec.cell_bytes), dtype=torch.uint8)
        filled = memory.split(BATCH_SIZE)
        for part, cells in zip(filled, _batches(model, collection, codec), strict=True):
            part.copy_(torch.from_numpy(cells))
        yield TokenCells(codec, CellMemory(memory), own)
        return
    with _temporary_folder(store.folder, size) as folder:
        path = folder / "cells"
        with writing_to(folder), path.open("wb") as file:
            for cells in _batches(model, collection, codec):
                file.write(cells.data)
        yield TokenCells(codec, CellFile(path, codec.cell_bytes), own)


def _batches(
    model: EDJE, collection: Collection, codec: Codec
) -> Iterator[UInt8[np.ndarray, "images bytes"]]:
    """Cells of all images, in order."""
    store = collection.store
    device = next(model.parameters()).device
    for rows in tqdm(
        collection.store_rows.split(BATCH_SIZE), desc="compress", unit="batch", leave=False
    ):
        if is_compressed(store):
            yield store.read_cells(rows.numpy())
        else:
            yield codec.encode(_compressed(model, store.read(rows, device=str(device))))


@torch.inference_mode()
def _compressed(model: EDJE, tokens: Tensor) -> Tensor:
    return model.compress(tokens).float().cpu()


@contextmanager
def _temporary_folder(store: Path | RemoteFolder, size: int) -> Iterator[Path]:
    """A folder with space for a file; beside a store of raw tokens there probably is some."""
    beside = Path(tempfile.gettempdir())
    if isinstance(store, Path) and os.access(store.parent, os.W_OK):
        beside = store.parent
    free = shutil.disk_usage(beside).free
    if free < size:
        raise EdjeError(
            f"the visual tokens take {size / 1e9:.1f} GB, which is more than a quarter of this "
            "machine's memory, or needed by several processes, and "
            f"{beside} has {free / 1e9:.1f} GB left for a temporary file. Free some space, or use "
            "fewer bytes per image: storage.compressed_codec=int8, scoring.num_tokens."
        )
    with writing_to(beside):
        folder = tempfile.TemporaryDirectory(prefix="visual-", dir=beside)
    with folder as name:
        log.info("keeping the visual tokens (%.1f GB) in %s temporarily", size / 1e9, name)
        yield Path(name)
