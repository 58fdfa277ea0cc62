"""The training data of a reranker: a cached split, or a mixture that is encoded on the fly."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from edje.backbones.protocol import Backbone
from edje.data.datamodules.batches import each_tensor
from edje.data.datamodules.cached_datamodule import CachedTokenDataModule, caption_keys
from edje.data.datamodules.stored_pairs import TrainingSet
from edje.data.datamodules.stream_datamodule import EncodedPairs, StreamDataModule
from edje.data.mixture.pretrain import DEV, PretrainSource
from edje.data.sources.holdout import hold_out
from edje.data.sources.source import Source, split_digest
from edje.errors import EdjeError
from edje.inference.pinned import sent
from edje.inference.precisions import has_bf16
from edje.language_model import MAX_TRAINING_TOKENS, LanguageModel, tokenize
from edje.pipeline.collection import Collection, cached_collection
from edje.pipeline.compressed import stored_tokens
from edje.pipeline.devices import move
from edje.pipeline.first_stage import align, embeddings, restore_first_stage
from edje.pipeline.mining import Mining
from edje.pipeline.preparation import Prepared, Training
from edje.pipeline.token_cache import Cache

log = logging.getLogger(__name__)
StreamLoading = Callable[..., StreamDataModule]  # takes a mixture, a backbone and so on


@dataclass(frozen=True)
class Feed:
    """The data that a reranker is trained on and selected with."""

    datamodule: CachedTokenDataModule | StreamDataModule
    train: Collection | None  # None if it is not cached
    dev: Collection | None
    num_pairs: int  # of one pass
    first_stage: tuple[Tensor, Tensor, Tensor] | None  # embeddings and image of each caption

    @property
    def known(self) -> Collection | None:
        """The images and captions whose first stage is known."""
        return self.train or self.dev

    def facts(self) -> str:
        """What is trained and chosen on, as counts and a digest: the same text for the same data.

        The places of the data and the times of its files don't count.
        """
        facts, said = [], f"{self.num_pairs:,} pairs"
        for part in (self.train, self.dev):
            if part is not None:
                facts += [split_digest(part.split), part.store.manifest.fingerprint.digest]
        if self.train is not None:
            said = f"{len(self.train.split.images):,} images with {self.num_pairs:,} captions"
        if isinstance(self.datamodule, StreamDataModule):
            facts.append(self.datamodule.order.digest)
            facts += [table.digest for table in self.datamodule.pairs.mixture.tables]
        digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        return f"{said} (digest {digest[:12]})"


def check_size(source: Source, batch_size: int) -> None:
    """Refuse a training split smaller than a batch, before anything is encoded.

    Raises:
        EdjeError: it is smaller.
    """
    split = source.read("train")
    if source.dev_images:
        split, _ = hold_out(split, source.dev_images, source.dev_seed)
    if len(split.captions) < batch_size:
        raise EdjeError(
            f"loader.batch_size={batch_size}: {source.name} has {len(split.captions)} captions to "
            "train on. Lower loader.batch_size."
        )


def train_and_dev(source: Source, whole: Collection) -> tuple[Collection, Collection | None]:
    """The train split without its dev images, and dev (None if no images are held back)."""
    if source.dev_images == 0:
        return whole, None
    rest, dev = hold_out(whole.split, source.dev_images, source.dev_seed)
    return whole.restricted(rest), whole.restricted(dev)


def cached_feed(
    cache: Cache,
    source: Source,
    backbone: Backbone,
    training: Training,
    prepared: Prepared,
    *,
    rebuild: Callable[[], Backbone] | None = None,
) -> Feed:
    """The train split from its stores, with the first stage fitted unless the start has brought it.

    A teacher's stored tokens are used if there are any. `rebuild` is as in `cached_collection`.

    Raises:
        EdjeError: the data is bad, too small for a batch, or a store can't be written.
    """
    check_size(source, training.loading.batch_size)
    whole = cached_collection(cache, source, backbone, "train", rebuild=rebuild)
    train, dev = train_and_dev(source, whole)
    if prepared.checkpoint.first_stage:
        restore_first_stage(backbone, prepared.checkpoint.first_stage)
    else:
        align(backbone, train, cache, source.dev_seed)
    images, captions = embeddings(backbone, train)
    loading, scoring = training.loading, training.scoring
    mining = Mining(cache, loading, scoring, train, images, captions, prepared.miner)
    taught = None
    if prepared.teacher is not None:
        taught = stored_tokens(cache, source, "train", prepared.teacher)
    if taught is not None:
        log.info("the teacher's tokens are read from %s; its adapter doesn't run", taught.folder)
    ids = [image.image_id for image in train.split.images]
    tokenizer = prepared.checkpoint.language_model.tokenizer
    pairs = TrainingSet(
        store=train.store,
        store_rows=train.store_rows,
        text=tokenize(tokenizer, train.texts, MAX_TRAINING_TOKENS),
        image_of_caption=train.image_of_caption,
        caption_keys=caption_keys(train.texts),
        image_embeddings=images,
        text_embeddings=captions,
        teacher=taught,
        teacher_rows=None if taught is None else taught.rows_of(ids),
    )
    return Feed(
        datamodule=CachedTokenDataModule(pairs, mining.lists(), training.seed, loading),
        train=train,
        dev=dev,
        num_pairs=len(train.texts),
        first_stage=(images, captions, train.image_of_caption),
    )


def streamed_feed(
    cache: Cache,
    source: PretrainSource,
    backbone: Backbone,
    training: Training,
    prepared: Prepared,
    loading: StreamLoading,
    *,
    rebuild: Callable[[], Backbone] | None = None,
) -> Feed:
    """The mixture, encoded on the fly; dev and statistics come from the cached evaluated source.

    `loading` is StreamDataModule with its options, for example through functools.partial.

    Raises:
        EdjeError: annotations, tars, images or the evaluated source are missing or broken.
    """
    if prepared.checkpoint.first_stage:
        restore_first_stage(backbone, prepared.checkpoint.first_stage)
    dev = None
    if source.dev_images:
        dev = cached_collection(cache, source, backbone, DEV, rebuild=rebuild)
    mixture = source.mixture()
    encoder = FrozenEncoder(backbone, prepared.checkpoint.language_model)
    return Feed(
        datamodule=loading(
            mixture, backbone.preprocess, encoder, source.bad_pairs, training.seed, has_bf16
        ),
        train=None,
        dev=dev,
        num_pairs=sum(block.visits for block in mixture.blocks),
        first_stage=None if dev is None else (*embeddings(backbone, dev), dev.image_of_caption),
    )


class FrozenEncoder:
    """Encodes batches with the frozen backbone, on the device of their pixels."""

    def __init__(self, backbone: Backbone, language_model: LanguageModel):
        self.backbone = backbone
        self.tokenizer = language_model.tokenizer

    def __call__(
        self, pixels: Float[Tensor, "batch 3 height width"], texts: list[str]
    ) -> EncodedPairs:
        """Tokens, words and both embeddings of a batch, whose captions are already cleaned."""
        backbone, device = self.backbone, pixels.device
        move(backbone, device)
        encoding = backbone.encode_images(pixels)
        features = backbone.encode_texts(texts)
        words = tokenize(self.tokenizer, texts, MAX_TRAINING_TOKENS)
        with torch.autocast(device.type, enabled=False):  # as for cached embeddings
            images = backbone.project_images(encoding.features.float())
            captions = backbone.project_texts(features.float())
        return EncodedPairs(
            tokens=encoding.tokens,
            text=each_tensor(words, lambda own: sent(own, device)),
            image_embeddings=images,
            text_embeddings=captions,
        )

    def release(self) -> None:
        """Move the backbone back to the CPU, where the caching of stores expects it."""
        move(self.backbone, torch.device("cpu"))
