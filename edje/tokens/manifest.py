"""`store.json`, the authoritative record of a store: its content and its files."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edje.durable import new_file, reading, replace_file
from edje.errors import EdjeError
from edje.tokens.codec import Codec, make_codec
from edje.tokens.fingerprint import Fingerprint

STORE_FILE = "store.json"  # written last: its presence means that the store is complete
PLAN_FILE = "plan.json"  # the same for an unfinished store; without shards until the end
_FORMAT = "edje token store 2"


@dataclass(frozen=True)
class Shard:
    """One Arrow file: a fixed range of the sorted image ids."""

    file: str
    rows: int
    bytes: int
    cells_at: int  # byte offset of the first cell; the others follow without gaps
    checksum: str  # see edje/tokens/checksum.py


@dataclass(frozen=True)
class Manifest:
    """The content of a store. Shard k has the images from row k · shard_rows on."""

    fingerprint: Fingerprint
    codec: str
    num_tokens: int
    width: int
    feature_width: int
    num_images: int
    image_ids: str  # SHA-256 of the sorted ids
    shard_rows: int
    shards: tuple[Shard, ...] = ()

    def make_codec(self) -> Codec:
        """The codec of the cells."""
        return make_codec(self.codec, self.num_tokens, self.width)  # type: ignore[arg-type]

    def differences(self, asked: "Manifest") -> list[str]:
        """The differences between this store and another's plan, except files."""
        phrases = self.fingerprint.differences(asked.fingerprint)
        for name in ("codec", "num_tokens", "width", "feature_width", "num_images", "image_ids"):
            here, there = getattr(self, name), getattr(asked, name)
            if here != there and name not in asked.fingerprint.fields:
                phrases.append(f"{name}: store has {here}, run needs {there}")
        return phrases

    def shard_range(self, index: int) -> range:
        """Rows of a shard."""
        start = index * self.shard_rows
        return range(start, min(start + self.shard_rows, self.num_images))

    @property
    def num_shards(self) -> int:
        """Number of shards of the complete store."""
        return -(-self.num_images // self.shard_rows)

    def write(self, path: Path) -> None:
        """Write as JSON with a checksum over itself, by rename."""
        replace_file(path, self.to_json().encode())

    def to_json(self) -> str:
        """The unique text of this manifest."""
        content = asdict(self) | {"format": _FORMAT, "fingerprint": dict(self.fingerprint.fields)}
        content["checksum"] = _checksum(content)
        return _text(content)


def read_manifest(path: Path) -> Manifest:
    """Read `store.json` or `plan.json`.

    Raises:
        FileNotFoundError: there is none.
        EdjeError: the file is damaged, unreadable or has another version.
    """
    with reading(path):
        content = path.read_bytes()
    return parse_manifest(content, path.parent, path.name)


def parse_manifest(text: bytes, folder: object, name: str = STORE_FILE) -> Manifest:
    """The manifest in a file's content; `folder` and `name` are its origin, for errors.

    Raises:
        EdjeError: the content is damaged or has another version.
    """
    try:
        content: dict[str, Any] = json.loads(text)
        checksum = content.pop("checksum")
        version = content.pop("format")
        if version != _FORMAT:
            raise EdjeError(
                f"{folder}/{name} has format {version!r}, but this version reads {_FORMAT!r}. "
                "Build the store again with task=cache in another cache_dir."
            )
        if checksum != _checksum(content | {"format": version}):
            raise ValueError("its checksum doesn't match")
        shards = tuple(Shard(**shard) for shard in content.pop("shards"))
        fingerprint = Fingerprint(content.pop("fingerprint"))
        return Manifest(fingerprint=fingerprint, shards=shards, **content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EdjeError(
            f"{folder}/{name} is damaged ({error}). Delete the folder {folder} and build the store "
            "again with task=cache."
        ) from error


def is_as_written(text: bytes) -> bool:
    """Whether a manifest is the unique text of its content."""
    return _text(json.loads(text)).encode() == text


def read_shard_note(path: Path) -> Shard | None:
    """The note on a finished shard; None if there is no readable one."""
    try:
        return Shard(**json.loads(path.read_bytes()))
    except (AttributeError, FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def write_shard_note(path: Path, shard: Shard) -> None:
    """Note that a shard is finished, by rename; the note survives a kill, not a power failure."""
    with new_file(path) as temporary:
        temporary.write_bytes(json.dumps(asdict(shard), sort_keys=True).encode())


def hash_ids(image_ids: Sequence[str]) -> str:
    """SHA-256 of ids in order."""
    return hashlib.sha256("\n".join(image_ids).encode()).hexdigest()


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
