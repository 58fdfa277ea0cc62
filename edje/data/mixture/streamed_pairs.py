"""Batches of a mixture, read and decoded by the loader's workers."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from edje.captions import clean_caption
from edje.data.datamodules.batches import Batch
from edje.data.mixture.order import MixtureOrder, Rows
from edje.data.mixture.pairs import Pair
from edje.data.mixture.pretrain import Mixture
from edje.data.mixture.tar_members import read_bytes
from edje.errors import EdjeError
from edje.images.decoder import open_image

Preprocess = Callable[[Image.Image], Float[Tensor, "3 height width"]]
TRIES = 100  # for one place in a batch


@dataclass(frozen=True)
class Place:
    """A batch's position in the run, over all ranks, and its rows."""

    position: int
    rows: Rows


@dataclass(frozen=True)
class DecodedPairs(Batch):
    """A batch from the workers: pixels, cleaned captions, and the bad pairs met on the way."""

    sample_ids: Int[Tensor, "batch"]
    image_ids: Int[Tensor, "batch"]
    caption_keys: Int[Tensor, "batch"]
    pixels: Float[Tensor, "batch 3 height width"]
    texts: list[str]
    problems: list[str]


class StreamedPairs(Dataset[DecodedPairs | EdjeError]):
    """Gathers whole batches; a bad pair is replaced by another, randomly drawn one.

    A batch is a function of (seed, position) and the files alone, and always has full size. If
    nothing can be read any more, the error is returned as the batch: raised in a worker, it would
    reach the user wrapped in a traceback.
    """

    def __init__(self, mixture: Mixture, order: MixtureOrder, preprocess: Preprocess):
        self.mixture = mixture
        self.order = order
        self.preprocess = preprocess

    def __getitem__(self, place: Place) -> DecodedPairs | EdjeError:
        decoded, problems = [], []
        for slot, row in enumerate(place.rows.tolist()):
            draws = np.random.default_rng((self.order.seed, 3, place.position, slot))
            for _ in range(TRIES):
                try:
                    decoded.append(self._pair(row, draws))
                    break
                except EdjeError as error:
                    problems.append(str(error))
                    row = self.order.any_row(draws)
            else:
                return EdjeError(
                    f"data.sources: {TRIES} pairs, drawn one after the other, can't be read. Are "
                    f"the images still in their place? The last: {problems[-1]}"
                )
        rows, images, keys, pixels, texts = zip(*decoded, strict=True)
        return DecodedPairs(
            sample_ids=torch.tensor(rows),
            image_ids=torch.tensor(images),
            caption_keys=torch.tensor(keys),
            pixels=torch.stack(pixels),
            texts=list(texts),
            problems=problems,
        )

    def _pair(self, row: int, draws: np.random.Generator) -> tuple[int, int, int, Tensor, str]:
        """Row, number of the image, number of the caption, pixels, cleaned caption.

        Raises:
            EdjeError: the image can't be read, or cleaning leaves nothing of the caption.
        """
        root, pair = self.mixture.pair(row)
        text = clean_caption(pair.captions[draws.integers(len(pair.captions))])
        if not text:
            raise EdjeError(f"{root / str(pair)}: cleaning leaves nothing of its caption.")
        image = opened(root, pair)
        try:
            pixels = self.preprocess(image)
        except ValueError as error:  # such as an image one pixel wide
            raise EdjeError(f"{root / str(pair)}: can't be preprocessed ({error}).") from error
        return row, number_of(f"{root / pair.file}\n{pair.offset}"), number_of(text), pixels, text


class StreamSampler(Sampler[Place]):
    """The batches of a run in order, each a function of (seed, number). Ranks take turns.

    Args:
        num_batches: batches of this rank from the run's start to its end.
        first_batch: batches of this rank that an earlier part of the run has seen.
    """

    def __init__(
        self,
        order: MixtureOrder,
        batch_size: int,
        num_batches: int,
        first_batch: int,
        rank: int,
        num_ranks: int,
    ):
        self.order = order
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.first_batch = first_batch
        self.rank = rank
        self.num_ranks = num_ranks

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Place]:
        per_pass = self.order.rows // self.batch_size  # over all ranks; a rest is dropped
        for number in range(self.first_batch, self.num_batches):
            position = number * self.num_ranks + self.rank
            turn, batch = divmod(position, per_pass)
            yield Place(position, self.order.at(turn, batch * self.batch_size, self.batch_size))


def opened(root: Path, pair: Pair) -> Image.Image:
    """The decoded image of a pair, from its file or its tar.

    Raises:
        EdjeError: it can't be read.
    """
    if pair.member is None:
        return open_image(root / pair.file)
    try:
        with (root / pair.file).open("rb", buffering=0) as tar:
            content = read_bytes(tar, pair.offset, pair.size)
    except OSError as error:
        raise EdjeError(f"{root / pair.file}: {pair.member} is not readable ({error}).") from error
    return open_image(f"{root / pair.file}/{pair.member}", content)


def number_of(text: str) -> int:
    """A number that is the same for equal texts, and almost never for different ones."""
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
