"""Reading a store: memory-mapped, gathered as buffers, never row by row."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from edje.errors import EdjeError
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.manifest import PLAN_FILE, STORE_FILE, Manifest, read_manifest
from edje.tokens.shard import open_shard, shard_features
from edje.tokens.spanned_map import SpannedMap

if TYPE_CHECKING:
    import datasets

REBUILD = "python run.py task=cache with this run's options"


class TokenStore:
    """A complete store, open for reading; see `TokenStore.open`.

    It may be handed to other processes, forked or spawned: they map the files themselves.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
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
        """Open a store after the cheap checks: complete, as expected, each shard of its size.

        `rebuild` is the command that errors recommend. A changed byte is found by `verify`.

        Raises:
            EdjeError: there is no complete store, it holds other tokens than expected, or a
                shard is missing or cut off.
        """
        folder = Path(folder)
        try:
            manifest = read_manifest(folder / STORE_FILE)
        except (FileNotFoundError, NotADirectoryError):
            state = "is unfinished" if (folder / PLAN_FILE).is_file() else "doesn't exist"
            raise EdjeError(
                f"the token store {folder} {state}. Build it with: {rebuild}."
            ) from None
        differences = manifest.fingerprint.differences(expect) if expect else []
        if differences:
            raise EdjeError(
                f"the store {folder} holds other tokens than this run needs: "
                f"{'; '.join(differences)}. Build the right one with: {rebuild}."
            )
        problems = missing_or_cut(folder, manifest)
        if problems:
            raise EdjeError(
                f"the store {folder} is damaged: {'; '.join(problems)}. "
                f"Delete it and build it again with: {rebuild}."
            )
        return cls(folder, manifest)

    @property
    def num_tokens(self) -> int:
        """Tokens per image."""
        return self.manifest.num_tokens

    @property
    def width(self) -> int:
        """Width of a token."""
        return self.manifest.width

    @cached_property
    def cell_bytes(self) -> int:
        """Stored bytes per image, scales included, features and ids excluded."""
        return self._codec.cell_bytes

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
                f"{missing[0]}. It was built from other images: build one with: {REBUILD}."
            )
        return torch.tensor(rows, dtype=torch.int64)

    def features(self) -> Float[Tensor, "images width"]:
        """Pooled features of all images in float32, before any projection."""
        return torch.from_numpy(np.concatenate([shard_features(b) for b in self._batches()]))

    def read(
        self,
        rows: Int64[Tensor, "rows"],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "rows tokens width"]:
        """Tokens of rows, in their order, repeats allowed; unpacked on the device.

        Raises:
            IndexError: a row is outside the store.
        """
        return self._codec.decode(
            torch.from_numpy(self.read_cells(rows.cpu().numpy())), dtype, device
        )

    def read_cells(self, rows: Int64[np.ndarray, "rows"]) -> UInt8[np.ndarray, "rows bytes"]:
        """Cells of rows as they are stored.

        Raises:
            IndexError: a row is outside the store.
        """
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows from {rows.min()} to {rows.max()} of a store of {len(self)}")
        shard, row = np.divmod(rows, self.manifest.shard_rows)
        return self._map.gather(self._cells_at[shard] + row * self.cell_bytes)

    def as_dataset(self) -> "datasets.Dataset":
        """The shards as one `datasets.Dataset` with columns image_id, features and tokens."""
        import datasets

        files = [str(self.folder / shard.file) for shard in self.manifest.shards]
        return datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in files])

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest}  # maps are opened anew

    @cached_property
    def _codec(self) -> Any:
        return self.manifest.make_codec()

    @cached_property
    def _row_of_id(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self.image_ids)}

    @cached_property
    def _map(self) -> SpannedMap:
        files = [(self.folder / shard.file, shard.bytes) for shard in self.manifest.shards]
        return SpannedMap(files, self.cell_bytes)

    @cached_property
    def _cells_at(self) -> np.ndarray:
        return self._map.starts + np.array([shard.cells_at for shard in self.manifest.shards])

    def _batches(self) -> list[Any]:
        return [open_shard(self.folder / shard.file)[0] for shard in self.manifest.shards]


def missing_or_cut(folder: Path, manifest: Manifest) -> list[str]:
    """Shards that are missing or not of their size, a phrase each; reads no content."""
    problems = []
    for index, shard in enumerate(manifest.shards):
        try:
            size = (folder / shard.file).stat().st_size
        except FileNotFoundError:
            problems.append(f"{shard.file} is missing")
            continue
        if size != shard.bytes:
            problems.append(f"{shard.file} has {size:,} bytes, expected {shard.bytes:,}")
        elif shard.rows != len(manifest.shard_range(index)):
            problems.append(f"{shard.file} has {shard.rows:,} rows in {STORE_FILE}")
    if len(manifest.shards) != manifest.num_shards:
        problems.append(f"{len(manifest.shards)} shards, expected {manifest.num_shards}")
    return problems
