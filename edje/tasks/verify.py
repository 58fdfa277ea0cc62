"""Verify: every byte of a token store against the records of when it was written."""

import json
import logging
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from edje.errors import EdjeError
from edje.tokens.manifest import STORE_FILE
from edje.tokens.verification import verify

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path) -> None:
    """`task=verify`: read the whole store and write its problems to verify.json.

    Raises:
        EdjeError: no store is given or found, or it is damaged; the message names every bad file.
    """
    if cfg.store is None:
        found = listed(stores_below(Path(cfg.cache_dir)))
        raise EdjeError(
            f"task=verify needs store=<folder of a token store>. Under cache_dir={cfg.cache_dir} "
            f"there are: {found}."
        )
    store = cfg.store
    if not (Path(store) / STORE_FILE).exists() and (inner := stores_below(Path(store))):
        raise EdjeError(f"store={store} is no token store, but holds: {listed(inner)}. Give one.")
    total = sum(path.stat().st_size for path in Path(store).glob("shard-*.arrow"))
    with tqdm(total=total, desc="verify", unit="B", unit_scale=True) as bar:
        problems = verify(store, bar.update)
    report = {"store": store, "problems": problems}
    (folder / "verify.json").write_text(json.dumps(report, indent=2) + "\n")
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise EdjeError(
            f"the token store {store} is damaged:{lines}\n"
            "Delete the folder and run the command that wrote it again (task=cache, task=compress)."
        )
    log.info("%s is sound: schema, row counts, checksums and ids are as written", store)


def stores_below(folder: Path) -> list[Path]:
    """The token stores in a folder and in its folders, sorted."""
    found = (folder.glob(f"{depth}/{STORE_FILE}") for depth in ("*", "*/*"))
    return sorted(path.parent for paths in found for path in paths)


def listed(stores: list[Path]) -> str:
    """The stores of a sentence."""
    return ", ".join(map(str, stores)) or "none"
