"""Compress: a trained adapter's tokens of every image, from the raw tier of the store."""

import json
import logging
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from edje.data.sources.source import Source
from edje.inference.checkpoint import keep_first_tokens
from edje.parallel.environment import own_rank
from edje.pipeline.compressed import compress
from edje.pipeline.trained import load_trained, trained_file
from edje.quiet import quiet_libraries
from edje.tasks.wiring import backbone_builder, cache_of, published_of

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path) -> None:
    """`task=compress`: fill the compressed tier of `data.split`; no vision tower runs.

    A tower is only loaded for a published checkpoint, to be compared with it. Writes the store's
    path to compress.json.

    Raises:
        EdjeError: as `load_trained` and `compress`.
    """
    quiet_libraries()
    given, published, num_tokens = cfg.checkpoint, published_of(cfg), cfg.scoring.num_tokens
    checkpoint = load_trained(given, "checkpoint", backbone_builder(cfg), published)
    source: Source = instantiate(cfg.data)
    if num_tokens is not None:
        checkpoint = keep_first_tokens(checkpoint, num_tokens)
    store = compress(
        cache_of(cfg, is_shared=True),
        source,
        checkpoint,
        store=cfg.store,
        load=trained_file(given, "checkpoint", checkpoint.facts, published),
        num_tokens=num_tokens,
    )
    if own_rank() > 0:
        return
    report = {
        "store": str(store.folder),
        "num_images": len(store),
        "storage_bytes_per_image": store.cell_bytes,
    }
    (folder / "compress.json").write_text(json.dumps(report, indent=2) + "\n")
    log.info(
        "compressed tokens of %s: %s (%d B each)", source.split, store.folder, store.cell_bytes
    )
