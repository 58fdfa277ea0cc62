"""What makes stored tokens comparable, and the folder where tokens of one kind live."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fingerprint:
    """Named facts of a store: backbone, weights, layer, preprocessing, codec, images, …

    Two stores with equal fingerprints hold the same tokens; any difference makes another store.
    """

    fields: Mapping[str, str | int | float]

    @property
    def digest(self) -> str:
        """SHA-256 of the facts as 64 hexadecimal digits, whatever their order."""
        text = json.dumps(dict(self.fields), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, asked: "Fingerprint") -> list[str]:
        """What differs between this store and what a run asks for, a phrase per fact."""
        phrases = []
        for name in sorted({*self.fields, *asked.fields}):
            here, there = self.fields.get(name), asked.fields.get(name)
            if here != there:
                phrases.append(f"{name}: store has {_shown(here)}, run asks for {_shown(there)}")
        return phrases


def store_folder(
    cache_dir: str | Path, data: str, split: str, tier: str, fingerprint: Fingerprint
) -> Path:
    """`<cache_dir>/<data>-<split>/<tier>-<12 digits>`: other fingerprints never meet there."""
    return Path(cache_dir) / f"{data}-{split}" / f"{tier}-{fingerprint.digest[:12]}"


def _shown(value: str | int | float | None) -> str:
    return "nothing" if value is None else str(value)
