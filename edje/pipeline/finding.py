"""Finding token stores by their present fingerprint or a former one."""

import logging
from collections.abc import Sequence
from pathlib import Path

from edje.durable import reading
from edje.tokens.fingerprint import Fingerprint, store_folder
from edje.tokens.manifest import STORE_FILE
from edje.tokens.store import REBUILD, TokenStore

log = logging.getLogger(__name__)


def find_store(
    cache_dir: Path, data: str, split: str, tier: str, fingerprints: Sequence[Fingerprint]
) -> tuple[Path, Fingerprint]:
    """The folder of a store that exists or is to be written, and its fingerprint.

    That is the first fingerprint, the present one, unless a complete store exists only under a
    former one.

    Raises:
        EdjeError: the folder can't be read.
    """
    found = [(store_folder(cache_dir, data, split, tier, one), one) for one in fingerprints]
    with reading(cache_dir):
        return next((place for place in found if (place[0] / STORE_FILE).is_file()), found[0])


def open_store(
    folder: str | Path, fingerprints: Sequence[Fingerprint], *, rebuild: str = REBUILD
) -> TokenStore:
    """Open a store with the present fingerprint, the first, or with a former one, which is logged.

    Raises:
        EdjeError: as `TokenStore.open`.
    """
    store, present = TokenStore.open(folder, rebuild=rebuild), fingerprints[0]
    mine = store.manifest.fingerprint
    if not any(mine.differences(one) == [] for one in fingerprints):
        return TokenStore.open(folder, present, rebuild=rebuild)  # raises, saying what differs
    known, wanted = mine.fields, present.fields
    marks = sorted(name for name, value in wanted.items() if known.get(name) != value)
    if marks:
        log.info(
            "reading %s: an earlier version wrote it and recorded less of its %s. If you have "
            "changed that since, delete the store",
            folder,
            " and ".join(marks),
        )
    return store
