"""Index: add pictures to an ImageIndex, in this process or on a Ray cluster."""

import json
import logging
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from edje.index.indexing import index_pictures
from edje.index.ray_engine import Engine
from edje.quiet import quiet_libraries

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path) -> None:
    """`task=index`: like `edje index`; writes a summary of the index to index.json.

    Raises:
        EdjeError: as `index_pictures`.
    """
    quiet_libraries()
    engine: Engine = instantiate(cfg.ray) if cfg.engine == "ray" else "local"
    index = index_pictures(instantiate(cfg.index, _convert_="all"), log.info, engine)
    problems = [vars(one) for one in index.problems()]
    report = {"index": str(index.folder), "images": len(index), "problems": problems}
    (folder / "index.json").write_text(json.dumps(report, indent=2) + "\n")
    log.info("%s: %s pictures", index.folder, f"{len(index):,}")
