"""Claims about measures by given relevance."""

import logging
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from edje.analysis import compare, compare_judged, judged, read_metrics, write_trec
from edje.analysis.lists import read_text_lists
from edje.errors import EdjeError

QRELS = {  # the values of ir-measures 0.4.3 (trec_eval) are below
    "a": {"x": 2, "y": 1, "z": 0, "w": -1},
    "b": {"x": 1, "v": 3},
    "c": {"y": 1},
    "nothing": {"x": 0},
}
RUN = {
    "a": {"z": 9.0, "y": 2.5, "w": 2.0, "x": 1.0, "u": -1.0},
    "b": {"v": 0.3, "u": 0.2},
    "unknown": {"x": 1.0},
}
TREC_EVAL = {
    "Success@1": 1 / 3, "R@2": 1 / 3, "P@2": 1 / 3, "AP": 1 / 3, "RR": 1 / 2,
    "nDCG": 0.46448069, "nDCG@10": 0.46448069, "nDCG@2": 0.35534904,
}  # fmt: skip


def values(table: pd.DataFrame) -> dict[str, float]:
    return dict(zip(table["measure"], table["value"] / 100, strict=True))


def test_graded_relevance_gives_what_trec_eval_gives() -> None:
    table = judged(RUN, QRELS, tuple(TREC_EVAL))
    assert values(table) == pytest.approx(TREC_EVAL, abs=1e-7)
    assert (table["value.low"] <= table["value"]).all()
    assert (table["value"] <= table["value.high"]).all()


def test_queries_without_a_list_count_as_0_and_those_without_relevance_are_left_out() -> None:
    table = judged(RUN, QRELS)
    counts = table[["queries", "missing", "left_out"]].drop_duplicates()
    assert counts.to_numpy().tolist() == [[3, 1, 1]]
    full = judged(RUN | {"c": {"u": 1.0}, "nothing": {"x": 1.0}}, QRELS)
    assert full.drop(columns="missing").equals(table.drop(columns="missing"))
    assert not full["missing"].any()
    assert values(judged(RUN | {"c": {}}, QRELS)) == values(table)


def test_the_order_of_a_list_is_that_of_its_scores_and_equal_scores_earn_nothing() -> None:
    qrels = {"q": {"x": 2, "y": 1}}
    assert values(judged({"q": {"y": 1, "x": 2}}, qrels, "nDCG")) == {"nDCG": 1}
    constant = values(judged({"q": dict.fromkeys("xyuv", 0.5)}, qrels, ["RR", "nDCG", "AP"]))
    worst = values(judged({"q": {"u": 4, "v": 3, "y": 2, "x": 1}}, qrels, ["RR", "nDCG", "AP"]))
    assert constant == worst and worst["RR"] == pytest.approx(1 / 3)


def test_by_its_own_relevance_a_run_has_its_own_recall_and_intervals(run_folder: Path) -> None:
    metrics = read_metrics(run_folder)["t2i"]
    for stage in ("first_stage", "reranked"):
        named = [*(f"Success@{k}" for k in (1, 5, 10)), "R@5"]
        table = judged(run_folder, run_folder, named, stage=stage).set_index("measure")
        for k in (1, 5, 10):
            own = table.loc[f"Success@{k}", ["value", "value.low", "value.high"]].to_list()
            assert own == pytest.approx([*metrics[stage][f"recall@{k}"].values()], abs=1e-12)
        assert table.loc["R@5"].equals(table.loc["Success@5"])  # one image is relevant


def test_a_run_and_its_trec_file_have_the_same_values(run_folder: Path, tmp_path: Path) -> None:
    for stage in ("first_stage", "reranked"):
        write_trec(run_folder, tmp_path / "run.txt", stage=stage)
        read = judged(tmp_path / "run.txt", run_folder, resamples=50)
        assert read.equals(judged(run_folder, run_folder, stage=stage, resamples=50))


def test_the_lists_of_a_run_folder_are_measured_one_by_one(
    tmp_path: Path, make_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them as dictionaries would take more than 100 bytes per candidate."""
    make_run(run := tmp_path / "run", images=60, pool=60)
    stored = read_text_lists(run)
    monkeypatch.setattr("edje.analysis.trec.read_text_lists", lambda folder: stored)
    candidates = stored.reranked.final.numel()
    judged(run, run, "RR", resamples=1)  # what is imported or cached once
    tracemalloc.start()
    try:
        judged(run, run, "RR", resamples=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * candidates


def test_files_of_trec_and_mappings_are_measured_alike(tmp_path: Path) -> None:
    run = [f"{q} Q0 {p} 1 {s} tag" for q, some in RUN.items() for p, s in some.items()]
    (tmp_path / "run").write_text("\n".join(run) + "\n\n")
    qrels = [f"{q}\t0\t{p}\t{g}" for q, some in QRELS.items() for p, g in some.items()]
    (tmp_path / "qrels").write_text("\r\n".join(qrels))
    assert judged(tmp_path / "run", str(tmp_path / "qrels")).equals(judged(RUN, QRELS))


def test_two_runs_differ_as_by_compare(tmp_path: Path, make_run: Callable[..., dict]) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for seed, folder in enumerate(folders):
        make_run(folder, images=30, seed=seed)
    table = pd.read_parquet(folders[1] / "candidates.parquet")
    spoilt = table["relevant"] & table["query_id"].str.contains("scene_0[01]")
    table.assign(final=table["final"].where(~spoilt, -9.0)).to_parquet(
        folders[1] / "candidates.parquet"
    )
    (theirs,) = compare(folders, direction="t2i").to_dict("records")
    (ours,) = compare_judged(*folders, folders[0], "Success@1").to_dict("records")
    assert ours["difference"] > 0 and ours["better"] == "a"
    columns = ("difference", "difference.low", "difference.high", "p", "p.holm", "better")
    assert {name: ours[name] for name in columns} == {name: theirs[name] for name in columns}
    assert (ours["a.value"], ours["b.value"]) == (theirs["a.recall"], theirs["b.recall"])
    (pooled,) = compare_judged(folders, folders, folders[0], "AP").to_dict("records")
    assert pooled["difference"] == 0 and pooled["better"] == ""


def test_a_rival_is_compared_by_every_measure_and_corrected_for_them() -> None:
    qrels = {f"q{n}": {f"p{n}": 2, f"r{n}": 1} for n in range(20)}
    best = {query: {**grades, "u": 0.0} for query, grades in qrels.items()}
    rival = {query: {"u": 1.0} for query in list(qrels)[:15]}
    table = compare_judged(best, rival, qrels, ["RR", "nDCG@10"])
    assert table["measure"].to_list() == ["RR", "nDCG@10"]
    assert table["difference"].to_list() == pytest.approx([100, 100])
    assert table["better"].to_list() == ["a", "a"]
    assert (table["p.holm"] == 2 * table["p"]).all()
    assert table[["a.missing", "b.missing", "queries"]].to_numpy().tolist() == [[0, 5, 20]] * 2
    assert compare_judged(rival, best, qrels)["better"].to_list() == ["b"] * 4


def test_queries_with_the_same_relevant_pictures_are_drawn_together() -> None:
    """Four queries of two pictures make two clusters, whose interval is wider."""
    run = {f"q{n}": {"x" if n < 2 else "u": 1.0} for n in range(4)}
    (same,) = judged(run, {q: {"x" if q < "q2" else "y": 1} for q in run}, "RR").to_dict("records")
    assert (same["value.low"], same["value"], same["value.high"]) == (0, 50, 100)
    other = judged(run, {q: {"x" if q < "q2" else "y": 1, q: 1} for q in run}, "RR")
    drawn = torch.randint(4, (1000, 4), generator=torch.Generator().manual_seed(0))
    shares = (drawn < 2).double().mean(dim=1).quantile(torch.tensor([0.025, 0.975]).double())
    assert other[["value.low", "value.high"]].to_numpy()[0].tolist() == (100 * shares).tolist()


def test_ids_that_no_list_has_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert judged({"q": {"x.jpg": 1}}, {"q": {"x": 1}})["value"].to_list() == [0] * 4
    assert "No list of the run has any relevant picture" in caplog.text and "'x'" in caplog.text
    with pytest.raises(EdjeError, match=r"none of the judged queries: the qrels have 'q', the run"):
        judged({1: {"x": 1}}, {"q": {"x": 1}})


@pytest.mark.parametrize(
    ("run", "qrels", "said"),
    [
        (RUN, {"a": {"x": 0}}, "no grade above 0 for any of their 1 queries"),
        (RUN, {"a": {"x": "high"}}, "'a' has the grade 'high' for 'x', expected a finite number"),
        (RUN, {"a": {"x": float("inf")}}, "the grade inf for 'x'"),
        ({"a": {"x": float("nan")}}, QRELS, "'a' has the score nan for 'x'"),
        ({"a": ["x", "y"]}, QRELS, "'a' has a list, expected a mapping from pictures to a score"),
        ("", QRELS, "run='': expected a path"),
        (RUN, "", "qrels='': expected a path"),
        (["x"], QRELS, "Got a list, expected a mapping from queries"),
    ],
)
def test_what_cannot_be_measured_is_refused(run: object, qrels: object, said: str) -> None:
    with pytest.raises(EdjeError, match=said):
        judged(run, qrels)


def test_no_measure_no_run_and_no_such_stage_are_refused(run_folder: Path) -> None:
    with pytest.raises(EdjeError, match=r"expected one or several, such as nDCG@10"):
        judged(RUN, QRELS, [])
    with pytest.raises(EdjeError, match=r"measures=None: expected one or several"):
        judged(RUN, QRELS, None)
    with pytest.raises(EdjeError, match=r"measures: got 3, expected names such as nDCG@10"):
        judged(RUN, QRELS, [3])
    with pytest.raises(EdjeError, match="Got a int, expected a mapping from queries"):
        compare_judged(RUN, 3, QRELS)
    with pytest.raises(EdjeError, match="A side of the comparison has no run"):
        compare_judged([], RUN, QRELS)
    with pytest.raises(EdjeError, match="stage='joint': expected 'reranked' or 'first_stage'"):
        judged(run_folder, run_folder, stage="joint")
