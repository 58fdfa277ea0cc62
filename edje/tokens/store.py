"""Reading a store, memory-mapped or by ranges of a URL, in whole buffers, never row by row."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from edje.durable import reading
from edje.errors import EdjeError
from edje.ranges import check_path
from edje.tokens.codec import Codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.manifest import PLAN_FILE, STORE_FILE, Manifest, parse_manifest
from edje.tokens.read_ahead import read_whole
from edje.tokens.remote import RemoteCells, RemoteFolder, open_remote_shards
from edje.tokens.shard import open_shard, shard_features
from edje.tokens.spanned_map import SpannedMap

if TYPE_CHECKING:
    import datasets

REBUILD = "edje task=cache with this run's options"


class TokenStore:
    """A complete store, open for reading; see `TokenStore.open`.

    It may be sent to other processes, forked or spawned, which open the files themselves. A forked
    process must first call `torch.set_num_threads(1)`, as DataLoader workers do: converting to
    another dtype uses torch's threads, which a fork doesn't copy.
    """

    def __init__(self, folder: Path | RemoteFolder, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(
        cls,
        folder: str | Path,
        expect: Fingerprint | None = None,
        *,
        rebuild: str = REBUILD,
    ) -> "TokenStore":
        """Open a store after the cheap checks: complete, as expected, all shards of the right size.

        The folder is a local one, which is memory-mapped, or any fsspec URL (`s3://`, `http://`,
        `hf://`, …), from which requested cells are read by ranges, in threads. `rebuild` is the
        command that errors recommend. `verify` finds changed bytes.

        Raises:
            EdjeError: there is no complete store, it holds other tokens than expected, a
                shard is missing or truncated, or the folder or URL can't be read.
        """
        place = place_of(folder)
        try:
            manifest = parse_manifest(_content(place, STORE_FILE), place)
        except (FileNotFoundError, NotADirectoryError):
            state = "is unfinished" if _sizes(place, [PLAN_FILE]) else "doesn't exist"
            raise EdjeError(
                f"the token store {folder} {state}. Build it with: {rebuild}."
            ) from None
        differences = manifest.fingerprint.differences(expect) if expect else []
        if differences:
            raise EdjeError(
                f"the store {folder} holds other tokens than this run needs: "
                f"{'; '.join(differences)}. Build the right one with: {rebuild}."
            )
        problems = missing_or_cut(place, manifest)
        if problems:
            raise EdjeError(
                f"the store {folder} is damaged: {'; '.join(problems)}. "
                f"Delete it and build it again with: {rebuild}."
            )
        return cls(place, manifest)

    @property
    def num_tokens(self) -> int:
        """Tokens per image."""
        return self.manifest.num_tokens

    @property
    def width(self) -> int:
        """Width of a token."""
        return self.manifest.width

    @cached_property
    def codec(self) -> Codec:
        """The codec that unpacks the cells."""
        return self.manifest.make_codec()

    @cached_property
    def cell_bytes(self) -> int:
        """Stored bytes per image, with scales, without features and ids."""
        return self.codec.cell_bytes

    def __len__(self) -> int:
        return self.manifest.num_images

    @cached_property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of the images, sorted; row r of the store is image r."""
        return tuple(
            image_id
            for batch in self._batches()
            for image_id in batch.column("image_id").to_pylist()
        )

    def rows_of(self, image_ids: Sequence[str]) -> Int64[Tensor, "images"]:
        """Rows of images.

        Raises:
            EdjeError: the store doesn't hold an image.
        """
        rows = [self._row_of_id.get(image_id, -1) for image_id in image_ids]
        missing = [key for key, row in zip(image_ids, rows, strict=True) if row < 0]
        if missing:
            raise EdjeError(
                f"the store {self.folder} lacks {len(missing):,} of {len(rows):,} images, such as "
                f"{missing[0]}. It was built from other images: build a new one with: {REBUILD}."
            )
        return torch.tensor(rows, dtype=torch.int64)

    def features(self) -> Float[Tensor, "images width"]:
        """Pooled features of all images in float32, before any projection."""
        return torch.from_numpy(np.concatenate([shard_features(b) for b in self._batches()]))

    def read(
        self,
        rows: Tensor | np.ndarray | Sequence[int],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "rows tokens width"]:
        """Tokens of rows, in order, repeats allowed, or of a mask; unpacked on the device.

        Raises:
            IndexError: a row is outside the store; negative ones are.
            EdjeError: rows that are neither whole numbers nor a mask as long as the store; or a
                shard can't be read.
        """
        given = rows.cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
        return self.codec.decode(torch.from_numpy(self.read_cells(given)), dtype, device)

    def read_cells(
        self, rows: Int64[np.ndarray, "rows"], out: UInt8[np.ndarray, "rows bytes"] | None = None
    ) -> UInt8[np.ndarray, "rows bytes"]:
        """Cells of rows as they are stored; written to `out` if given.

        Raises:
            IndexError: a row is outside the store.
            EdjeError: as `read`.
        """
        if rows.dtype != np.int64 or rows.ndim != 1:
            rows = self._rows_in(rows)
        return self._cells.gather(rows, out)

    def preload(self) -> None:
        """Read all cells into memory, so that no later read waits for the disk.

        That is the system's memory, not the process's; the system may drop them if it needs memory.

        Raises:
            EdjeError: the store is not in a local folder.
        """
        if isinstance(self.folder, RemoteFolder):
            raise EdjeError(f"{self.folder}: only a local store can be preloaded. Copy it first.")
        for shard in self.manifest.shards:
            read_whole(self.folder / shard.file)

    def as_dataset(self) -> "datasets.Dataset":
        """The shards as one `datasets.Dataset` with columns image_id, features and tokens.

        Raises:
            EdjeError: the store is not in a local folder.
        """
        import datasets

        if isinstance(self.folder, RemoteFolder):
            raise EdjeError(f"{self.folder}: only a local store opens as a Dataset. Copy it first.")
        files = [str(self.folder / shard.file) for shard in self.manifest.shards]
        return datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in files])

    def _rows_in(self, given: np.ndarray) -> np.ndarray:
        """Rows as int64, from other whole numbers or a mask."""
        if given.dtype == np.bool_ and given.shape == (len(self),):
            return np.flatnonzero(given)
        if given.ndim != 1 or (len(given) and given.dtype.kind not in "iu"):
            raise EdjeError(
                f"the store {self.folder}: got rows of type {given.dtype} and shape {given.shape}, "
                f"expected a list of whole numbers, or a mask of {len(self)}."
            )
        return given.astype(np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest}  # maps are opened again

    @cached_property
    def _row_of_id(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self.image_ids)}

    @cached_property
    def _cells(self) -> SpannedMap | RemoteCells:
        if isinstance(self.folder, RemoteFolder):
            return RemoteCells(self.folder, self.manifest, self.cell_bytes)
        shards = self.manifest.shards
        (cells_at,) = {shard.cells_at for shard in shards}  # one schema, hence one header
        files = [(self.folder / shard.file, shard.bytes) for shard in shards]
        with reading(self.folder):
            return SpannedMap(
                files, cells_at, self.cell_bytes, self.manifest.shard_rows, self.manifest.num_images
            )

    def _batches(self) -> list[Any]:
        if isinstance(self.folder, RemoteFolder):
            return open_remote_shards(self.folder, self.manifest.shards, self.cell_bytes)
        return [open_shard(self.folder / shard.file)[0] for shard in self.manifest.shards]


def place_of(folder: str | Path) -> Path | RemoteFolder:
    """The place of a store: a local folder, also as `file://`, or a URL.

    Raises:
        EdjeError: it is no path, or empty.
    """
    check_path("store", folder)
    if isinstance(folder, Path) or "://" not in folder:
        return Path(folder)
    for local in ("file://", "local://"):
        if folder.startswith(local):
            return Path(folder.removeprefix(local))
    return RemoteFolder(folder.rstrip("/"))


def _content(folder: Path | RemoteFolder, name: str) -> bytes:
    if isinstance(folder, RemoteFolder):
        return folder.read_bytes(name)
    with reading(folder / name):
        return (folder / name).read_bytes()


def _sizes(folder: Path | RemoteFolder, names: Sequence[str]) -> dict[str, int]:
    """Sizes in bytes of the files that exist."""
    if isinstance(folder, RemoteFolder):
        return folder.sizes(names)
    with reading(folder):
        return {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}


def missing_or_cut(folder: Path | RemoteFolder, manifest: Manifest) -> list[str]:
    """Shards that are missing or have the wrong size, one phrase each; reads no content."""
    problems = []
    sizes = _sizes(folder, [shard.file for shard in manifest.shards])
    for index, shard in enumerate(manifest.shards):
        size = sizes.get(shard.file)
        if size is None:
            problems.append(f"{shard.file} is missing")
        elif size != shard.bytes:
            problems.append(f"{shard.file} has {size:,} bytes, expected {shard.bytes:,}")
        elif shard.rows != len(manifest.shard_range(index)):
            problems.append(f"{shard.file} has {shard.rows:,} rows in {STORE_FILE}")
    if len(manifest.shards) != manifest.num_shards:
        problems.append(f"{len(manifest.shards)} shards, expected {manifest.num_shards}")
    return problems
