"""The compressed tier: a trained adapter's tokens of every image, computed from the raw tier."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from edje.backbones.pretrained import weights_digest
from edje.backbones.protocol import Backbone, ImageEncoding
from edje.data.datamodules.shard_datamodule import ShardBatch
from edje.data.sources.source import Source
from edje.inference.checkpoint import Checkpoint, keep_first_tokens
from edje.models.edje import EDJE
from edje.pipeline.collection import Collection, collection_of, is_compressed, raw_fingerprints
from edje.pipeline.encoding import Encoder
from edje.pipeline.finding import find_store, open_store
from edje.pipeline.scoring import visual_shape
from edje.pipeline.storage import TowerPrecision
from edje.pipeline.token_cache import Cache
from edje.pipeline.writing import fill_store, wait_until_written
from edje.records import RetrievalSplit
from edje.registry import lasting_name
from edje.tokens.codec import CodecName, make_codec
from edje.tokens.fingerprint import Fingerprint, store_folder
from edje.tokens.manifest import STORE_FILE
from edje.tokens.store import REBUILD, TokenStore

log = logging.getLogger(__name__)


def compress(
    cache: Cache,
    source: Source,
    checkpoint: Checkpoint,
    *,
    store: str | Path | None = None,
    load: Callable[[], Checkpoint] | None = None,
    num_tokens: int | None = None,
) -> TokenStore:
    """Fill the compressed tier of the source's evaluated split; no vision tower runs.

    `store` is a raw store to read instead of the cache's own. `num_tokens` is the number of nested
    tokens that the checkpoint is set to, if not all. With several devices each process reads the
    checkpoint with `load`, a function that can be pickled; without it, the checkpoint is sent.

    Raises:
        EdjeError: there is no raw store of the checkpoint's backbone and these images, or the
            compressed store can't be written or is being written.
    """
    split, codec = source.read(source.split), cache.storage.compressed_codec
    expected = raw_fingerprints(split, checkpoint.backbone, cache.storage)
    raw_folder, _ = find_store(cache.folder, source.name, source.split, "raw", expected)
    if store is None:
        wait_until_written(raw_folder)
    raw = open_store(raw_folder if store is None else store, expected)
    fingerprint = compressed_fingerprint(checkpoint, raw.manifest.fingerprint, codec)
    target = store_folder(cache.folder, source.name, source.split, "compressed", fingerprint)
    fill_store(
        target,
        fingerprint,
        make_codec(codec, *visual_shape(checkpoint)),
        lambda: _CompressionWork(checkpoint, raw, load, num_tokens),
        cache.storage,
        cache.devices,
        wait=cache.by_all_ranks,  # the ranks wait for one another
        by_all_ranks=cache.by_all_ranks,
    )
    return TokenStore.open(target, fingerprint)


class _CompressionWork:
    """A checkpoint's adapter over a raw store; another process loads the checkpoint with `load`."""

    description = "compress"
    precision: TowerPrecision = "fp32"  # as when raw tokens are compressed just before scoring

    def __init__(
        self,
        checkpoint: Checkpoint,
        raw: TokenStore,
        load: Callable[[], Checkpoint] | None,
        num_tokens: int | None,
    ):
        self.image_ids = raw.image_ids
        self.feature_width = raw.manifest.feature_width
        self._load = load
        self._num_tokens = num_tokens
        self._checkpoint: Checkpoint | None = checkpoint
        self._raw = raw

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ if self._load is None else self.__dict__ | {"_checkpoint": None}

    def encoder(self) -> Encoder:
        """From stored raw tokens to the adapter's."""
        if self._checkpoint is None:
            assert self._load is not None  # otherwise it was pickled
            self._checkpoint = self._load()
            if self._num_tokens is not None:
                self._checkpoint = keep_first_tokens(self._checkpoint, self._num_tokens)
        return _Adapter(self._checkpoint.model, self._raw)

    def dataset(self) -> "_RawRows":
        """From rows to stored raw tokens."""
        return _RawRows(self._raw)


class _Adapter(Encoder):
    def __init__(self, model: EDJE, raw: TokenStore):
        super().__init__()
        self.model = model
        self.codec = raw.manifest.make_codec()
        self.features = raw.features()

    def predict_step(self, batch: ShardBatch, batch_idx: int) -> ImageEncoding:
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
    cache: Cache, checkpoint: Checkpoint, split: RetrievalSplit
) -> tuple[Fingerprint, ...]:
    """A split's compressed fingerprints, for present and former fingerprints of its raw tier."""
    raw = raw_fingerprints(split, checkpoint.backbone, cache.storage)
    codec, given = cache.storage.compressed_codec, checkpoint.adapter.target
    names = [lasting_name("adapter", given)]
    if "." in given and given not in names:  # the name in stores of that time
        names.append(given)
    return tuple(
        compressed_fingerprint(checkpoint, one, codec, name) for name in names for one in raw
    )


def compressed_fingerprint(
    checkpoint: Checkpoint, raw: Fingerprint, codec: CodecName, adapter: str | None = None
) -> Fingerprint:
    """The fingerprint of a compressed tier: its raw tier, the adapter, the number format.

    The adapter always has its lasting name, however the checkpoint spells it, unless `adapter`
    gives another.
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


def stored_tokens(
    cache: Cache,
    source: Source,
    split_name: str,
    checkpoint: Checkpoint,
    *,
    store: str | Path | None = None,
    rebuild: str = REBUILD,
) -> TokenStore | None:
    """The compressed tier of a split, in the cache or the given store; None if there is none.

    `rebuild` is the command that error messages suggest.

    Raises:
        EdjeError: the given store is of another adapter, codec, backbone or other images.
    """
    split = source.read(split_name)
    fingerprints = compressed_fingerprints(cache, checkpoint, split)
    if store is None:
        folder, _ = find_store(cache.folder, source.name, split_name, "compressed", fingerprints)
        return open_store(folder, fingerprints) if (folder / STORE_FILE).is_file() else None
    if not is_compressed(TokenStore.open(store)):
        return None
    return open_store(store, fingerprints, rebuild=rebuild)


def compressed_collection(
    cache: Cache,
    source: Source,
    backbone: Backbone,
    checkpoint: Checkpoint,
    *,
    store: str | Path | None = None,
    rebuild: str = REBUILD,
) -> Collection | None:
    """The evaluated split with the checkpoint's compressed tokens; None if there are only raw ones.

    Raises:
        EdjeError: as `stored_tokens`.
    """
    found = stored_tokens(cache, source, source.split, checkpoint, store=store, rebuild=rebuild)
    if found is None:
        return None
    log.info("reading the compressed tokens of %s", found.folder)
    return collection_of(cache, source, source.read(source.split), backbone, found)
