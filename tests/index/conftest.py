"""A run of a tiny world, and folders of its pictures."""

import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edje import ImageIndex, Reranker
from edje.cli import run
from edje.inference.picture_encoder import PictureEncoder
from edje.retrieval.calibration import Searches, fit_calibration
from tests.tiny.world import make_world, with_changes


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose scores are sums of both stages; its pictures are in ../data/images."""
    root = tmp_path_factory.mktemp("world")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(with_changes(make_world(root), "score=sum", "scoring.precision=fp32"))
    return root / "run"


@pytest.fixture(scope="session")
def ranker(request: pytest.FixtureRequest) -> Reranker:
    """The run's reranker, with a calibration as a longer run would have."""
    pytest.importorskip("lancedb", reason="LanceDB is not installed (pip install 'edje[index]')")
    found = Reranker.from_pretrained(request.getfixturevalue("run_folder"), device="cpu")
    draws = torch.Generator().manual_seed(0)
    scores = torch.randn(400, 5, generator=draws, dtype=torch.float64)
    right = scores + torch.randn(400, 5, generator=draws) > 1.5
    searches = Searches(scores, right, torch.full((400,), 12))
    calibration = {4: {"t2i": fit_calibration(searches, "sum")}}
    found.checkpoint = replace(found.checkpoint, calibration=calibration)
    return found


@pytest.fixture(scope="session")
def scenes(run_folder: Path) -> Path:
    """A folder of 24 pictures, not to be changed."""
    return run_folder.parent / "data" / "images"


@pytest.fixture
def pictures(scenes: Path, tmp_path: Path) -> Path:
    """A folder of 12 pictures, four of them in a folder of their own."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for number, path in enumerate(sorted(scenes.iterdir())[:12]):
        shutil.copy(path, folder / ("more" if number >= 8 else "") / path.name)
    return folder


@pytest.fixture
def index(ranker: Reranker, tmp_path: Path) -> ImageIndex:
    """An index without pictures."""
    return ImageIndex.open(tmp_path / "photos.edje", ranker)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of pictures that went through the tower together."""
    seen: list[int] = []
    encode = PictureEncoder.encoded

    def counting(self: PictureEncoder, pixels: torch.Tensor) -> object:
        seen.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(PictureEncoder, "encoded", counting)
    return seen
