"""Fingerprints, which say whether stored tokens are the same, and the folders named by them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edje.identity import differing_names

_RECORDS = ("store.json", "table.json", "plan.json")  # files with the fingerprint, best first


@dataclass(frozen=True)
class Fingerprint:
    """Named facts of a store: backbone, weights, layer, preprocessing, codec, images, …

    Two stores with equal fingerprints hold the same tokens; any difference makes another store.
    """

    fields: Mapping[str, str | int | float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", dict(self.fields))  # or raises: damaged

    @property
    def digest(self) -> str:
        """SHA-256 of the facts as 64 hexadecimal digits, whatever their order."""
        text = json.dumps(dict(self.fields), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, asked: "Fingerprint") -> list[str]:
        """The differences between this store and what a run needs, one phrase per fact."""
        return [
            f"{name}: store has {_shown(self.fields.get(name))}, "
            f"run needs {_shown(asked.fields.get(name))}"
            for name in differing_names(self.fields, asked.fields)
        ]


def store_folder(
    cache_dir: str | Path, data: str, split: str, tier: str, fingerprint: Fingerprint
) -> Path:
    """`<cache_dir>/<data>-<split>/<tier>-<12 digits>`: one folder per fingerprint.

    An earlier version recorded fewer facts, which gave other digits. So if nothing is under
    today's digits, a folder beside it that differs in no fact that both record is returned.
    """
    folder = Path(cache_dir) / f"{data}-{split}" / f"{tier}-{fingerprint.digest[:12]}"
    if any((folder / name).is_file() for name in _RECORDS):
        return folder
    for name in _RECORDS:
        for record in sorted(folder.parent.glob(f"{tier}-*/{name}")):
            recorded = _recorded(record)
            if recorded is not None and not recorded.differences(fingerprint):
                return record.parent
    return folder


def _recorded(record: Path) -> Fingerprint | None:
    """The fingerprint in a folder's JSON; None if none can be read."""
    try:
        return Fingerprint(json.loads(record.read_bytes())["fingerprint"])
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return None  # damaged or of another format; opening that folder reports it


def _shown(value: str | int | float | None) -> str:
    return "nothing" if value is None else str(value)
