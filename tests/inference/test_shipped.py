"""The rerankers that come with edje answer by their names alone, offline."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edje import Reranker
from edje.cli import run
from edje.data.shapes.shapes_source import ShapesSource
from edje.errors import EdjeError
from edje.inference.location import SHIPPED, shipped_folder
from edje.packaged import PACKAGES
from edje.records import RetrievalSplit
from tests.tiny.shared import FLICKR8K

ROOT = Path(__file__).parents[2]
MOST_BYTES = {"photos": 12_000_000, "shapes": 5_000_000}


def lacks_photos() -> str:
    """Which package the reranker of photographs would need here."""
    for name, package in PACKAGES.items():
        try:
            if version(name) != package.version:
                return f"{name} is of another version"
        except PackageNotFoundError:
            return f"{name} is not installed: edje[photos]"
    return ""


def reranker_of(name: str) -> Reranker:
    if name == "photos" and (reason := lacks_photos()):
        pytest.skip(reason)
    return Reranker.from_pretrained(name, device="cpu")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> RetrievalSplit:
    """Twelve scenes that the reranker of shapes was not trained on."""
    folder = tmp_path_factory.mktemp("shapes")
    source = ShapesSource(cache_dir=str(folder), test_images=12, train_images=12, val_images=12)
    return source.read("test")


def test_shapes_are_told_apart_by_their_captions(scenes: RetrievalSplit) -> None:
    reranker = reranker_of("shapes")
    encoded = reranker.encode([image.path for image in scenes.images])
    rows = {image.image_id: row for row, image in enumerate(scenes.images)}
    right = [
        reranker.rank(caption.text, encoded, top_k=1)[0]["corpus_id"] == rows[caption.image_id]
        for caption in scenes.captions
    ]
    assert len(right) == 60 and np.mean(right) > 0.9


def test_what_is_not_there_has_a_lower_probability(scenes: RetrievalSplit) -> None:
    reranker = reranker_of("shapes")
    encoded = reranker.encode([image.path for image in scenes.images])
    there, absent = [], []
    for caption in scenes.captions:
        hits = reranker.rank(caption.text, encoded)
        others = [
            row for row, image in enumerate(scenes.images) if image.image_id != caption.image_id
        ]
        there.append(hits[0]["probability"])
        absent.append(reranker.rank(caption.text, encoded[others])[0]["probability"])
    assert np.mean(there) > 0.8 and np.mean(absent) < 0.4
    enough = reranker.threshold(precision=0.9)
    assert np.mean(np.array(absent) >= enough) < 0.2 < np.mean(np.array(there) >= enough)


@pytest.mark.parametrize("name", SHIPPED)
def test_it_is_small_and_its_card_says_what_it_was_measured_at(name: str) -> None:
    folder = shipped_folder(name)
    assert folder is not None
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES[name]
    metrics = json.loads((folder / "metrics.json").read_text())
    card = (folder / "README.md").read_text()
    for direction in ("t2i", "i2t"):
        for stage in ("first_stage", "reranked"):
            recall = metrics[direction][stage]["recall@1"]
            assert f"{recall['value']:.1f} [{recall['low']:.1f}, {recall['high']:.1f}]" in card
    said = [path for path in files if path.suffix in (".json", ".md")]
    texts = [path.read_text() for path in said if path.name != "tokenizer.json"]
    assert not any(mark in text for text in texts for mark in ('"/', "/home/", "/root/", "/tmp/"))


@pytest.mark.assets
def test_photographs_are_found_by_what_they_show(tmp_path: Path) -> None:
    reranker = reranker_of("photos")
    if not FLICKR8K.is_dir():
        pytest.skip("no photographs beside the project")
    listed = json.loads((FLICKR8K / "dataset_flickr8k.json").read_text())["images"]
    images = [image for image in listed if image["split"] == "val"][:40]
    folder = FLICKR8K / "images"
    encoded = reranker.encode([folder / image["filename"] for image in images])
    ranks = []
    for row, image in enumerate(images):
        for sentence in image["sentences"]:
            hits = reranker.rank(sentence["raw"], encoded)
            ranks.append([hit["corpus_id"] for hit in hits].index(row))
    assert np.mean(np.array(ranks) == 0) > 0.6 and np.mean(np.array(ranks) < 5) > 0.9


THREE_LINES = """
import edje
reranker = edje.Reranker.from_pretrained("photos")
print(reranker.rank("two dogs racing along a beach", ["a.png", "b.png", "c.png"], top_k=2))
"""


@pytest.mark.assets
def test_three_lines_in_a_fresh_process_print_two_hits_and_no_warning(tmp_path: Path) -> None:
    from PIL import Image

    if reason := lacks_photos():
        pytest.skip(reason)
    for number, name in enumerate("abc"):
        Image.new("RGB", (80, 60), (60 * number, 90, 120)).save(tmp_path / f"{name}.png")
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", THREE_LINES],
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    hits = eval(done.stdout)
    assert len(hits) == 2 and hits[0]["score"] >= hits[1]["score"] and "probability" in hits[0]
    own = [line for line in done.stderr.splitlines() if "Warning" in line and "edje" in line]
    assert not own


def test_a_path_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    with pytest.raises(EdjeError, match="exists and holds no checkpoint"):
        Reranker.from_pretrained("shapes")


@pytest.mark.assets
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", SHIPPED)
def test_it_gives_the_figures_of_its_card_again(name: str, tmp_path: Path) -> None:
    """On the split that the card names: recall to 0.4 points, whatever processor this is."""
    reranker_of(name)
    if name == "photos" and not FLICKR8K.is_dir():
        pytest.skip("no photographs beside the project")
    data = {
        "photos": [f"data.root={FLICKR8K}"],
        "shapes": ["data.train_images=40", "data.val_images=40"],  # which aren't looked at
    }
    run(
        [
            "task=evaluate",
            f"checkpoint={name}",
            *data[name],
            f"cache_dir={tmp_path / 'cache'}",
            f"hydra.run.dir={tmp_path / 'run'}",
        ]
    )
    folder = shipped_folder(name)
    assert folder is not None
    expected, found = (
        json.loads((place / "metrics.json").read_text()) for place in (folder, tmp_path / "run")
    )
    assert found["split_digest"] == expected["split_digest"]
    assert len(pd.read_parquet(tmp_path / "run" / "candidates.parquet"))
    for direction in ("t2i", "i2t"):
        for stage in ("first_stage", "reranked"):
            one, other = (metrics[direction][stage]["recall@1"] for metrics in (expected, found))
            assert abs(one["value"] - other["value"]) <= 0.4
