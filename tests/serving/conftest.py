"""An index of shapes and of pictures with odd names, served in this process."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edje import ImageIndex, Reranker
from edje.data.shapes.shapes_source import ShapesSource
from edje.records import RetrievalSplit
from edje.serving.searcher import Searcher
from edje.serving.web_app import WebApp
from tests.serving.served import ODD, TWIN, Served, photograph, serving


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> RetrievalSplit:
    """Twelve scenes with their captions."""
    folder = tmp_path_factory.mktemp("shapes")
    source = ShapesSource(cache_dir=str(folder), test_images=12, train_images=12, val_images=12)
    return source.read("test")


@pytest.fixture(scope="session")
def gallery(scenes: RetrievalSplit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the scenes, a photograph, and names that try things."""
    folder = tmp_path_factory.mktemp("gallery")
    for image in scenes.images:
        shutil.copy(image.path, folder / f"{image.image_id}.png")
    shutil.copy(scenes.images[0].path, folder / TWIN)
    photograph(folder / "holiday.jpg")
    for seed, name in enumerate(ODD, start=1):
        photograph(folder / name, seed)
    return folder


@pytest.fixture(scope="session")
def shapes() -> Reranker:
    return Reranker.from_pretrained("shapes", device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def index(shapes: Reranker, gallery: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    """Asked by the tests themselves; the server has one of its own."""
    found = ImageIndex.open(tmp_path_factory.mktemp("index") / "shapes.edje", shapes)
    found.add(gallery)
    found.add({"memory": np.zeros((8, 8, 3), np.uint8)})
    return found


@pytest.fixture(scope="session")
def served(index: ImageIndex, shapes: Reranker) -> Iterator[Served]:
    searcher = Searcher(ImageIndex.open(index.folder, shapes))
    searcher.warm()
    with serving(WebApp(searcher)) as found:
        yield found
