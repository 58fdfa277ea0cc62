import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from edje.analysis import load_runs, read_metrics, sweep_plot, sweep_table
from edje.analysis.sweep import sweep_summary
from edje.errors import EdjeError

WAYS = ("t2i", "i2t")
JOBS = [("4", 0), ("4", 1), ("8", 0), ("8", 1), ("16", 0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., dict]) -> Path:
    """Two choices with two seeds each, a third with one, and two jobs that failed."""
    root = tmp_path_factory.mktemp("runs") / "tokens"
    for number, (tokens, seed) in enumerate(JOBS):
        make_run(root / str(number), seed=seed if tokens == "4" else seed + 2)
        given = ["experiment=short", f"adapter.num_tokens={tokens}", f"seed={seed}"]
        (root / str(number) / "overrides.yaml").write_text(yaml.safe_dump(given))
    failed = root / "5"
    failed.mkdir()
    (failed / "error.txt").write_text("out of\nluck\n")
    job = {"overrides": ["experiment=short", "adapter.num_tokens=16", "seed=1"]}
    job |= {"state": "failed", "message": "out of luck"}
    (failed / "job.json").write_text(json.dumps(job))
    return root


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return sweep_table(folder)


def test_a_row_per_job_has_the_swept_keys_and_the_figures_of_its_metrics(
    folder: Path, table: pd.DataFrame
) -> None:
    jobs = table[:6]
    assert jobs["job"].to_list() == ["0", "1", "2", "3", "4", "5"]
    assert jobs["adapter.num_tokens"].to_list() == ["4", "4", "8", "8", "16", "16"]
    assert jobs["seed"].to_list() == ["0", "1", "0", "1", "0", "1"]
    assert "experiment" not in table  # all have the same
    for way in ("t2i", "i2t"):
        ends = read_metrics(folder / "2")[way]["reranked"]["recall@1"]
        assert [jobs[f"{way}{end}"][2] for end in ("", ".low", ".high")] == list(ends.values())


def test_a_pooled_row_is_the_mean_over_its_seeds(table: pd.DataFrame) -> None:
    pooled = table[6:]
    assert pooled["job"].to_list() == ["mean", "mean"]
    assert pooled["adapter.num_tokens"].to_list() == ["4", "8"]
    assert pooled["seeds"].to_list() == [2, 2] and (table["seeds"][:6] == 1).all()
    assert pooled["t2i"].to_list() == [
        pytest.approx(table["t2i"][:2].mean()), pytest.approx(table["t2i"][2:4].mean())
    ]  # fmt: skip
    assert (pooled["t2i.low"] <= pooled["t2i"]).all() and (
        pooled["t2i"] <= pooled["t2i.high"]
    ).all()


def test_the_best_choice_is_marked_by_its_mean_and_not_by_its_luckiest_seed(
    table: pd.DataFrame,
) -> None:
    choices = table.loc[[6, 7, 4], "t2i"]
    assert table["best"].sum() == 1 and table["best"].idxmax() == choices.idxmax()


def test_a_failed_job_has_its_keys_and_its_reason_and_no_figure(table: pd.DataFrame) -> None:
    row = table.iloc[5]
    assert (row["status"], row["message"]) == ("failed", "out of luck")
    assert np.isnan(row["t2i"]) and row["adapter.num_tokens"] == "16" and not row["best"]


def test_a_job_that_was_refused_before_it_began_is_a_run_that_failed(folder: Path) -> None:
    runs = load_runs(folder).set_index("run")
    assert runs.loc["5", "status"] == "failed" and runs.loc["5", "message"] == "out of\nluck"


def test_jobs_that_measured_different_images_have_a_best_each(
    tmp_path: Path, make_run: Callable[..., dict]
) -> None:
    for number, images in enumerate((12, 12, 8)):
        make_run(tmp_path / "sweep" / str(number), images=images, seed=number)
        given = yaml.safe_dump([f"data.test_images={images}", f"optim.lr={number}"])
        (tmp_path / "sweep" / str(number) / "overrides.yaml").write_text(given)
    table = sweep_table(tmp_path / "sweep")
    assert table["best"][:2].sum() == 1 and table["best"][2]
    for number, digest in enumerate(("ab", "ab", "cd")):  # as many images, but other ones
        path = tmp_path / "sweep" / str(number) / "metrics.json"
        told = json.loads(path.read_text()) | {"num_images": 12, "split_digest": digest * 32}
        path.write_text(json.dumps(told))
    table = sweep_table(tmp_path / "sweep")
    assert table["best"][:2].sum() == 1 and table["best"][2]


def test_a_seed_that_is_repeated_is_no_second_seed_and_a_damaged_record_is_no_error(
    tmp_path: Path, make_run: Callable[..., dict]
) -> None:
    for number, (tokens, seed) in enumerate([("4", 0), ("4", 0), ("8", 0), ("8", 1), ("8", 1)]):
        folder = tmp_path / "sweep" / str(number)
        make_run(folder, seed=seed)
        given = yaml.safe_dump([f"adapter.num_tokens={tokens}", f"seed={seed}"])
        (folder / "overrides.yaml").write_text(given)
        (folder / "job.json").write_text('{"state": "do')
    table = sweep_table(tmp_path / "sweep")
    assert table["status"].to_list() == ["done"] * 6
    assert table["seeds"].to_list() == [1] * 5 + [2]
    assert table["t2i"][5] == pytest.approx(table["t2i"][2:4].mean())


def test_the_summary_fits_eighty_columns_and_says_what_is_best(table: pd.DataFrame) -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(sweep_summary(table))
    said = capture.get()
    lines = said.splitlines()[1:]
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert lines[0].split()[:3] == ["job", "num_tokens", "seed"]
    assert said.count("best") == 1 and said.count("2 seeds") == 2 and said.count("failed") == 1
    assert f"{table['t2i'][0]:.1f} [{table['t2i.low'][0]:.1f}" in said


def shown(table: pd.DataFrame) -> str:
    console = Console(width=110)
    with console.capture() as capture:
        console.print(sweep_summary(table))
    return capture.get()


def test_the_summary_has_bytes_where_they_differ_and_the_first_stage_where_all_share_it(
    table: pd.DataFrame,
) -> None:
    first = " · ".join(f"{table[f'{way}.first_stage'][0]:.1f}" for way in ("t2i", "i2t"))
    same = table.assign(**{f"{way}.first_stage": table[f"{way}.first_stage"][0] for way in WAYS})
    assert "bytes" not in shown(same) and f"first stage: {first}" in shown(same)
    other = same.copy()
    other.loc[0, ["bytes", "t2i.first_stage"]] = 123_456, 1.0
    assert "123,456" in shown(other) and "first stage:" not in shown(other)


def test_choices_of_one_seed_are_said_to_be_of_one(table: pd.DataFrame) -> None:
    assert "one seed each" in shown(table[:6]) and "one seed each" not in shown(table)


def test_the_plot_has_a_line_per_choice(table: pd.DataFrame) -> None:
    figure = sweep_plot(table, "tokens")
    panel = figure.axes[0]
    assert "best" in {text.get_text() for text in figure.legends[0].get_texts()}
    assert {tick.get_text() for tick in panel.get_yticklabels()} == {
        f"adapter.num_tokens={tokens}" for tokens in (4, 8, 16)
    }
    with pytest.raises(EdjeError, match="No job of tokens has a recall"):
        sweep_plot(table[5:6], "tokens")


def searched(table: pd.DataFrame, *rates: str) -> pd.DataFrame:
    """Jobs as a search proposes them."""
    jobs = table[: len(rates)].drop(columns=["adapter.num_tokens", "seed"])
    jobs.insert(2, "adapter", "pruning")
    jobs.insert(3, "optim.num_tokens", "128")
    jobs.insert(4, "optim.lr", rates)
    jobs["bytes"] = range(1000, 1000 + len(rates))
    jobs["best"] = [True] + [False] * (len(rates) - 1)
    return jobs


def test_values_of_many_digits_are_shown_with_three(table: pd.DataFrame) -> None:
    rates = ("0.00027418504387583854", "3.809373687533628e-05", "0.01")
    jobs = searched(table, *rates)
    console = Console(width=80)
    with console.capture() as capture:
        console.print(sweep_summary(jobs))
    lines = capture.get().splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    for line, rate in zip(lines[3:8:2], ("0.000274", "3.81e-05", "0.01"), strict=True):
        assert line.split()[1:4] == ["pruning", "128", rate]
    said = [tick.get_text() for tick in sweep_plot(jobs, "rates").axes[0].get_yticklabels()]
    assert [text.split("optim.lr=")[1] for text in said] == ["0.000274", "3.81e-05", "0.01"]
    assert jobs["optim.lr"].to_list() == list(rates)  # the table has every digit


def test_different_values_never_look_the_same(table: pd.DataFrame) -> None:
    jobs = searched(table, "0.00027418504387583854", "0.00027443", "0.5")
    assert {"0.0002742", "0.0002744", "0.5"} <= set(shown(jobs).split())
    text = shown(searched(table, "0.5000", "0.50", "data/v1.23456"))
    assert {"0.5000", "0.50", "data/v1.23456"} <= set(text.split())


def test_a_run_folder_is_no_sweep(folder: Path) -> None:
    with pytest.raises(EdjeError, match="is a run folder"):
        sweep_table(folder / "0")


def test_an_empty_folder_is_an_empty_table(tmp_path: Path) -> None:
    assert sweep_table(tmp_path).empty
