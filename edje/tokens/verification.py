"""Checking every byte of a store."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from edje.durable import reading
from edje.errors import EdjeError
from edje.tokens.checksum import checksum_of
from edje.tokens.manifest import (
    STORE_FILE,
    Manifest,
    Shard,
    hash_ids,
    is_as_written,
    parse_manifest,
)
from edje.tokens.remote import RemoteFolder
from edje.tokens.shard import open_shard
from edje.tokens.store import missing_or_cut, place_of


def verify(folder: str | Path, progress: Callable[[int], None] | None = None) -> list[str]:
    """Problems of a store, each naming its file; an empty list if it is sound.

    Compares sizes, checksums, schema, row counts and ids with `store.json`, and `store.json` with
    its own checksum. `progress` gets the number of bytes read since its last call.

    Raises:
        EdjeError: there is no complete store in the folder, it can't be read or isn't local.
    """
    place = place_of(folder)
    if isinstance(place, RemoteFolder):
        raise EdjeError(f"{place}: only a local store can be verified. Copy it to a folder first.")
    folder = place
    try:
        with reading(folder / STORE_FILE):
            text = (folder / STORE_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise EdjeError(f"no complete token store at {folder}. Build it with task=cache.") from None
    try:
        manifest = parse_manifest(text, folder)
    except EdjeError as error:
        return [str(error)]
    problems = missing_or_cut(folder, manifest)
    if not is_as_written(text):
        problems.append(f"{STORE_FILE} was changed after it was written")
    image_ids: list[str] = []
    for shard in manifest.shards:
        path = folder / shard.file
        try:
            if path.is_file() and path.stat().st_size == shard.bytes:
                if checksum_of(path) != shard.checksum:
                    problems.append(f"{shard.file} has changed: its checksum doesn't match")
                else:
                    problems += _wrong_content(path, shard, manifest, image_ids)
        except (OSError, ValueError) as error:
            problems.append(f"{shard.file} can't be checked: {error}")
        if progress is not None:
            progress(shard.bytes)
    if not problems and hash_ids(image_ids) != manifest.image_ids:
        problems.append("the image ids of the shards are not those of the store")
    return problems


def _wrong_content(path: Path, shard: Shard, manifest: Manifest, ids: list[str]) -> list[str]:
    """Problems of a shard with the right checksum, compared with `store.json`; collects its ids."""
    try:
        batch, cells_at = open_shard(path)
    except EdjeError as error:
        return [str(error)]
    ids += batch.column("image_id").to_pylist()
    found = (batch.num_rows, cells_at, batch.schema.field("tokens").type)
    expected = (shard.rows, shard.cells_at, pa.binary(manifest.make_codec().cell_bytes))
    if found != expected:
        return [f"{shard.file} has (rows, cells at, type) {found}, expected {expected}"]
    return []
