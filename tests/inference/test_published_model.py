"""The published checkpoint by its name alone: from pictures and texts to the reference's scores."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import SiglipImageProcessor

from edje.errors import EdjeError
from edje.inference.reference import load_reference_checkpoint
from edje.inference.reranker import Reranker
from tests.inference.straight_line import write_fixture
from tests.tiny.hub_cache import COMMIT, put_into_cache
from tests.tiny.shared import PARITY
from tests.tiny.towers import make_siglip

NAME = "shahafw/edje-vl-image-retrieval-reranker"
TOWER, WORDS = "google/siglip2-large-patch16-384", "microsoft/MiniLM-L12-H384-uncased"
SIDES = {"own": 16, "recorded": 32}
KINDS = ("local", "compressed")


@pytest.fixture(scope="module", params=SIDES)
def fixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own fixture, or the one recorded with the reference where it is present."""
    folder = tmp_path_factory.mktemp("fixture") / request.param
    if request.param == "own":
        folder.mkdir()
        write_fixture(folder)
    elif PARITY.is_dir():
        shutil.copytree(PARITY, folder, copy_function=shutil.copyfile)
        (folder / "vision_tower").chmod(0o755)
    else:
        pytest.skip("no recorded fixture beside the project")
    square = {"height": SIDES[request.param], "width": SIDES[request.param]}
    SiglipImageProcessor(size=square).save_pretrained(folder / "vision_tower")
    return folder


@pytest.fixture
def towers(fixture: Path, hub: Path) -> Path:
    """A cache of the hub with the language model and the vision tower."""
    put_into_cache(hub, TOWER, fixture / "vision_tower")
    put_into_cache(hub, WORDS, fixture / "language_model")
    return hub


def pictures(count: int) -> list[np.ndarray]:
    draws = np.random.default_rng(0)
    return [draws.integers(0, 256, (24, 30, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize("file", ["epoch_2.pth", "weights/model final.bin", "compressed.pt"])
@pytest.mark.parametrize("kind", KINDS)
def test_its_logits_are_the_references(fixture: Path, towers: Path, kind: str, file: str) -> None:
    put_into_cache(towers, NAME, {file: fixture / f"{kind}_checkpoint.pth"})
    reranker = Reranker.from_pretrained(NAME, device="cpu")
    expected = load_file(fixture / "expected.safetensors")
    captions = json.loads((fixture / "captions.json").read_text())
    visual = reranker.compress(expected["vision_tokens"])
    torch.testing.assert_close(visual, expected[f"{kind}.projected_tokens"], rtol=0, atol=1e-5)
    for column, one in enumerate(visual):
        logits = reranker.score(captions, one.expand(len(captions), -1, -1))
        theirs = expected[f"{kind}.logits_caption_by_image"][:, column]
        torch.testing.assert_close(logits, theirs, rtol=0, atol=1e-5)
    assert reranker.precision == torch.float32
    assert NAME in reranker.checkpoint.label


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_ranked_as_its_parts_rank_them(
    fixture: Path, towers: Path, tmp_path: Path, kind: str
) -> None:
    """By name, by file, and saved: its towers, named with their commits, make the same tokens."""
    file = fixture / f"{kind}_checkpoint.pth"
    put_into_cache(towers, NAME, {"model.pth": file})
    reranker = Reranker.from_pretrained(NAME, device="cpu")
    query = json.loads((fixture / "captions.json").read_text())[0]
    hits = reranker.rank(query, pictures(5))
    assert [hit["score"] for hit in hits] == sorted((h["score"] for h in hits), reverse=True)
    assert len({hit["score"] for hit in hits}) == 5 and "probability" not in hits[0]

    backbone = reranker.picture_encoder.backbone
    pixels = torch.stack([backbone.preprocess(Image.fromarray(one)) for one in pictures(5)])
    parts = load_reference_checkpoint(
        file, language_model=fixture / "language_model", vision_tower=fixture / "vision_tower"
    )
    stored = backbone.encode_images(pixels).tokens.bfloat16().float()
    visual = parts.compress(stored).bfloat16().float()
    logits = parts.score([query] * 5, visual)
    for hit in hits:
        assert hit["score"] == pytest.approx(logits[hit["corpus_id"]].item(), abs=1e-5)

    assert Reranker.from_pretrained(file, device="cpu").rank(query, pictures(5)) == hits
    reranker.save_pretrained(tmp_path / "saved")
    about = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert about["run"]["backbone"]["pretrained"] == f"{TOWER}@{COMMIT}"
    assert (
        Reranker.from_pretrained(tmp_path / "saved", device="cpu").rank(query, pictures(5)) == hits
    )


@pytest.mark.parametrize("kind", KINDS)
def test_other_towers_than_its_own_are_named_with_the_next_step(
    fixture: Path, hub: Path, tmp_path: Path, kind: str
) -> None:
    put_into_cache(hub, WORDS, fixture / "language_model")
    put_into_cache(hub, TOWER, make_siglip(tmp_path / "other", width=24))
    put_into_cache(hub, NAME, {"model.pth": fixture / f"{kind}_checkpoint.pth"})
    with pytest.raises(EdjeError, match=f"it is read with {TOWER} and {WORDS}. For other") as said:
        Reranker.from_pretrained(NAME, device="cpu")
    assert "edje.load_reference_checkpoint" in str(said.value)


@pytest.mark.parametrize("missing", [TOWER, WORDS])
def test_offline_without_a_tower_it_says_what_to_fetch(
    fixture: Path, hub: Path, missing: str
) -> None:
    put_into_cache(hub, NAME, {"model.pth": fixture / "local_checkpoint.pth"})
    if missing == WORDS:
        put_into_cache(hub, TOWER, fixture / "vision_tower")
    for given in (NAME, fixture / "local_checkpoint.pth"):
        with pytest.raises(EdjeError, match=missing) as said:
            Reranker.from_pretrained(given, device="cpu")
        assert "hf download" in str(said.value) or "reach" in str(said.value)


def test_offline_without_the_checkpoint_it_says_what_to_fetch(hub: Path) -> None:
    with pytest.raises(EdjeError, match=rf"work offline, run `hf download {NAME}`"):
        Reranker.from_pretrained(NAME)
