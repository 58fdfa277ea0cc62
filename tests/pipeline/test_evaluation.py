"""Claims about evaluations from Python and the run folders that they write."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import edje
from edje import analysis
from edje.data.sources.folder import FolderSource
from edje.errors import EdjeError
from edje.pipeline.compressed import stored_tokens
from edje.pipeline.evaluation import evaluate, warn_of_ties
from edje.pipeline.scoring import Scoring
from edje.pipeline.start import CheckpointStart
from edje.pipeline.token_cache import Cache
from tests.tiny.rerankers import LOCAL, tiny_checkpoint
from tests.tiny.world import make_images


def test_ties_beyond_a_tenth_of_a_percent_are_told_by_direction(caplog):
    warn_of_ties({"t2i": 0.0009, "i2t": 0.02}, torch.bfloat16)
    assert "i2t: 2.00% of the candidates tie" in caplog.text and "t2i: 0.09" not in caplog.text


@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
def test_a_finer_precision_is_advised_where_there_is_one(caplog, precision):
    warn_of_ties({"t2i": 0.02}, precision)
    assert ("Try a finer scoring.precision" in caplog.text) == (precision != torch.float32)
    assert "the model gives them the same score" in caplog.text


def test_an_empty_text_is_no_path(tmp_path):
    """It would mean the current folder, or the cache's own store."""
    source = FolderSource(name="mine", root=str(make_images(tmp_path / "data")), images="images")
    cache = Cache(tmp_path / "cache")
    with pytest.raises(EdjeError, match="checkpoint='': expected a path"):
        evaluate("", source)
    with pytest.raises(EdjeError, match="folder='': expected a path"):
        evaluate(tiny_checkpoint(LOCAL), source, folder="")
    with pytest.raises(EdjeError, match="store='': expected a path"):
        stored_tokens(cache, source, "val", tiny_checkpoint(LOCAL), store="")
    with pytest.raises(EdjeError, match=r"start\.path='': expected a path"):
        CheckpointStart(path="")
    with pytest.raises(EdjeError, match=r"data\.root='': expected a path"):
        FolderSource(name="mine", root="")


WRITES = pytest.mark.filterwarnings(  # as `quiet_libraries` does
    "ignore:.*does not have many workers.*", "ignore:.*`isinstance.treespec, LeafSpec.`.*"
)


class Evaluations:
    """Evaluations of the shipped reranker on a folder of 8 images."""

    def __init__(self, root: Path):
        self.root, self.data = root, make_images(root / "data")
        self.reranker = edje.Reranker.from_pretrained("shapes", device="cpu")

    def run(self, folder: Path, *, candidates: int = 5, cache: str = "cache", split: str = "val"):
        """The metrics of an evaluation, written into a folder."""
        given: dict[str, Any] = {"images": "images", "bad_images": "skip", "split": split}
        return edje.evaluate(
            self.reranker,
            FolderSource(name="mine", root=str(self.data), **given),
            cache=Cache(self.root / cache),
            scoring=Scoring(candidates=candidates),
            folder=folder,
        )


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> Evaluations:
    return Evaluations(tmp_path_factory.mktemp("evaluations"))


@WRITES
def test_a_written_evaluation_is_read_reported_and_compared(evaluations, tmp_path):
    found = evaluations.run(tmp_path / "five")
    evaluations.run(tmp_path / "three", candidates=3)
    row = analysis.load_runs(tmp_path / "five").iloc[0]
    assert (row["status"], row["message"]) == ("done", "")
    assert (row["dataset"], row["split"], row["score"]) == ("mine", "val", found["score"])
    assert row["adapter._target_"] == "compression" and row["scoring.candidates"] == 5
    assert analysis.recompute_metrics(tmp_path / "five")["t2i"] == found["t2i"]
    assert analysis.report(tmp_path / "five", examples=1).is_file()
    table = analysis.compare(tmp_path, by="scoring.candidates", direction="t2i")
    assert set(table[["a", "b"]].to_numpy()[0]) == {f"scoring.candidates={k}" for k in (3, 5)}


@WRITES
def test_a_repeated_evaluation_leaves_nothing_of_the_earlier_one(evaluations, tmp_path):
    folder, image = tmp_path / "run", evaluations.data / "images" / "005.png"
    whole = image.read_bytes()
    image.write_bytes(b"broken")
    try:
        assert evaluations.run(folder, cache="broken")["num_skipped_images"] == 1
    finally:
        image.write_bytes(whole)
    assert json.loads((folder / "skipped_images.json").read_text()) == ["005.png"]
    assert evaluations.run(folder)["num_skipped_images"] == 0
    assert not (folder / "skipped_images.json").exists()
    assert analysis.read_metrics(folder)["num_images"] == 8


@WRITES
def test_a_folder_that_is_not_for_an_evaluation_is_refused_before_anything_is_scored(
    evaluations, tmp_path, monkeypatch
):
    evaluations.run(run := tmp_path / "run")
    written = {path: path.read_bytes() for path in run.iterdir()}

    def never(*given: object, **more: object) -> None:
        raise AssertionError("scored")

    monkeypatch.setattr("edje.pipeline.evaluation.evaluated", never)
    other = r"holds a run of another configuration, reranker or data \(its config\.yaml\)"
    with pytest.raises(EdjeError, match=other):
        evaluations.run(run, candidates=4)
    with pytest.raises(EdjeError, match=other):
        evaluations.run(run, split="train")
    assert {path: path.read_bytes() for path in run.iterdir()} == written
    (run / "config.yaml").unlink()
    with pytest.raises(EdjeError, match=r"reranker or data \(its metrics\.json\)"):
        evaluations.run(run)
    (file := tmp_path / "file").write_text("mine")
    for path in (file, file / "below"):
        with pytest.raises(EdjeError, match=r"can't write to .*file"):
            evaluations.run(path)
    assert file.read_text() == "mine"
    with pytest.raises(AssertionError, match="scored"):
        evaluations.run(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())
