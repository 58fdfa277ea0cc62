import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from edje.analysis import compare, decide, load_runs
from edje.errors import EdjeError


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., dict]) -> Path:
    """8 and 4 tokens rank exactly alike, 2 are far behind; the cheapest comes last."""
    root = tmp_path_factory.mktemp("runs") / "tokens"
    for job, (tokens, seed) in enumerate([(8, 0), (8, 1), (4, 0), (4, 1), (2, 0), (2, 1)]):
        run = root / str(job)
        make_run(run, images=20, seed=seed)
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace("tokens: 8", f"tokens: {tokens}"))
        metrics = json.loads((run / "metrics.json").read_text())
        metrics["storage_bytes_per_image"] = 100 * tokens
        metrics["scored_pairs_per_second"] = 1000.0 * (seed + 1)
        (run / "metrics.json").write_text(json.dumps(metrics))
        if tokens == 2:
            table = pd.read_parquet(run / "candidates.parquet")
            table.assign(final=-table["final"]).to_parquet(run / "candidates.parquet")
    return root


def test_the_cheapest_that_is_not_shown_to_be_worse_is_taken(sweep: Path) -> None:
    table = decide(sweep, by="adapter.num_tokens").set_index("choice")
    assert list(table.index) == [f"adapter.num_tokens={n}" for n in (2, 4, 8)]
    assert table["cost"].tolist() == [200, 400, 800]
    assert table["worse"].tolist() == [True, False, False]
    assert table["taken"].tolist() == [False, True, False]
    assert table["best"].sum() == 1 and table.loc[table["best"], "behind"].item() == 0
    assert table.loc[table["best"], "behind.low"].isna().all()
    equal = table.loc[~table["worse"] & ~table["best"]].iloc[0]
    assert equal["behind"] == 0 and equal["behind.low"] <= 0 <= equal["behind.high"]
    assert table["run"].tolist() == [sweep / first for first in ("4", "2", "0")]


@pytest.mark.parametrize("order", [1, -1])  # the best first, and behind the one that is worse
def test_it_is_what_the_comparison_of_every_pair_says(sweep: Path, order: int) -> None:
    runs = load_runs(sweep).iloc[::order]
    pairs = compare(runs, by="adapter.num_tokens", direction="i2t")
    table = decide(runs, by="adapter.num_tokens", direction="i2t").set_index("choice")
    (best,) = table.index[table["best"]]
    for _, pair in pairs.iterrows():
        assert table.loc[pair["a"], "recall"] == pair["a.recall"]
        if best in (pair["a"], pair["b"]):
            other, sign = (pair["b"], 1) if pair["a"] == best else (pair["a"], -1)
            row = table.loc[other]
            assert row["behind"] == sign * pair["difference"] >= 0
            ends = sorted(sign * pair[f"difference.{end}"] for end in ("low", "high"))
            assert [row["behind.low"], row["behind.high"]] == ends
            assert row["worse"] == bool(pair["better"])


@pytest.mark.parametrize("chosen", [[2, 8], [8, 2]])
def test_of_equally_cheap_choices_the_one_with_the_higher_recall_is_taken(
    sweep: Path, chosen: list[int]
) -> None:
    runs = load_runs(sweep).set_index("adapter.num_tokens", drop=False)
    runs["storage_bytes_per_image"] = 100
    table = decide(runs.loc[chosen].reset_index(drop=True), by="adapter.num_tokens")
    best = table.index[table["best"]]
    assert table["recall"].is_monotonic_decreasing and table["recall"].nunique() == 2
    assert best.tolist() == table.index[table["taken"]].tolist() == [0]


def test_another_cost_is_averaged_over_the_runs_and_may_change_what_is_taken(sweep: Path) -> None:
    table = decide(sweep, by="seed", cost="scored_pairs_per_second")
    assert table["cost"].tolist() == [1000, 2000]


def test_a_cost_that_not_every_run_has_is_refused(sweep: Path) -> None:
    with pytest.raises(
        EdjeError, match=r"cost='euros': some runs of adapter\.num_tokens=8 lack it"
    ):
        decide(sweep, by="adapter.num_tokens", cost="euros")
    runs = load_runs(sweep)
    runs.loc[runs["run"] == "3", "storage_bytes_per_image"] = None
    with pytest.raises(EdjeError, match=r"runs of adapter\.num_tokens=4 lack it"):
        decide(runs, by="adapter.num_tokens")
