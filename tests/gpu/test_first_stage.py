"""Claims about captions' features and the first stage on a device."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.pipeline.caption_features import caption_features
from edje.pipeline.first_stage_statistics import fix_statistics
from edje.records import CaptionRecord, ImageRecord, RetrievalSplit
from edje.retrieval.candidates import candidate_lists
from edje.retrieval.similar_images import similar_images
from tests.gpu.sizes import DEVICE, IS_REAL, embeddings, reranker
from tests.tiny.towers import make_siglip
from tests.tiny.words import WORDS

pytestmark = pytest.mark.gpu
IMAGES, WIDE = (20_000, 100) if IS_REAL else (60, 20)
OWNER = torch.arange(2 * IMAGES) // 2


@pytest.fixture(autouse=True)
def tf32_allowed() -> Iterator[None]:
    """As a run may allow it for its training."""
    backend = torch.backends.cuda.matmul
    before = backend.fp32_precision
    backend.fp32_precision = "tf32"
    yield
    backend.fp32_precision = before


def sides(device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    captions = embeddings(2 * IMAGES).flip(0)
    return embeddings(IMAGES).to(device), captions.to(device), OWNER.to(device)


def test_captions_are_read_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = HuggingFaceBackbone(pretrained=str(make_siglip(tmp_path / "siglip")))
    texts = [f"{WORDS[row % 10]} {WORDS[row % 7]}" for row in range(50)]
    captions = [CaptionRecord(f"{row:03d}", "image", text) for row, text in enumerate(texts)]
    images = [ImageRecord("image", "image")]
    places = []
    encode = backbone.encode_texts

    def watched(texts: list[str]) -> torch.Tensor:
        places.append(backbone.model.device.type)
        return encode(texts)

    monkeypatch.setattr(backbone, "encode_texts", watched)
    split = RetrievalSplit("tiny", "train", tuple(images), tuple(captions))
    table = caption_features(split, texts, backbone, tmp_path / "cache", "tiny", DEVICE)
    assert places == [DEVICE.type] and backbone.model.device.type == "cpu"
    # In TF32, where it is allowed: ten bits of each product's factors.
    tolerance = 1e-2 if IS_REAL else 1e-6
    expected = encode(texts)
    error = (table.matrix - expected).norm() / expected.norm()
    assert error < tolerance


def test_lists_are_found_in_full_float32_though_tf32_is_allowed() -> None:
    lists = candidate_lists(*sides(DEVICE), "i2t", WIDE)
    images, captions, _ = sides("cpu")
    exact = torch.einsum("id,ipd->ip", images.double(), captions.double()[lists.candidates.cpu()])
    torch.testing.assert_close(lists.scores.cpu().double(), exact, rtol=0, atol=2e-6)


def test_statistics_from_the_device_are_those_of_the_cpu(tmp_path: Path) -> None:
    found: list[Any] = []
    for device in (DEVICE, torch.device("cpu")):
        model = reranker(residual=True)
        fix_statistics(model, *sides("cpu"), tmp_path / str(len(found)), device)
        found.append((model.first_stage_mean, model.first_stage_deviation))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_images_mined_on_the_device_are_those_of_the_cpu() -> None:
    """Up to neighbours that change places, as products are summed up in another order."""
    one, other = (similar_images(*sides(device), 5).cpu() for device in (DEVICE, "cpu"))
    assert (one == other).float().mean() > 0.99
