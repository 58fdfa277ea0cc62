"""One split with everything cached: tokens in their store, features of images and captions."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from edje.backbones.protocol import Backbone, Identity
from edje.captions import clean_caption
from edje.data.images import check_images, images_digest, open_image
from edje.data.source import BadImages, Source
from edje.errors import EdjeError
from edje.records import RetrievalSplit
from edje.tokens.codec import Codec, CodecName, make_codec
from edje.tokens.fingerprint import Fingerprint, store_folder
from edje.tokens.store import TokenStore
from edje.tokens.text import EmbeddingTable
from edje.tokens.writer import write_store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collection:
    """A split's images and captions, their tokens and unprojected features, by row."""

    split: RetrievalSplit
    texts: tuple[str, ...]  # cleaned captions
    store: TokenStore
    store_rows: Int[Tensor, "images"]
    image_features: Float[Tensor, "images features"]
    text_features: Float[Tensor, "captions text_features"]

    @property
    def image_of_caption(self) -> Int[Tensor, "captions"]:
        """Row of each caption's image."""
        return torch.tensor(self.split.image_of_caption())

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
            image_features=self.image_features[images],
            text_features=self.text_features[torch.tensor(captions)],
        )


def cached_collection(
    source: Source,
    backbone: Backbone,
    split_name: str,
    cache_dir: Path,
    *,
    codec_name: CodecName,
    store: Path | None = None,
    wait: bool = True,
) -> Collection:
    """A split with its tokens and features, from the cache or computed now.

    `store` names a store to be read in place of the cache's own; it is refused where another
    backbone made it.

    Raises:
        EdjeError: the data is bad, or a store doesn't match.
    """
    split = source.read(split_name)
    codec = make_codec(codec_name, backbone.num_tokens, backbone.token_width)
    fingerprint = raw_fingerprint(split, backbone.identity(), codec_name)
    folder = store or store_folder(cache_dir, source.name, split_name, "raw", fingerprint)
    if store is None and not (folder / "store.json").is_file():
        checked = check_images(split, source.bad_images)
        _write_tokens(checked, backbone, folder, fingerprint, codec, wait)
    return collection_of(source, split, backbone, TokenStore.open(folder, fingerprint), cache_dir)


def raw_fingerprint(split: RetrievalSplit, identity: Identity, codec_name: str) -> Fingerprint:
    """What makes a split's raw tier: the backbone, the number format, the images."""
    return Fingerprint({**identity, "codec": codec_name, "images": images_digest(split)})


def collection_of(
    source: Source, split: RetrievalSplit, backbone: Backbone, opened: TokenStore, cache_dir: Path
) -> Collection:
    """A split with the tokens of an open store, raw or compressed, and its captions' features.

    Raises:
        EdjeError: the store lacks images of the split.
    """
    split = _present(split, opened, source.bad_images)
    texts = tuple(clean_caption(caption.text) for caption in split.captions)
    rows = opened.rows_of([image.image_id for image in split.images])
    return Collection(
        split=split,
        texts=texts,
        store=opened,
        store_rows=rows,
        image_features=opened.features()[rows],
        text_features=_text_features(split, texts, backbone, cache_dir, source.name),
    )


def is_compressed(store: TokenStore) -> bool:
    """Whether a store is of the compressed tier: an adapter's tokens, not the backbone's."""
    return "adapter" in store.manifest.fingerprint.fields


def _write_tokens(
    split: RetrievalSplit,
    backbone: Backbone,
    folder: Path,
    fingerprint: Fingerprint,
    codec: Codec,
    wait: bool,
) -> None:
    paths = [image.path for image in split.images]

    def encode(rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        pixels = torch.stack([backbone.preprocess(open_image(paths[row])) for row in rows])
        encoding = backbone.encode_images(pixels)
        return encoding.tokens, encoding.features

    with tqdm(total=len(paths), desc=f"vision tokens of {split.name}", unit="image") as bar:
        write_store(
            folder,
            fingerprint,
            [image.image_id for image in split.images],
            codec,
            backbone.feature_width,
            encode,
            progress=bar.update,
            wait=wait,
        )


def _present(split: RetrievalSplit, store: TokenStore, bad_images: BadImages) -> RetrievalSplit:
    """The split without the images that were left out when the store was written.

    Raises:
        EdjeError: some were, and the policy is `error`; or the store is of another split.
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
            f"{len(absent)} unreadable images, such as {absent[0]}. Go on with "
            "data.bad_images=skip, or mend the images and delete the store."
        )
    return replace(
        split,
        images=tuple(image for image in split.images if image.image_id in stored),
        captions=tuple(item for item in split.captions if item.image_id in stored),
        skipped=tuple(sorted({*split.skipped, *absent})),
    )


def _text_features(
    split: RetrievalSplit,
    texts: Sequence[str],
    backbone: Backbone,
    cache_dir: Path,
    dataset: str,
) -> Tensor:
    ids = [caption.caption_id for caption in split.captions]
    digest = hashlib.sha256("\n".join([*ids, *texts]).encode()).hexdigest()
    fingerprint = Fingerprint({**backbone.text_identity(), "captions": digest})
    folder = store_folder(cache_dir, dataset, split.name, "text", fingerprint)
    if not (folder / "table.json").is_file():
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        features = torch.empty(len(texts), backbone.text_width)
        chunks = torch.tensor(order).split(256)
        for rows in tqdm(chunks, desc=f"captions of {split.name}", unit="batch"):
            features[rows] = backbone.encode_texts([texts[row] for row in rows.tolist()])
        EmbeddingTable.write(folder, fingerprint, ids, features)
    return EmbeddingTable.open(folder, fingerprint).matrix
