"""Claims about the logger of Weights & Biases, offline."""

from pathlib import Path

import pytest

from edje.training.weights_and_biases import WeightsAndBiases, lasting_id

wandb = pytest.importorskip("wandb", reason="pip install 'edje[wandb]'")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A run folder, and settings that stay in the test."""
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "shapes" / "run"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 3\nadapter: {num_tokens: 8}\n")
    return folder


def part(folder: Path, number: int) -> WeightsAndBiases:
    """A part of a training, as a run makes its logger."""
    place = {"save_dir": str(folder), "name": "logs", "version": f"part_{number}"}
    return WeightsAndBiases(**place, offline=True)


def test_a_resumed_training_goes_on_in_its_run_and_another_is_another_run(folder, tmp_path):
    ids = []
    for number in (0, 1):
        logger = part(folder, number)
        logger.log_metrics({"train/loss": 2.0 - number}, step=10 * number)
        run = logger.experiment
        assert (run.name, run.project) == ("shapes/run", "edje")
        assert run.config["adapter"] == {"num_tokens": 8} and run.config["seed"] == 3
        assert run.summary["train/loss"] == 2.0 - number
        ids.append(run.id)
        logger.finalize("success")
        assert wandb.run is None  # the next one of a sweep begins anew
    assert ids == [lasting_id(folder / "logs" / "wandb_id.txt")] * 2
    files = list((folder / "logs" / "wandb").glob("offline-run-*/*.wandb"))
    assert files and all(file.stem == f"run-{ids[0]}" and file.stat().st_size for file in files)
    other = tmp_path / "shapes" / "other"
    other.mkdir()
    assert part(other, 0)._id not in (None, ids[0])


def test_nothing_is_begun_before_something_is_logged(folder):
    part(folder, 0).finalize("failed")
    assert wandb.run is None and not (folder / "logs" / "wandb").exists()
