import json
import logging
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from edje.config.run_folder import create_run_folder, figure_of, logging_into, record_failure
from edje.errors import EdjeError

CFG = OmegaConf.create({"name": "x", "resume": None, "copy": "${name}"})


def test_a_new_folder_holds_configuration_overrides_and_environment(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    create_run_folder(CFG, ["name=x"], folder)
    assert OmegaConf.load(folder / "config.yaml") == {"name": "x", "resume": None, "copy": "x"}
    assert OmegaConf.load(folder / "overrides.yaml") == ["name=x"]
    environment = json.loads((folder / "environment.json").read_text())
    assert {"git_sha", "versions", "device", "cpu_count"} <= set(environment)
    assert {"python", "torch", "lightning", "transformers"} <= set(environment["versions"])


def test_a_folder_that_holds_anything_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(EdjeError, match="expected a new or empty one"):
        create_run_folder(CFG, [], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_resuming_twice_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    create_run_folder(CFG, ["first"], folder)
    for number, name in enumerate(("y", "z"), start=1):
        changed = OmegaConf.merge(CFG, {"name": name, "resume": str(folder)})
        create_run_folder(changed, [name], folder, resumed=True)  # type: ignore[arg-type]
        assert OmegaConf.load(folder / "config.yaml").name == name
        assert OmegaConf.load(folder / f"overrides.{number}.yaml") == [name]
    assert OmegaConf.load(folder / "overrides.yaml") == ["first"]
    assert OmegaConf.load(folder / "config.1.yaml").name == "x"
    assert OmegaConf.load(folder / "config.2.yaml").name == "y"


def test_failures_are_recorded_as_message_or_traceback_and_forgotten_on_resuming(
    tmp_path: Path,
) -> None:
    record_failure(tmp_path, EdjeError("data.root=x: not there."))
    assert (tmp_path / "error.txt").read_text() == "data.root=x: not there.\n"
    record_failure(tmp_path, ValueError("odd"))
    assert "ValueError: odd" in (tmp_path / "error.txt").read_text()
    record_failure(tmp_path, ValueError("odd"), "error_rank_1.txt")
    create_run_folder(CFG, [], tmp_path, resumed=True)
    assert not list(tmp_path.glob("error*.txt"))


def test_the_log_file_gets_records_while_the_run_lasts(tmp_path: Path) -> None:
    with logging_into(tmp_path):
        logging.getLogger("edje.somewhere").warning("watch out")
    logging.getLogger("edje.somewhere").warning("too late")
    text = (tmp_path / "logs" / "run.log").read_text()
    assert "WARNING edje.somewhere: watch out" in text and "too late" not in text


def test_a_run_that_was_scored_on_dev_is_chosen_by_its_best_score_there(tmp_path: Path) -> None:
    assert figure_of(tmp_path) is None
    stages = {"reranked": {"recall@1": {"value": 40.0}}, "first_stage": {}}
    (tmp_path / "metrics.json").write_text(json.dumps({"t2i": stages}))
    assert figure_of(tmp_path) == 40.0
    (tmp_path / "checkpoints").mkdir()
    for best, figure in ((float("-inf"), 40.0), (62.5, 62.5)):
        states = {"ResumableCheckpoint": {"num_ranks": 1}, "DevelopmentRecall": {"best": best}}
        torch.save({"callbacks": states}, tmp_path / "checkpoints" / "last.ckpt")
        assert figure_of(tmp_path) == figure
