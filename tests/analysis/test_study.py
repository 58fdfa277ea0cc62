import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from edje.analysis import read_metrics
from edje.analysis.study import (
    bracketed,
    choices_of,
    study_plot,
    study_table,
)
from edje.errors import EdjeError


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., dict]) -> Path:
    """Two choices with two seeds each, a third with one, and a job that failed."""
    root = tmp_path_factory.mktemp("runs") / "kinds"
    jobs = [("local", 0), ("local", 1), ("kmeans", 0), ("kmeans", 1), ("pruning", 0)]
    for number, (kind, seed) in enumerate(jobs):
        make_run(root / str(number), seed=seed)
        overrides = ["experiment=short", f"adapter={kind}", f"seed={seed}", "hydra.run.dir=x"]
        (root / str(number) / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    (root / "5").mkdir()
    (root / "5" / "error.txt").write_text("out of luck")
    return root


def test_choices_are_told_apart_by_what_their_overrides_do_not_share(sweep: Path) -> None:
    choices = choices_of(sweep)
    assert [(choice.name, choice.seeds) for choice in choices] == [
        ("adapter=local", (0, 1)),
        ("adapter=kmeans", (0, 1)),
        ("adapter=pruning", (0,)),
    ]
    assert {choice.axis for choice in choices} == {"kinds"}


def test_a_run_folder_alone_is_a_choice_named_after_it(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep / "0", tmp_path / "base")
    (choice,) = choices_of(tmp_path / "base")
    assert (choice.name, choice.folders) == ("base", (tmp_path / "base",))


def test_a_row_is_the_mean_over_seeds_and_equal_runs_differ_by_nothing(sweep: Path) -> None:
    table = study_table([sweep])
    assert table["seeds"].to_list() == [2, 2, 1]
    for way in ("t2i", "i2t"):
        values = [
            read_metrics(sweep / str(job))[way]["reranked"]["recall@1"]["value"] for job in (0, 1)
        ]
        assert table[way][0] == pytest.approx(np.mean(values))
        assert table[way][2] == pytest.approx(values[0])
        # the same scores under another name: paired, so without any spread
        assert table[f"{way}.diff"][1] == table[f"{way}.diff.high"][1] == 0
        assert table[f"{way}.diff"][2] == 0  # against the reference's run of the same seed
        assert np.isnan(table[f"{way}.diff"][0])
        assert (table[f"{way}.low"] <= table[way]).all()
        assert (table[way] <= table[f"{way}.high"]).all()


def test_another_reference_can_be_named_and_a_wrong_one_is_refused(sweep: Path) -> None:
    table = study_table([sweep], "adapter=kmeans")
    assert table["t2i.diff"].isna().to_list() == [False, True, False]
    with pytest.raises(EdjeError, match="no such choice among adapter=local, adapter=kmeans"):
        study_table([sweep], "adapter=mean")


def test_runs_of_different_splits_are_not_put_into_one_table(
    sweep: Path, tmp_path: Path, make_run: Callable[..., dict]
) -> None:
    make_run(tmp_path / "small", images=8)
    (tmp_path / "small" / "overrides.yaml").write_text("[]")
    with pytest.raises(EdjeError, match="evaluated on different images or captions"):
        study_table([sweep, tmp_path / "small"])


def test_without_a_finished_run_there_is_no_table(sweep: Path) -> None:
    with pytest.raises(EdjeError, match="No finished run"):
        study_table([sweep / "5"])


def test_a_figure_is_bracketed_and_a_missing_one_is_empty(sweep: Path) -> None:
    table = study_table([sweep])
    row = table.iloc[1].copy()
    row["t2i"], row["t2i.low"], row["t2i.high"] = -1.25, -3.0, 0.55
    assert bracketed(row, "t2i", "+") == "−1.2 [−3.0, +0.6]"
    assert bracketed(table.iloc[0], "t2i.diff") == ""


def test_the_plot_has_a_line_per_choice(sweep: Path) -> None:
    figure = study_plot(study_table([sweep]), "Kinds")
    panel = figure.axes[0]
    assert "reference" in {text.get_text() for text in figure.legends[0].get_texts()}
    assert [tick.get_text() for tick in panel.get_yticklabels()] == [
        "adapter=local", "adapter=kmeans", "adapter=pruning"
    ]  # fmt: skip
    assert panel.get_title(loc="left") == "Kinds"
    low, high = panel.get_ylim()
    assert low < min(panel.get_yticks()) - 0.5 and high > max(panel.get_yticks()) + 0.5


def test_runs_of_earlier_versions_are_the_same_choices(
    tmp_path: Path, make_run: Callable[..., dict]
) -> None:
    for number, key in enumerate(("evaluation.num_tokens", "scoring.num_tokens")):
        for tokens in (2, 4):
            folder = tmp_path / "sweep" / f"{number}{tokens}"
            make_run(folder, seed=number)
            given = [f"{key}={tokens}", f"seed={number}"]
            (folder / "overrides.yaml").write_text(yaml.safe_dump(given))
    choices = choices_of(tmp_path / "sweep")
    assert [choice.name for choice in choices] == ["scoring.num_tokens=2", "scoring.num_tokens=4"]
    assert [choice.seeds for choice in choices] == [(0, 1)] * 2


def evaluated(folder: Path, make_run: Callable[..., dict], seed: int, *overrides: str) -> None:
    """An evaluation of a checkpoint, which has the checkpoint's seed."""
    make_run(folder, seed=seed)
    (folder / "overrides.yaml").write_text(yaml.safe_dump(["task=evaluate", *overrides]))


def test_evaluations_are_paired_by_what_they_evaluated(
    sweep: Path, tmp_path: Path, make_run: Callable[..., dict]
) -> None:
    trained = [sweep / str(job) for job in range(4)]  # two adapters with seeds 0 and 1
    for number, folder in enumerate(trained):
        given = (f"checkpoint={folder}", "score=sum")
        evaluated(tmp_path / "all" / str(number), make_run, number % 2, *given)
    choices = choices_of(tmp_path / "all")
    assert [(choice.name, choice.seeds) for choice in choices] == [
        ("adapter=local", (0, 1)), ("adapter=kmeans", (0, 1)),
    ]  # fmt: skip
    for number, score in enumerate(("joint", "joint", "sum", "sum")):  # whose runs are gone
        away = f"checkpoint=gone/{number % 2}"
        folder = tmp_path / "gone" / str(number)
        evaluated(folder, make_run, number % 2, away, f"score={score}")
    choices = choices_of(tmp_path / "gone")
    assert [(choice.name, choice.seeds) for choice in choices] == [
        ("score=joint", (0, 1)), ("score=sum", (0, 1)),
    ]  # fmt: skip
    table = study_table([tmp_path / "gone"])
    assert table["t2i.diff"].to_list()[1] == 0  # the same lists, seed by seed
    assert table["t2i.diff.high"].to_list()[1] == 0


def test_a_seed_that_occurs_twice_and_a_run_without_overrides_are_refused(
    sweep: Path, tmp_path: Path
) -> None:
    shutil.copytree(sweep, tmp_path / "kinds")
    shutil.copytree(sweep / "1", tmp_path / "kinds" / "again")
    with pytest.raises(EdjeError, match=r"adapter=local: .*1 and .*again are of the same seed, 1"):
        study_table([tmp_path / "kinds"])
    (tmp_path / "kinds" / "again" / "overrides.yaml").unlink()
    with pytest.raises(EdjeError, match=r"again/overrides\.yaml can't be read .* move .*again out"):
        study_table([tmp_path / "kinds"])


def test_runs_of_other_images_with_as_many_are_refused(
    sweep: Path, tmp_path: Path, make_run: Callable[..., dict]
) -> None:
    for name, digest in (("a", "ab"), ("b", "cd")):
        make_run(tmp_path / name)
        path = tmp_path / name / "metrics.json"
        path.write_text(json.dumps(read_metrics(tmp_path / name) | {"split_digest": digest * 32}))
        (tmp_path / name / "overrides.yaml").write_text("[]")
    with pytest.raises(EdjeError, match="evaluated on different images"):
        study_table([tmp_path / "a", tmp_path / "b"])
