"""Compress: a trained adapter's tokens of every image, from the raw tier of the store."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn
from torch.utils.data import Dataset

from edje.backbones.pretrained import weights_digest
from edje.backbones.protocol import Backbone, ImageEncoding
from edje.data.datamodules.shard_datamodule import ShardBatch
from edje.data.sources.source import Source
from edje.inference.checkpoint import Checkpoint, keep_first_tokens
from edje.models.edje import EDJE
from edje.pipeline.collection import Collection, collection_of, is_compressed, raw_fingerprints
from edje.pipeline.devices import TowerPrecision
from edje.pipeline.finding import find_store, open_store
from edje.pipeline.scoring import Evaluation, visual_shape
from edje.pipeline.trained import load_trained, trained_file
from edje.pipeline.writing import Writing, fill_store, wait_until_written
from edje.quiet import quiet_libraries
from edje.records import RetrievalSplit
from edje.registry import lasting_name
from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint, store_folder
from edje.tokens.manifest import STORE_FILE
from edje.tokens.store import TokenStore

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path) -> None:
    """`task=compress`: fill the compressed tier of `data.split`; no vision tower is run.

    None is loaded either, but for a published checkpoint, to be compared with it.

    Writes where it lies to compress.json. `store` names a raw store to be read in place of the
    cache's own.

    Raises:
        EdjeError: there is no raw store of the checkpoint's backbone and these images, or the
            compressed one can't be written or is being written.
    """
    quiet_libraries()
    checkpoint = load_trained(cfg, "checkpoint")
    source: Source = instantiate(cfg.data)
    evaluation: Evaluation = instantiate(cfg.evaluation)
    if evaluation.num_tokens is not None:
        keep_first_tokens(checkpoint, evaluation.num_tokens)
    split = source.read(source.split)
    cache_dir = Path(cfg.cache_dir)
    writing: Writing = instantiate(cfg.writing)
    expected = raw_fingerprints(split, checkpoint.backbone, cfg.store_codec, writing.precision)
    raw_folder, _ = find_store(cache_dir, source.name, source.split, "raw", expected)
    if cfg.store is None:
        wait_until_written(raw_folder)
    raw = open_store(cfg.store or raw_folder, expected)
    fingerprint = _compressed(checkpoint, raw.manifest.fingerprint, evaluation.codec)
    target = store_folder(cache_dir, source.name, source.split, "compressed", fingerprint)
    load = trained_file(cfg, "checkpoint", checkpoint.facts)
    fill_store(
        target,
        fingerprint,
        make_codec(evaluation.codec, *visual_shape(checkpoint)),
        lambda: _CompressionWork(load, evaluation.num_tokens, checkpoint, raw),
        writing,
        cfg.trainer,
        wait=False,
    )
    store = TokenStore.open(target, fingerprint)
    report = {
        "store": str(target),
        "num_images": len(store),
        "storage_bytes_per_image": store.cell_bytes,
    }
    (folder / "compress.json").write_text(json.dumps(report, indent=2) + "\n")
    log.info("compressed tokens of %s: %s (%d B each)", source.split, target, store.cell_bytes)


class _CompressionWork:
    """A checkpoint's adapter over a raw store. Another process loads both anew."""

    description = "compress"
    precision: TowerPrecision = "fp32"  # as where raw tokens are compressed to be scored at once

    def __init__(
        self,
        load: Callable[[], Checkpoint],
        num_tokens: int | None,
        checkpoint: Checkpoint,
        raw: TokenStore,
    ):
        self.image_ids = raw.image_ids
        self.feature_width = raw.manifest.feature_width
        self._load = load
        self._num_tokens = num_tokens
        self._checkpoint: Checkpoint | None = checkpoint
        self._raw = raw

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_checkpoint": None}

    def encoder(self) -> nn.Module:
        """From stored raw tokens to the adapter's."""
        if self._checkpoint is None:
            self._checkpoint = self._load()
            if self._num_tokens is not None:
                keep_first_tokens(self._checkpoint, self._num_tokens)
        return _Adapter(self._checkpoint.model, self._raw)

    def dataset(self) -> "_RawRows":
        """From rows to stored raw tokens."""
        return _RawRows(self._raw)


class _Adapter(nn.Module):
    def __init__(self, model: EDJE, raw: TokenStore):
        super().__init__()
        self.model = model
        self.codec = raw.manifest.make_codec()
        self.features = raw.features()

    def forward(self, batch: ShardBatch) -> ImageEncoding:
        raw = self.codec.decode(batch.inputs, device=batch.inputs.device)
        features = self.features[batch.rows.start : batch.rows.stop]
        return ImageEncoding(self.model.compress(raw).float(), features)


class _RawRows(Dataset[ShardBatch]):
    def __init__(self, raw: TokenStore):
        self.raw = raw

    def __getitem__(self, rows: range) -> ShardBatch:
        cells = self.raw.read_cells(np.arange(rows.start, rows.stop))
        return ShardBatch(rows, torch.from_numpy(cells))


def compressed_fingerprints(
    cfg: DictConfig, checkpoint: Checkpoint, split: RetrievalSplit, codec: str
) -> tuple[Fingerprint, ...]:
    """What makes a split's compressed tier, of its raw tier's present and former fingerprints."""
    writing: Writing = instantiate(cfg.writing)
    raw = raw_fingerprints(split, checkpoint.backbone, cfg.store_codec, writing.precision)
    given = checkpoint.adapter.target
    names = [lasting_name("adapter", given)]
    if "." in given and given not in names:  # by which stores of that time know it
        names.append(given)
    return tuple(_compressed(checkpoint, one, codec, name) for name in names for one in raw)


def _compressed(
    checkpoint: Checkpoint, raw: Fingerprint, codec: str, adapter: str | None = None
) -> Fingerprint:
    """What makes a compressed tier: the raw tier it is made of, the adapter, the number format.

    However the checkpoint spells its adapter, it goes by one name, unless another is given.
    """
    num_tokens, width = visual_shape(checkpoint)
    return Fingerprint(
        {
            **raw.fields,
            "raw_codec": raw.fields["codec"],
            "codec": codec,
            "adapter": adapter or lasting_name("adapter", checkpoint.adapter.target),
            "adapter_choices": json.dumps(dict(checkpoint.adapter.choices), sort_keys=True),
            "adapter_weights": weights_digest(checkpoint.model.adapter),
            "visual_tokens": num_tokens,
            "visual_width": width,
        }
    )


def compressed_collection(
    cfg: DictConfig,
    source: Source,
    backbone: Backbone,
    checkpoint: Checkpoint,
    evaluation: Evaluation,
) -> Collection | None:
    """The evaluated split with the checkpoint's compressed tokens; None where only raw ones are.

    They are read from `store` if that is a compressed one, or else from the cache.

    Raises:
        EdjeError: the given store is of another adapter, codec, backbone or other images.
    """
    split = source.read(source.split)
    cache_dir = Path(cfg.cache_dir)
    fingerprints = compressed_fingerprints(cfg, checkpoint, split, evaluation.codec)
    if cfg.store is None:
        folder, _ = find_store(cache_dir, source.name, source.split, "compressed", fingerprints)
        if not (folder / STORE_FILE).is_file():
            return None
    else:
        folder = cfg.store
        if not is_compressed(TokenStore.open(folder)):
            return None
    rebuild = f"python run.py task=compress checkpoint={cfg.checkpoint or '<this run>'}"
    store = open_store(folder, fingerprints, rebuild=rebuild)
    log.info("reading the compressed tokens of %s", folder)
    return collection_of(cfg, source, split, backbone, store)
