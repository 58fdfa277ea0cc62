import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edje.analysis import compare, load_runs, read_metrics
from edje.analysis.comparison import holm
from edje.errors import EdjeError


def with_metrics(folder: Path, **entries: object) -> None:
    path = folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def spoil(folder: Path, queries: int) -> None:
    """Put the first text queries' relevant candidates last."""
    path = folder / "candidates.parquet"
    table = pd.read_parquet(path)
    chosen = table.loc[table["direction"] == "t2i", "query_id"].drop_duplicates()[:queries]
    table.loc[table["query_id"].isin(chosen) & table["relevant"], "final"] = -100.0
    table.to_parquet(path)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., dict]) -> Path:
    """Two seeds with 8 tokens, two with 4 that are much worse, one failed job."""
    root = tmp_path_factory.mktemp("runs") / "tokens"
    for job, (tokens, seed) in enumerate([(8, 0), (8, 1), (4, 0), (4, 1)]):
        make_run(root / str(job), images=30, seed=seed)
        config = root / str(job) / "config.yaml"
        config.write_text(config.read_text().replace("num_tokens: 8", f"num_tokens: {tokens}"))
        with_metrics(root / str(job), split_digest="ab" * 32)
        if tokens == 4:
            spoil(root / str(job), queries=40)
    (root / "4").mkdir()
    (root / "4" / "error.txt").write_text("out of luck")
    (root / "4" / "config.yaml").write_text("seed: 0\n")
    return root


def test_holms_correction_of_a_hand_worked_family() -> None:
    # sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04; none below a smaller one's
    corrected = holm(np.array([0.04, 0.01, 0.03, 0.02]))
    assert corrected.tolist() == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0]


def test_a_difference_and_its_interval_are_those_worked_by_hand(tmp_path, make_run) -> None:
    """Three images with two captions each; run b loses both captions of the first one."""
    for name in ("a", "b"):
        make_run(tmp_path / name, images=3, pool=3)
        path = tmp_path / name / "candidates.parquet"
        table = pd.read_parquet(path)
        first = table["query_id"].str.startswith("scene_000") & (table["direction"] == "t2i")
        lost = table["relevant"] & (first if name == "b" else False)
        table.assign(final=table["relevant"] - 2.0 * lost).to_parquet(path)
    (row,) = compare([tmp_path / "a", tmp_path / "b"], direction="t2i").to_dict("records")
    assert [row[side] for side in "ab"] == [(tmp_path / side).as_posix() for side in "ab"]
    assert (row["a.recall"], row["b.recall"]) == (100, pytest.approx(200 / 3))
    assert row["difference"] == pytest.approx(100 / 3)
    # images differ by 100, 0, 0: standard error 33.3, times 4.30 of two degrees of freedom
    assert (row["difference.low"], row["difference.high"]) == (-100, 100)
    assert row["p"] == row["p.holm"] == 1  # a single image could as well differ the other way
    assert row["better"] == ""


def test_runs_of_one_choice_are_pooled_and_the_worse_choice_is_named(sweep: Path) -> None:
    table = compare(sweep, by="adapter.num_tokens")
    assert table["direction"].to_list() == ["t2i", "i2t"]
    assert set(table["a"]) == {"adapter.num_tokens=8"}
    assert set(table["b"]) == {"adapter.num_tokens=4"}
    assert table[["a.runs", "b.runs"]].to_numpy().tolist() == [[2, 2], [2, 2]]
    recall = [read_metrics(sweep / job)["t2i"]["reranked"]["recall@1"]["value"] for job in "01"]
    assert table["a.recall"][0] == pytest.approx(np.mean(recall))
    assert table["difference"][0] == pytest.approx(table["a.recall"][0] - table["b.recall"][0])
    assert table["difference.low"][0] > 0
    assert table["better"].to_list() == ["a", ""]  # only text queries were spoilt
    assert table["difference"][1] == 0
    assert table["p"][1] > 0.5


def test_without_by_each_run_is_a_choice_and_equal_runs_differ_by_nothing(sweep: Path) -> None:
    runs = load_runs(sweep)
    table = compare(runs[runs["status"] == "done"], direction="i2t")
    assert len(table) == 4 * 3 / 2
    same = table[(table["a"] == "0") & (table["b"] == "2")].iloc[0]
    assert (same["difference"], same["difference.low"], same["difference.high"]) == (0, 0, 0)
    assert same["p"] == same["p.holm"] == 1
    assert (table["p.holm"] >= table["p"]).all()


def test_a_table_its_folder_and_a_list_of_folders_give_the_same(sweep: Path) -> None:
    options = {"by": ["adapter.num_tokens", "seed"], "direction": "t2i", "k": 5}
    runs = load_runs(sweep)
    expected = compare(runs, **options)
    pd.testing.assert_frame_equal(compare(sweep, **options), expected)
    pd.testing.assert_frame_equal(compare([sweep / job for job in "0123"], **options), expected)
    assert expected["a"][0] == "adapter.num_tokens=8 seed=0"
    twice = compare([sweep / job for job in "01230"], by="adapter.num_tokens")
    assert twice[["a.runs", "b.runs"]].to_numpy().tolist() == [[2, 2], [2, 2]]


def test_the_order_of_a_runs_queries_does_not_matter(sweep: Path, tmp_path, make_run) -> None:
    make_run(tmp_path / "shuffled", images=30)
    path = tmp_path / "shuffled" / "queries.parquet"
    pd.read_parquet(path).sample(frac=1, random_state=0).to_parquet(path)
    table = compare([sweep / "0", tmp_path / "shuffled"])
    assert (table["p"] == 1).all()


def test_runs_of_other_splits_are_refused_by_name(sweep: Path, tmp_path, make_run) -> None:
    make_run(tmp_path / "other", images=30)
    with_metrics(tmp_path / "other", split_digest="cd" * 32, split="val")
    with pytest.raises(EdjeError) as error:
        compare([sweep, tmp_path / "other"])
    assert f"{sweep / '3'} on shapes test (split_digest {'ab' * 6})" in str(error.value)
    assert f"{tmp_path / 'other'} on shapes val (split_digest {'cd' * 6})" in str(error.value)
    make_run(tmp_path / "small", images=20)  # as an early version wrote it, without a digest
    with pytest.raises(EdjeError, match=r"0 and .*small were evaluated on different images"):
        compare([sweep, tmp_path / "small"])


def test_what_can_not_be_compared_is_refused(sweep: Path, tmp_path) -> None:
    with pytest.raises(EdjeError, match=r"two choices .*: got adapter\.num_tokens=8"):
        compare([sweep / "0", sweep / "1"], by="adapter.num_tokens")
    with pytest.raises(EdjeError, match=r"no column adapter\. .* such as .*adapter\.num_tokens"):
        compare(sweep, by="adapter")
    with pytest.raises(EdjeError, match=r"no column adapter\.tokens"):
        compare(sweep, by="adapter.tokens")
    with pytest.raises(EdjeError, match="No finished run"):
        compare([sweep / "0", sweep / "4"])
    with pytest.raises(EdjeError, match="k=0: expected a whole number of 1 or more"):
        compare(sweep, k=0)
    load_runs(sweep).to_csv(tmp_path / "runs.csv")
    with pytest.raises(EdjeError, match="doesn't say where its runs are"):
        compare(pd.read_csv(tmp_path / "runs.csv"))
