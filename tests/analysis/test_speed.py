import json

import pytest

from edje.analysis import recall_against_latency
from edje.analysis.speed import save_recall_plot
from edje.errors import EdjeError


def benchmark(folder, *rows) -> None:
    """A benchmark of whole queries, given as (lane, tokens, k, milliseconds)."""
    folder.mkdir()
    names = ("lane", "tokens", "k", "p50_ms")
    content = [{**dict(zip(names, row, strict=True)), "tier": "query"} for row in rows]
    content.append({"lane": "ours", "tokens": 8, "k": 6, "p50_ms": 1.0, "tier": "scorer"})
    (folder / "benchmark.json").write_text(json.dumps(content))


def test_a_run_lies_at_its_recall_and_at_the_time_of_its_tokens_and_candidates(tmp_path, make_run):
    metrics = make_run(tmp_path / "runs" / "a")
    others = [("ours", 8, 20, 80.0), ("ours", 16, 6, 90.0), ("ours, fusion at 2", 8, 6, 70.0)]
    benchmark(tmp_path / "b", ("ours", 8, 6, 12.5), *others)
    (axes,) = recall_against_latency(tmp_path / "runs", tmp_path / "b").axes
    (point,) = axes.containers
    value = metrics["t2i"]["reranked"]["recall@1"]["value"]
    assert point.lines[0].get_xydata().tolist() == [[12.5, value]]
    first = metrics["t2i"]["first_stage"]["recall@1"]["value"]
    assert first in axes.lines[-1].get_ydata()
    assert [text.get_text() for text in axes.texts] == ["8 tokens"]
    assert axes.get_xlim()[0] == 0
    assert save_recall_plot(tmp_path / "runs", tmp_path / "b").stat().st_size > 1000


def test_runs_that_the_benchmark_knows_nothing_of_are_an_error_that_says_so(tmp_path, make_run):
    make_run(tmp_path / "runs" / "a")
    benchmark(tmp_path / "b", ("ours", 16, 6, 12.5))
    with pytest.raises(EdjeError, match=r"no evaluated run under .* has one of them"):
        recall_against_latency(tmp_path / "runs", tmp_path / "b")
    with pytest.raises(EdjeError, match=r"it has no benchmark.json"):
        recall_against_latency(tmp_path / "runs", tmp_path / "runs")
