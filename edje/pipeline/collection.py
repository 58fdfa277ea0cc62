"""One split with everything cached: tokens in a store, features of images and captions."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edje.backbones.protocol import Backbone, Identity, ImageEncoding
from edje.captions import clean_caption
from edje.data.datamodules.shard_datamodule import PixelRows, ShardBatch
from edje.data.image_digest import images_digest
from edje.data.images import check_images
from edje.data.sources.source import BadImages, Source
from edje.errors import EdjeError
from edje.images import decoder
from edje.pipeline.caption_features import caption_features
from edje.pipeline.encoding import Encoder
from edje.pipeline.finding import find_store, open_store
from edje.pipeline.storage import Storage, TowerPrecision
from edje.pipeline.token_cache import Cache
from edje.pipeline.writing import fill_store
from edje.records import RetrievalSplit
from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.matrix_file import rows_at_once
from edje.tokens.store import TokenStore
from edje.tokens.text import EmbeddingTable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collection:
    """A split's images and captions, their tokens and unprojected features, by row.

    The features stay in their files until they are requested, because those of a large split are
    gigabytes.
    """

    split: RetrievalSplit
    texts: tuple[str, ...]  # cleaned captions
    store: TokenStore
    store_rows: Int[Tensor, "images"]
    text_table: EmbeddingTable
    text_rows: Int[Tensor, "captions"]

    @cached_property
    def image_of_caption(self) -> Int[Tensor, "captions"]:
        """Row of each caption's image."""
        return torch.tensor(self.split.image_of_caption())

    @property
    def image_features(self) -> Float[Tensor, "images features"]:
        """Features of all images, read now."""
        return self.store.features()[self.store_rows]

    @property
    def text_features(self) -> Float[Tensor, "captions text_features"]:
        """Features of all captions, read now."""
        return self.text_table.embeddings.read(self.text_rows)

    def text_chunks(self) -> Iterator[Float[Tensor, "some text_features"]]:
        """Features of all captions, in chunks."""
        table = self.text_table.embeddings
        for rows in self.text_rows.split(rows_at_once(table.shape[1])):
            yield table.read(rows)

    def restricted(self, part: RetrievalSplit) -> "Collection":
        """The same cached data for some of the images."""
        image_rows = {image.image_id: row for row, image in enumerate(self.split.images)}
        caption_rows = {item.caption_id: row for row, item in enumerate(self.split.captions)}
        images = torch.tensor([image_rows[image.image_id] for image in part.images])
        captions = [caption_rows[item.caption_id] for item in part.captions]
        return replace(
            self,
            split=part,
            texts=tuple(self.texts[row] for row in captions),
            store_rows=self.store_rows[images],
            text_rows=self.text_rows[torch.tensor(captions)],
        )


def cached_collection(
    cache: Cache,
    source: Source,
    backbone: Backbone,
    split_name: str,
    *,
    store: str | Path | None = None,
    wait: bool = True,
    rebuild: Callable[[], Backbone] | None = None,
) -> Collection:
    """A split with its tokens and features, from the cache or computed now.

    `store`, a folder or a URL, is read instead of the cache's own; it is refused if another
    backbone made it. If another run is writing a store, this waits for it, or fails with `wait`
    off. With several devices each process builds the backbone with `rebuild`, a function that can
    be pickled; without it, the backbone itself is sent.

    Raises:
        EdjeError: the data is bad, or a store doesn't match or can't be written.
    """
    split, storage = source.read(split_name), cache.storage
    fingerprints = raw_fingerprints(split, backbone.identity(), storage)
    folder, fingerprint = find_store(cache.folder, source.name, split_name, "raw", fingerprints)
    if store is None:
        fill_store(
            folder,
            fingerprint,
            make_codec(storage.raw_codec, backbone.num_tokens, backbone.token_width),
            lambda: VisionWork(
                check_images(split, source.bad_images), backbone, storage.tower_precision, rebuild
            ),
            storage,
            cache.devices,
            wait=wait,
            by_all_ranks=cache.by_all_ranks,
        )
    opened = open_store(folder if store is None else store, fingerprints)
    return collection_of(cache, source, split, backbone, opened, wait=wait)


def raw_fingerprints(
    split: RetrievalSplit, identity: Identity, storage: Storage
) -> tuple[Fingerprint, ...]:
    """The fingerprints of a split's raw tier: backbone, number format, images.

    A tower in bf16 makes another store. TF32 and float32 count as the same store, as do a GPU and
    a CPU. The present fingerprint comes first, then the one that version 0.1.0, which didn't record
    the decoder of the images, gave the same store.
    """
    precision = storage.tower_precision
    coarse = {"tower_precision": precision} if precision == "bf16" else {}
    facts = {"codec": storage.raw_codec, "images": images_digest(split)}
    former = {**identity, **coarse, **facts}
    return Fingerprint({**former, "decoder": decoder.VERSION}), Fingerprint(former)


def collection_of(
    cache: Cache,
    source: Source,
    split: RetrievalSplit,
    backbone: Backbone,
    opened: TokenStore,
    *,
    wait: bool = True,
) -> Collection:
    """A split with the tokens of an open store, raw or compressed, and its captions' features.

    Raises:
        EdjeError: the store lacks images of the split; or its captions' features can't be written
            or, with `wait` off, are being written.
    """
    split = _present(split, opened, source.bad_images)
    texts = tuple(clean_caption(caption.text) for caption in split.captions)
    if bare := [
        item.caption_id for item, text in zip(split.captions, texts, strict=True) if not text
    ]:
        log.warning(
            "%s: after cleaning, %d captions of split %s are empty; they stay in it as empty "
            "texts: %s",
            split.dataset,
            len(bare),
            split.name,
            ", ".join(bare[:3]) + ("" if len(bare) < 4 else ", …"),
        )
    rows = opened.rows_of([image.image_id for image in split.images])
    return Collection(
        split=split,
        texts=texts,
        store=opened,
        store_rows=rows,
        text_table=caption_features(
            split,
            texts,
            backbone,
            cache.folder,
            source.name,
            cache.device,
            wait=wait,
        ),
        text_rows=torch.arange(len(texts)),
    )


def is_compressed(store: TokenStore) -> bool:
    """Whether a store is of the compressed tier, with an adapter's tokens, not the backbone's."""
    return "adapter" in store.manifest.fingerprint.fields


class VisionWork:
    """The vision tower over a split's images.

    Another process builds the tower with `rebuild`; without it the tower is pickled.
    """

    def __init__(
        self,
        split: RetrievalSplit,
        backbone: Backbone,
        precision: TowerPrecision,
        rebuild: Callable[[], Backbone] | None = None,
    ):
        self.image_ids = [image.image_id for image in split.images]
        self.description = f"vision tokens of {split.name}"
        self.feature_width = backbone.feature_width
        self.precision: TowerPrecision = precision
        self._paths = [image.path for image in split.images]
        self._rebuild = rebuild
        self._backbone: Backbone | None = backbone

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ if self._rebuild is None else self.__dict__ | {"_backbone": None}

    def encoder(self) -> Encoder:
        """From pixels to tokens."""
        return Tower(self._built())

    def dataset(self) -> PixelRows:
        """From rows to pixels."""
        return PixelRows(self._paths, self._built().preprocess)

    def _built(self) -> Backbone:
        if self._backbone is None:
            assert self._rebuild is not None  # otherwise it was pickled
            self._backbone = self._rebuild()
        return self._backbone


class Tower(Encoder):
    """A backbone as the encoder of image files."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def predict_step(self, batch: ShardBatch, batch_idx: int) -> ImageEncoding:
        """Tokens and features of a batch of pixels."""
        return self.backbone.encode_images(batch.inputs)


def _present(split: RetrievalSplit, store: TokenStore, bad_images: BadImages) -> RetrievalSplit:
    """The split without the images that were left out when the store was written, which is logged.

    Raises:
        EdjeError: some were left out and the policy is `error`, or the store is of another split.
    """
    stored = set(store.image_ids)
    absent = [image.image_id for image in split.images if image.image_id not in stored]
    if not absent:
        return split
    if len(absent) == len(split.images):
        raise EdjeError(
            f"store={store.folder}: it holds none of the {len(split.images)} images of split "
            f"{split.name!r} of {split.dataset}. Give the store of that split, or store=null."
        )
    if bad_images == "error":
        raise EdjeError(
            f"store {store.folder}: it was written with data.bad_images=skip and lacks "
            f"{len(absent)} unreadable images, such as {absent[0]}. Continue with "
            "data.bad_images=skip, or fix the images and delete the store."
        )
    log.warning(
        "%s: store %s lacks %d of %d images of split %s, which were unreadable when it was "
        "written: %s",
        split.dataset,
        store.folder,
        len(absent),
        len(split.images),
        split.name,
        ", ".join(absent),
    )
    left_out = (image for image in split.images if image.image_id not in stored)
    now = next((one for one in left_out if decoder.problem_of(one.path) is None), None)
    if now is not None:
        log.warning(
            "of these, %s is readable by now. Delete the store to have such images encoded too",
            now.image_id,
        )
    return replace(split.restricted(stored), skipped=tuple(sorted({*split.skipped, *absent})))
