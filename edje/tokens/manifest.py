"""`store.json`, the truth about a store: what it holds and which files it consists of."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edje.errors import EdjeError
from edje.tokens.codec import Codec, make_codec
from edje.tokens.durable import new_file, replace_file
from edje.tokens.fingerprint import Fingerprint

STORE_FILE = "store.json"  # comes last: its presence means that the store is complete
PLAN_FILE = "plan.json"  # the same while a store is being written, without shards until the end
_FORMAT = "edje token store 1"


@dataclass(frozen=True)
class Shard:
    """One Arrow file: a fixed range of the sorted image ids."""

    file: str
    rows: int
    bytes: int
    cells_at: int  # byte offset of the first cell in the file; the others follow without gaps
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a store holds. Shard k has the images from row k · shard_rows on."""

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
        """What differs between this store and the plan of another, files apart."""
        phrases = self.fingerprint.differences(asked.fingerprint)
        for name in ("codec", "num_tokens", "width", "feature_width", "num_images", "image_ids"):
            here, there = getattr(self, name), getattr(asked, name)
            if here != there and name not in asked.fingerprint.fields:
                phrases.append(f"{name}: store has {here}, run asks for {there}")
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
        """The one text that this manifest is written as."""
        content = asdict(self) | {"format": _FORMAT, "fingerprint": dict(self.fingerprint.fields)}
        content["checksum"] = _checksum(content)
        return json.dumps(content, indent=1, sort_keys=True) + "\n"


def read_manifest(path: Path) -> Manifest:
    """Read `store.json` or `plan.json`.

    Raises:
        FileNotFoundError: there is none.
        EdjeError: the file is damaged, or of another version.
    """
    text = path.read_bytes()
    try:
        content: dict[str, Any] = json.loads(text)
        checksum = content.pop("checksum")
        version = content.pop("format")
        if version != _FORMAT:
            raise EdjeError(
                f"{path} is of format {version!r}, this version reads {_FORMAT!r}. Build the "
                "store again with task=cache in another cache_dir."
            )
        if checksum != _checksum(content | {"format": version}):
            raise ValueError("its checksum doesn't match")
        shards = tuple(Shard(**shard) for shard in content.pop("shards"))
        fingerprint = Fingerprint(content.pop("fingerprint"))
        return Manifest(fingerprint=fingerprint, shards=shards, **content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EdjeError(
            f"{path} is damaged ({error}). Delete the folder {path.parent} and build the store "
            "again with task=cache."
        ) from error


def read_shard_note(path: Path) -> Shard | None:
    """The note on a finished shard; None if there is no readable one."""
    try:
        content = json.loads(path.read_bytes())
        return Shard(**{field.name: content[field.name] for field in fields(Shard)})
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def write_shard_note(path: Path, shard: Shard) -> None:
    """Note that a shard is finished, by rename; a power failure may lose it, a kill doesn't."""
    with new_file(path) as temporary:
        temporary.write_bytes(json.dumps(asdict(shard), sort_keys=True).encode())


def hash_ids(image_ids: Sequence[str]) -> str:
    """SHA-256 of ids in their order."""
    return hashlib.sha256("\n".join(image_ids).encode()).hexdigest()


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
