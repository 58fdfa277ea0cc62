"""From pictures to visual tokens and embeddings, with a run's tower, adapter and codecs."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from edje.backbones.protocol import Backbone
from edje.captions import clean_caption
from edje.cores import cores
from edje.errors import EdjeError
from edje.images.pictures import Picture, rgb_of
from edje.inference.encoded_images import EncodedImages
from edje.inference.precisions import has_bf16
from edje.inference.run_choices import RunChoices
from edje.models.edje import EDJE
from edje.ranges import check_count
from edje.retrieval.exact import own_arithmetic, products_in
from edje.tokens.codec import Codec, make_codec

MOST_THREADS = 16  # that read and decode pictures
TEXTS_AT_ONCE = 256
Given = TypeVar("Given")
Prepared = TypeVar("Prepared")


class PictureEncoder:
    """Computes a picture's embedding and visual tokens, and a text's embedding.

    The numbers are those of the run's stores: the tower's tokens pass through the raw tier's
    codec, the adapter's output through the compressed tier's. It computes where the model is.
    """

    def __init__(self, backbone: Backbone, model: EDJE, choices: RunChoices):
        self.backbone = backbone
        self.model = model
        self.precision = choices.tower_precision
        self.raw = make_codec(choices.raw_codec, backbone.num_tokens, backbone.token_width)
        self.compressed = make_codec(
            choices.compressed_codec, int(model.adapter.num_tokens), model.joint.width
        )

    def images(
        self,
        pictures: Sequence[Picture | Tensor],
        batch_size: int,
        show_progress_bar: bool | None,
        places: Sequence[int] | None = None,
    ) -> EncodedImages:
        """Embeddings and tokens; threads prepare pictures while the tower runs.

        `places` are the pictures' in the caller's list, for messages; by default from 0.

        Raises:
            EdjeError: a picture can't be read (the message gives its place), or `batch_size` is
                below 1.
        """
        check_count("batch_size", batch_size, 1)
        places = range(len(pictures)) if places is None else places
        width = self.backbone.embedding_width
        dtype = stored_type(self.compressed)
        shape = (len(pictures), self.compressed.num_tokens, self.compressed.width)
        embeddings, tokens = torch.empty(len(pictures), width), torch.empty(shape, dtype=dtype)
        done = 0
        hidden = len(pictures) <= batch_size if show_progress_bar is None else not show_progress_bar
        with tqdm(total=len(pictures), desc="encode", unit="image", disable=hidden) as bar:
            for batch in prepared_ahead(self.prepared, pictures, batch_size):
                rows = slice(done, done + len(batch))
                ready = zip(places[rows], batch, strict=True)
                pixels = torch.stack([_pixels_of(place, one) for place, one in ready])
                embeddings[rows], cells = self.encoded(pixels)
                tokens[rows] = self.compressed.decode(torch.from_numpy(cells), dtype)
                done = rows.stop
                bar.update(len(pixels))
        return EncodedImages(embeddings, tokens)

    def texts(self, texts: Sequence[str]) -> Float[Tensor, "texts embedding"]:
        """L2-normalised embeddings of texts, on the CPU; the texts are cleaned here."""
        cleaned = [clean_caption(text) for text in texts]
        embeddings = torch.empty(len(cleaned), self.backbone.embedding_width)
        device = self._device()
        for first in range(0, len(cleaned), TEXTS_AT_ONCE):
            some = slice(first, first + TEXTS_AT_ONCE)
            with torch.inference_mode():
                with products_in("tf32", device):
                    features = self.backbone.encode_texts(cleaned[some])
                embeddings[some] = self.backbone.project_texts(features).float().cpu()
        return embeddings

    def prepared(self, picture: Picture | Tensor) -> Float[Tensor, "channels height width"]:
        """A picture decoded and shrunk for the tower; a tensor is one already. For any thread.

        Raises:
            EdjeError: it can't be read.
        """
        return picture if isinstance(picture, Tensor) else self.backbone.preprocess(rgb_of(picture))

    @own_arithmetic()
    @torch.no_grad()
    def encoded(
        self, pixels: Float[Tensor, "images channels height width"]
    ) -> tuple[Float[Tensor, "images embedding"], UInt8[np.ndarray, "images _"]]:
        """Embeddings of preprocessed pictures, and their tokens as cells of the codec `compressed`.

        Raises:
            EdjeError: a token is not finite, or too large for the codec.
        """
        device = self._device()
        # Without bf16 instructions, bf16 is many times slower than float32, hardly differing.
        in_half = self.precision == "bf16" and has_bf16(device)
        half = torch.autocast(device.type, torch.bfloat16, enabled=in_half)
        with products_in(self.precision, device), half:
            encoding = self.backbone.encode_images(pixels.to(device))
        embeddings = self.backbone.project_images(encoding.features.float())
        stored = torch.from_numpy(self.raw.encode(encoding.tokens))
        visual = self.model.compress(self.raw.decode(stored, torch.float32, device))
        return embeddings.float().cpu(), self.compressed.encode(visual.float())

    def _device(self) -> torch.device:
        """The model's device, where the backbone is brought, too."""
        device = next(self.model.parameters()).device
        if isinstance(self.backbone, torch.nn.Module):
            own = next(self.backbone.parameters(), None)
            if own is not None and own.device != device:
                self.backbone.to(device)
        return device


def prepared_ahead(
    prepare: Callable[[Given], Prepared], given: Sequence[Given], batch_size: int
) -> Iterator[list[Future[Prepared]]]:
    """What threads make of the given things, in batches that the caller waits for.

    One more batch is prepared while one is used.
    """
    threads = min(MOST_THREADS, cores(), max(len(given), 1))
    with ThreadPoolExecutor(threads) as pool:
        waiting: list[Future[Prepared]] = []
        started = 0
        try:
            for first in range(0, len(given), batch_size):
                for one in given[started : first + 2 * batch_size]:
                    # PIL reads an opened file on first use: never in two threads.
                    under_way = zip(given[first:started], waiting, strict=True)
                    same = next((future for other, future in under_way if other is one), None)
                    waiting.append(same or pool.submit(prepare, one))
                    started += 1
                batch, waiting = waiting[:batch_size], waiting[batch_size:]
                yield batch
        finally:
            for future in waiting:
                future.cancel()


def _pixels_of(place: int, prepared: Future[Tensor]) -> Tensor:
    try:
        return prepared.result()
    except EdjeError as error:
        raise EdjeError(f"picture {place} (from 0): {error}") from error


def stored_type(codec: Codec) -> torch.dtype:
    """The float type that holds a codec's values without further loss."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(codec.name, torch.float32)
