"""The benchmark in a tiny size: that its rows say what was run, and that its clock is fair."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from edje.benchmark.flops import count_flops
from edje.benchmark.models import random_reranker
from edje.benchmark.ours import our_calls
from edje.benchmark.peers import LeanRoad, cross_encoder
from edje.benchmark.settings import Benchmark
from edje.benchmark.timing import Timing, timed_together
from edje.cli import run
from edje.config.locations import conf_folder, register_resolvers
from edje.errors import EdjeError
from edje.records import TextBatch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
CPU = torch.device("cpu")
COLUMNS = {
    *("lane", "tier", "tokens", "text_tokens", "k", "batch", "dtype", "device"),
    *("pairs_per_second", "p50_ms", "p99_ms", "flops_per_pair", "share_of_ceiling"),
    "bytes_per_query",
}


def tiny(**changes) -> Benchmark:
    register_resolvers()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("run", ["benchmark=tiny", "benchmark.precision=fp32"])
    return instantiate(cfg.benchmark, **changes)


def products(rows: int, sequence: int, sizes: Benchmark) -> int:
    """A layer's products for some rows, keys and values aside: worked by hand."""
    width, hidden = sizes.width, sizes.hidden_width
    linear = rows * (2 * width * width + 2 * width * hidden)  # query, output, feed-forward
    attention = 2 * rows * sequence * width
    return 2 * (linear + attention)


def keys_and_values(sequence: int, sizes: Benchmark) -> int:
    return 2 * sequence * 2 * sizes.width**2


def head(sizes: Benchmark) -> int:
    return 2 * (sizes.width**2 + sizes.width)


def test_flops_are_those_of_the_products_worked_by_hand():
    sizes, k, tokens = tiny(), 5, 4
    sequence = sizes.text_tokens + tokens + 1
    every = products(sequence, sequence, sizes) + keys_and_values(sequence, sizes)
    last = products(1, sequence, sizes) + keys_and_values(sequence, sizes)
    ours = count_flops(our_calls(sizes, tokens, k, 0, CPU)["scorer"])
    assert ours == k * (every + last + head(sizes))
    lean = count_flops(LeanRoad(sizes, tokens, k, CPU))
    assert lean == k * (2 * every + head(sizes))


def test_with_a_fusion_layer_the_text_costs_once_whatever_the_candidates():
    sizes, k, tokens = tiny(), 5, 4
    length = sizes.text_tokens
    text = products(length, length, sizes) + keys_and_values(length, sizes)
    both = length + tokens
    last = products(1, both, sizes) + keys_and_values(both, sizes)
    found = count_flops(our_calls(sizes, tokens, k, 1, CPU)["scorer"])
    assert found == text + k * (last + head(sizes))


def test_all_tiers_and_the_cross_encoder_score_every_candidate():
    sizes = tiny()
    for call in our_calls(sizes, 4, 5, 0, CPU).values():
        assert call().shape == (5,)
    pytest.importorskip("sentence_transformers")
    assert cross_encoder(sizes, 4, 5, CPU)().shape == (5,)


def test_the_lean_road_gives_the_scores_that_our_model_gives():
    """Same weights, same input: the peer does the same work, no more and no less."""
    sizes, tokens, k = tiny(), 4, 5
    lean = LeanRoad(sizes, tokens, k, CPU)
    lean.separator = torch.full((1, 1), min(102, sizes.vocabulary - 1))
    model = random_reranker(sizes, tokens, 0)
    model.joint.language_model.load_state_dict(lean.model.state_dict())
    model.match.load_state_dict(lean.head.state_dict())
    ids = lean.ids.expand(k, -1)
    with torch.no_grad():
        expected = model.score(TextBatch(ids, torch.ones_like(ids).bool()), lean.visual, "t2i")
    torch.testing.assert_close(lean(), expected, rtol=1e-5, atol=1e-5)


def test_calls_take_turns_by_the_time_they_have_had():
    now, log = itertools.count().__next__, []
    clock = {"time": 0.0}

    def spend(name: str, seconds: float) -> None:
        log.append(name)
        clock["time"] += seconds

    calls = {"slow": lambda: spend("slow", 3.0), "fast": lambda: spend("fast", 1.0)}
    timings = timed_together(
        calls, CPU, warmup=1, min_runs=2, seconds=12.0, clock=lambda: clock["time"]
    )
    assert now() == 0 and log[:2] == ["slow", "fast"]  # the warm-up, which is not counted
    assert set(timings["slow"].seconds) == {3.0} and set(timings["fast"].seconds) == {1.0}
    assert sum(timings["slow"].seconds) == sum(timings["fast"].seconds) == 6.0
    least = timed_together(
        calls, CPU, warmup=0, min_runs=4, seconds=0.0, clock=lambda: clock["time"]
    )
    assert {len(timing.seconds) for timing in least.values()} == {4}


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.001, 1.0)]
)
def test_quantiles_are_measured_runs(share, expected):
    assert Timing(tuple(float(n) for n in range(100, 0, -1))).quantile(share) == expected


def test_more_candidates_than_the_corpus_holds_are_refused():
    with pytest.raises(EdjeError, match=r"candidates=\[9\].*corpus=5; expected 1 to 5"):
        Benchmark(candidates=[9], corpus=5)


def test_the_task_writes_rows_a_table_and_a_plot(tmp_path: Path, capsys):
    folder = tmp_path / "run"
    run(["task=benchmark", "benchmark=tiny", f"hydra.run.dir={folder}"])
    rows = json.loads((folder / "benchmark.json").read_text())
    assert all(set(row) >= COLUMNS for row in rows)
    lanes = {(row["lane"], row["tier"], row["tokens"]) for row in rows}
    assert len(lanes) == len(rows)
    for tokens in (4, 8):
        for tier in ("scorer", "host", "query"):
            assert {("ours", tier, tokens), ("ours, fusion at 1", tier, tokens)} <= lanes
        assert {("research", "scorer", tokens), ("lean", "scorer", tokens)} <= lanes
    for row in rows:
        assert row["p50_ms"] <= row["p99_ms"] and row["runs"] >= 3
        assert row["pairs_per_second"] == pytest.approx(1000 * row["k"] / row["p50_ms"])
        moved = 0 if row["tier"] == "scorer" else 5 * row["tokens"] * 32 * 2
        assert row["bytes_per_query"] == moved and row["share_of_ceiling"] > 0
    machine = json.loads((folder / "machine.json").read_text())
    assert machine["product_tflops_per_second"] > 0 and machine["copy_gb_per_second"] > 0
    assert (folder / "plots" / "throughput.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "ours, fusion at 1" in printed and "TFLOP/s" in printed
