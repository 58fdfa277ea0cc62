"""Pictures go through the tower in batches, prepared by threads, in their order."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edje.errors import EdjeError
from edje.inference.picture_encoder import PictureEncoder
from edje.inference.run_choices import RunChoices
from tests.tiny.bright_tower import BrightTower
from tests.tiny.rerankers import FACTS, tiny_checkpoint


@pytest.fixture
def encoder() -> PictureEncoder:
    return PictureEncoder(BrightTower(), tiny_checkpoint().model, RunChoices())


def picture(number: int) -> np.ndarray:
    return np.full((2, 2, 3), number, np.uint8)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_any_batch_size_gives_every_picture_in_its_place(
    encoder: PictureEncoder, batch_size: int
) -> None:
    found = encoder.images([picture(number) for number in range(7)], batch_size, None)
    assert found.embeddings[:, 0].tolist() == list(range(7))
    assert len(found.tokens.unique(dim=0)) == 7 and found.tokens.dtype == torch.bfloat16
    assert sum(encoder.backbone.batches) == 7
    assert max(encoder.backbone.batches) == min(batch_size, 7)


class Once(Image.Image):
    """An image that is spoilt where two threads read it at once, as PIL's opened files are."""

    def __init__(self) -> None:
        super().__init__()
        plain = Image.new("RGB", (2, 2), (5, 5, 5))
        self.im, self._mode, self._size = plain.im, plain.mode, plain.size
        self.lock, self.spoilt = threading.Lock(), False

    def load(self) -> Any:
        if not self.lock.acquire(blocking=False):
            self.spoilt = True
            return super().load()
        time.sleep(0.02)
        self.lock.release()
        return super().load()


def test_an_opened_image_given_twice_is_never_read_by_two_threads(
    encoder: PictureEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(4))
    image = Once()
    found = encoder.images([image, picture(1), image, image], 2, None)
    assert found.embeddings[:, 0].tolist() == [5, 1, 5, 5] and not image.spoilt


def test_a_picture_that_cant_be_read_ends_it_at_once(encoder: PictureEncoder) -> None:
    read = SimpleNamespace(count=0)

    def counted() -> Any:
        for _ in range(500):
            read.count += 1
            yield picture(1)

    with pytest.raises(EdjeError, match=r"absent\.jpg can't be read"):
        encoder.images(["absent.jpg", *counted()], 2, None)
    assert encoder.backbone.batches == []


def test_embeddings_are_tensors_like_any_other(encoder: PictureEncoder) -> None:
    found = encoder.texts(["..." + "a" * (number % 7) for number in range(600)])
    assert found[:, 0].tolist() == [number % 7 for number in range(600)]
    embeddings, _ = encoder.encoded(encoder.prepared(picture(1))[None])
    assert not found.is_inference() and not embeddings.is_inference()
    assert encoder.texts([]).shape == (0, FACTS.embedding_width)


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("asked", ["bf16", "tf32"])
def test_the_tower_runs_in_bf16_where_its_run_did_and_the_device_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, here: bool, asked: str
) -> None:
    monkeypatch.setattr("edje.inference.picture_encoder.has_bf16", lambda device: here)
    tower, seen = BrightTower(), []
    encode = tower.encode_images
    monkeypatch.setattr(
        tower,
        "encode_images",
        lambda pixels: seen.append(torch.is_autocast_enabled("cpu")) or encode(pixels),
    )
    encoder = PictureEncoder(tower, tiny_checkpoint().model, RunChoices(tower_precision=asked))
    encoder.images([np.zeros((4, 4, 3), np.uint8)], 1, False)
    assert seen == [here and asked == "bf16"]
