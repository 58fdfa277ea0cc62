"""Training on a mixture that is encoded on the fly: what takes the place of a cached split."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hydra.utils import instantiate
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor

from edje.backbones.protocol import Backbone
from edje.data.datamodules.batches import each_tensor
from edje.data.datamodules.cached_datamodule import CachedTokenDataModule
from edje.data.datamodules.stream_datamodule import EncodedPairs, StreamDataModule
from edje.data.mixture.pretrain import DEV, PretrainSource
from edje.inference.checkpoint import Checkpoint
from edje.inference.pinned import sent
from edje.language_model import MAX_TRAINING_TOKENS, LanguageModel, tokenize
from edje.pipeline.collection import Collection, cached_collection
from edje.pipeline.devices import move
from edje.pipeline.first_stage import embeddings


@dataclass(frozen=True)
class Feed:
    """What a reranker is trained on and chosen by."""

    train: Collection | None  # None where it is not cached
    num_pairs: int  # of one pass
    first_stage: tuple[Tensor, Tensor, Tensor] | None  # embeddings and image of each caption
    dev: Collection | None
    datamodule: Callable[
        [LanguageModel, Checkpoint | None], CachedTokenDataModule | StreamDataModule
    ]


def streamed_feed(cfg: DictConfig, source: PretrainSource, backbone: Backbone) -> Feed:
    """The mixture, encoded on the fly; dev and the statistics from the cached evaluated source.

    Raises:
        EdjeError: annotations, tars, images or the evaluated source are missing or broken.
    """
    dev = None
    if source.dev_images:
        dev = cached_collection(cfg, source, backbone, DEV)
    mixture = source.mixture()
    return Feed(
        train=None,
        num_pairs=sum(block.visits for block in mixture.blocks),
        first_stage=None if dev is None else (*embeddings(backbone, dev), dev.image_of_caption),
        dev=dev,
        datamodule=lambda language_model, _: instantiate(
            cfg.loader,
            mixture,
            backbone.preprocess,
            FrozenEncoder(backbone, language_model),
            source.bad_pairs,
            cfg.seed,
        ),
    )


class FrozenEncoder:
    """Encodes batches with the frozen backbone, on the device where their pixels are."""

    def __init__(self, backbone: Backbone, language_model: LanguageModel):
        self.backbone = backbone
        self.tokenizer = language_model.tokenizer

    def __call__(
        self, pixels: Float[Tensor, "batch 3 height width"], texts: list[str]
    ) -> EncodedPairs:
        """Tokens, words and both embeddings of a batch; its captions are clean already."""
        backbone, device = self.backbone, pixels.device
        move(backbone, device)
        encoding = backbone.encode_images(pixels)
        features = backbone.encode_texts(texts)
        words = tokenize(self.tokenizer, texts, MAX_TRAINING_TOKENS)
        with torch.autocast(device.type, enabled=False):  # as where embeddings are cached
            images = backbone.project_images(encoding.features.float())
            captions = backbone.project_texts(features.float())
        return EncodedPairs(
            tokens=encoding.tokens,
            text=each_tensor(words, lambda own: sent(own, device)),
            image_embeddings=images,
            text_embeddings=captions,
        )

    def release(self) -> None:
        """Bring the backbone back to where the caching of stores expects it."""
        move(self.backbone, torch.device("cpu"))
