from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from edje.analysis import failures, gallery, query_outcomes, read_metrics
from edje.errors import EdjeError

# What reranking does to the two captions of each of four images, and what the captions say.
WORKED = {
    "scene_000": [("fixed", "a red star"), ("fixed", "a star above a bar")],
    "scene_001": [("broken", "a blue star"), ("right", "a star below a bar")],
    "scene_002": [("wrong", "a star"), ("missed", "a star under a red bar")],
    "scene_003": [("right", "a star"), ("right", "a star near a bar and a ring")],
}
# Scores before and after of the true image; the others have 0.5.
SCORES = {"fixed": (0, 1), "broken": (1, 0), "right": (1, 1), "wrong": (0, 0), "missed": (0, 0)}


@pytest.fixture(scope="module")
def worked(tmp_path_factory, make_run) -> Path:
    folder = tmp_path_factory.mktemp("worked") / "run"
    make_run(folder, images=4, pool=4)
    queries, pairs = (  # two captions of an image are enough
        table[~table["query_id"].str.endswith("#2")].copy()
        for table in (
            pd.read_parquet(folder / "queries.parquet"),
            pd.read_parquet(folder / "candidates.parquet"),
        )
    )
    for image, captions in WORKED.items():
        for number, (outcome, text) in enumerate(captions):
            query = f"{image}#{number}"
            queries.loc[queries["query_id"] == query, "text"] = text
            own = pairs["query_id"] == query
            scores = zip(("first_stage", "final"), SCORES[outcome], strict=True)
            for column, score in scores:
                pairs.loc[own, column] = 0.5
                pairs.loc[own & pairs["relevant"], column] = float(score)
            if outcome == "missed":
                pairs.loc[own, "relevant"] = False
    queries.to_parquet(folder / "queries.parquet")
    pairs.to_parquet(folder / "candidates.parquet")
    return folder


def test_every_query_has_the_outcome_that_its_scores_were_made_for(worked: Path) -> None:
    table = query_outcomes(worked)
    expected = [entry for captions in WORKED.values() for entry in captions]
    assert list(zip(table["outcome"], table["text"], strict=True)) == expected
    assert table["query_id"][1] == "scene_000#1"
    assert table["before"].tolist()[:3] == [4, 4, 1]
    assert table.loc[table["outcome"] == "missed", "after"].item() == float("inf")
    # within the first four all that is listed is right
    assert set(query_outcomes(worked, k=4)["outcome"]) == {"right", "missed"}


@pytest.mark.parametrize("table", [failures, query_outcomes])
def test_a_cutoff_below_one_is_refused(worked: Path, table: Callable[..., pd.DataFrame]) -> None:
    with pytest.raises(EdjeError, match="k=0: expected a whole number of 1 or more"):
        table(worked, k=0)


def test_groups_have_the_counts_and_shares_worked_by_hand(worked: Path) -> None:
    table = failures(worked)
    counts = table.set_index(["fact", "group"])[["queries", "fixed", "broken", "missed"]]
    assert {key: row.tolist() for key, row in counts.iterrows()} == {
        ("all", "all"): [8, 2, 1, 1],
        ("words", "up to 5"): [6, 2, 1, 0],
        ("words", "6 to 10"): [2, 0, 0, 1],
        ("things", "up to 1"): [4, 1, 1, 0],
        ("things", "2"): [3, 1, 0, 1],
        ("things", "3"): [1, 0, 0, 0],
        ("colours", "none"): [5, 1, 0, 0],
        ("colours", "1"): [3, 1, 1, 1],
        ("relations", "none"): [4, 1, 1, 0],
        ("relations", "1"): [4, 1, 0, 1],
    }
    assert table["fixed.share"].tolist() == pytest.approx(
        100 * table["fixed"] / table["queries"], abs=1e-9
    )
    rows = table.set_index(["fact", "group"])
    assert rows.loc[("all", "all"), "gain"] == pytest.approx(100 / 8)
    # one of the four images holds both fixed captions: drawn 0 to 3 times, hardly ever 4
    ends = ["fixed.share.low", "fixed.share", "fixed.share.high"]
    assert rows.loc[("all", "all"), ends].tolist() == [0, 25, 75]
    assert (table["gain.low"] <= table["gain"]).all()
    assert (table["gain"] <= table["gain.high"]).all()


def test_the_gain_of_all_captions_is_that_of_metrics_json(run_folder: Path) -> None:
    expected = read_metrics(run_folder)["t2i"]["gain"]["recall@5"]
    row = failures(run_folder, k=5).iloc[0]
    assert [row["gain"], row["gain.low"], row["gain.high"]] == list(expected.values())


@pytest.mark.parametrize("read", [failures, query_outcomes, gallery])
def test_a_run_without_the_texts_of_its_queries_is_refused(read, tmp_path, make_run) -> None:
    make_run(tmp_path / "run", images=3, pool=2)
    path = tmp_path / "run" / "queries.parquet"
    pd.read_parquet(path).drop(columns="text").to_parquet(path)
    with pytest.raises(EdjeError, match="no text queries with their text"):
        read(tmp_path / "run")
