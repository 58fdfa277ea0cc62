import json
import os

import pytest

from edje.analysis.runs import folders_of, latest_run, load_runs, read_metrics
from edje.errors import EdjeError


def test_every_run_at_any_depth_is_one_row_with_its_config_and_metrics(tmp_path, make_run):
    first = make_run(tmp_path / "shapes" / "2026-01-01_10-00-00")
    second = make_run(tmp_path / "shapes" / "sweep_2026" / "0", seed=1)
    table = load_runs(tmp_path)
    assert table["run"].tolist() == ["shapes/2026-01-01_10-00-00", "shapes/sweep_2026/0"]
    assert table["status"].tolist() == ["done", "done"]
    assert table["adapter.num_tokens"].tolist() == [8, 8]
    assert table["seed"].tolist() == [0, 1]
    assert table["ks"].tolist() == ["[1, 5, 10]"] * 2
    for row, metrics in enumerate((first, second)):
        expected = metrics["t2i"]["reranked"]["recall@1"]
        assert table["t2i.reranked.recall@1"][row] == expected["value"]
        assert table["t2i.reranked.recall@1.low"][row] == expected["low"]
        assert table["t2i.reranked.recall@1.high"][row] == expected["high"]
    assert table["num_candidates.t2i"].tolist() == [6, 6]


def test_jobs_of_a_sweep_come_in_the_order_of_their_numbers(tmp_path, make_run):
    for job in (10, 2, 0):
        make_run(tmp_path / "sweep" / str(job))
    assert load_runs(tmp_path)["run"].tolist() == ["sweep/0", "sweep/2", "sweep/10"]


def test_a_run_folder_itself_is_a_table_of_one_row(run_folder):
    assert load_runs(run_folder)["run"].tolist() == ["run"]


def test_unfinished_failed_and_broken_runs_are_marked_and_stop_nothing(tmp_path, make_run):
    make_run(tmp_path / "a_done")
    for name in ("b_killed", "c_failed", "d_no_config", "e_cut", "f_not_yaml"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("seed: 3\n")
    (tmp_path / "c_failed" / "error.txt").write_text("No data at data.root=nowhere.\n")
    (tmp_path / "d_no_config" / "config.yaml").rename(tmp_path / "d_no_config" / "overrides.yaml")
    (tmp_path / "e_cut" / "metrics.json").write_text('{"t2i": {"first')
    (tmp_path / "f_not_yaml" / "config.yaml").write_text("a: [")
    table = load_runs(tmp_path).set_index("run")
    assert table["status"].to_dict() == {
        "a_done": "done",
        "b_killed": "incomplete",
        "c_failed": "failed",
        "d_no_config": "incomplete",
        "e_cut": "incomplete",
        "f_not_yaml": "incomplete",
    }
    assert table.loc["c_failed", "message"] == "No data at data.root=nowhere."
    assert "is not JSON" in table.loc["e_cut", "message"]
    assert "is not YAML" in table.loc["f_not_yaml", "message"]
    assert table.loc["b_killed", "seed"] == 3


@pytest.mark.parametrize(
    ("task", "result"),
    [("cache", "first_stage.json"), ("compress", "compress.json"), ("plan", "plan.json"),
     ("benchmark", "machine.json"), ("train", "checkpoints/model.ckpt")],
)  # fmt: skip
def test_a_task_without_metrics_has_finished_once_its_result_is_there(tmp_path, task, result):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(f"task: {task}\n")
    assert load_runs(tmp_path)["status"].tolist() == ["incomplete"]
    (run / result).write_text("{}")
    assert load_runs(tmp_path)["status"].tolist() == ["finished"]
    (run / "error.txt").write_text("No space.\n")
    assert load_runs(tmp_path)["status"].tolist() == ["failed"]


def test_nothing_is_looked_for_inside_a_run_or_in_hidden_folders(tmp_path, make_run):
    make_run(tmp_path / "run")
    for inner in (tmp_path / "run" / "logs" / "inner", tmp_path / ".hydra"):
        inner.mkdir()
        (inner / "config.yaml").write_text("seed: 0\n")
    assert load_runs(tmp_path)["run"].tolist() == ["run"]


def test_no_runs_make_an_empty_table_and_no_folder_an_error(tmp_path):
    empty = load_runs(tmp_path)
    assert len(empty) == 0
    assert "status" in empty
    with pytest.raises(EdjeError, match="No folder of runs"):
        load_runs(tmp_path / "nowhere")


def test_metrics_that_are_missing_or_no_metrics_are_refused(tmp_path):
    with pytest.raises(EdjeError, match="evaluate this run first"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps([1]))
    with pytest.raises(EdjeError, match="holds no JSON object"):
        read_metrics(tmp_path)


def test_a_folder_of_runs_is_no_run_and_a_lost_configuration_is_named(tmp_path, make_run):
    make_run(tmp_path / "sweep" / "3")
    with pytest.raises(
        EdjeError, match=r"sweep holds several runs\. Give one .* such as .*sweep/3"
    ):
        read_metrics(tmp_path / "sweep")
    (tmp_path / "sweep" / "3" / "config.yaml").unlink()
    (row,) = load_runs(tmp_path / "sweep").to_dict("records")
    assert row["status"] == "incomplete"
    assert row["message"].endswith("config.yaml is missing, so the run's configuration is unknown.")


def test_metrics_that_an_editor_saved_with_a_mark_are_read(tmp_path):
    (tmp_path / "metrics.json").write_text('\ufeff{"seed": 3}', encoding="utf-8")
    assert read_metrics(tmp_path) == {"seed": 3}


def test_runs_of_earlier_versions_have_the_present_columns(tmp_path, make_run):
    """So that one table compares them with runs of today."""
    make_run(tmp_path / "now")
    make_run(tmp_path / "then")
    (tmp_path / "now" / "config.yaml").write_text(
        "scoring: {candidates: 50, num_tokens: 4}\n"
        "storage: {compressed_codec: int8, raw_codec: bf16, tower_precision: tf32}\n"
        "start: {_target_: edje.pipeline.start.CheckpointStart, path: runs/a}\n"
    )
    (tmp_path / "then" / "config.yaml").write_text(
        "evaluation: {codec: int8, candidates: 50, num_tokens: 4}\n"
        "writing: {precision: tf32}\nstore_codec: bf16\ninitial: runs/a\n"
    )
    table = load_runs(tmp_path).set_index("run")
    columns = [
        *("scoring.candidates", "scoring.num_tokens", "start._target_", "start.path"),
        *("storage.compressed_codec", "storage.raw_codec", "storage.tower_precision"),
    ]
    assert table.loc["now", columns].tolist() == table.loc["then", columns].tolist()
    assert not [
        name for name in table if name.split(".")[0] in ("evaluation", "writing", "initial")
    ]


def test_rows_chosen_from_the_table_still_know_their_folders(tmp_path, make_run):
    for name in ("0", "1", "10"):
        make_run(tmp_path / "sweep" / name, images=3, pool=2)
    runs = load_runs(tmp_path)
    expected = [tmp_path / "sweep" / name for name in ("0", "1", "10")]
    assert folders_of(runs) == expected
    assert folders_of(runs[runs["run"] != "sweep/1"].sort_index(ascending=False)) == [
        expected[2],
        expected[0],
    ]
    assert folders_of(load_runs(expected[1])) == [expected[1]]


def test_the_latest_run_is_the_finished_one_that_was_evaluated_last(tmp_path, make_run):
    for age, name in ((3, "a"), (1, "b"), (2, "c")):
        make_run(tmp_path / name)
        os.utime(tmp_path / name / "metrics.json", (1e9 - age, 1e9 - age))
    (tmp_path / "c" / "checkpoints").mkdir()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "config.yaml").write_text("seed: 3\n")
    runs = load_runs(tmp_path)
    assert latest_run(runs) == tmp_path / "b"
    assert latest_run(runs, trained=True) == tmp_path / "c"
    assert latest_run(runs[runs["run"] != "b"]) == tmp_path / "c"
    assert latest_run(load_runs(tmp_path / "a")) == tmp_path / "a"


def test_without_a_finished_run_there_is_no_latest(tmp_path, make_run):
    with pytest.raises(
        EdjeError, match=r"No finished run below .*`edje` without arguments, the demo, makes one"
    ):
        latest_run(load_runs(tmp_path))
    make_run(tmp_path / "a")
    with pytest.raises(EdjeError, match="No finished run with a checkpoint below"):
        latest_run(load_runs(tmp_path), trained=True)
