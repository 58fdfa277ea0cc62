"""The benchmark in a tiny size: that its rows say what was run, and that its clock is fair."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from edje.benchmark import pages
from edje.benchmark.blip import BlipRoad
from edje.benchmark.ceiling import Ceiling
from edje.benchmark.entry import Peer
from edje.benchmark.files import StoredFile
from edje.benchmark.flops import count_flops
from edje.benchmark.measure import measure
from edje.benchmark.models import random_reranker
from edje.benchmark.ours import OurLane
from edje.benchmark.pages import LEFT, share_in_memory, share_kept
from edje.benchmark.peers import LeanRoad, ResearchRoad, cross_encoder
from edje.benchmark.settings import Benchmark
from edje.benchmark.timing import Timing, timed_together
from edje.cli import run
from edje.config.locations import conf_folder, register_resolvers
from edje.errors import EdjeError
from edje.inference.cpu import has_int8_products
from edje.inference.scorer import ScoringSet, StoredTokenScorer
from edje.records import TextBatch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
CPU = torch.device("cpu")
COLUMNS = {
    *("lane", "tier", "tokens", "text_tokens", "k", "batch", "dtype", "device"),
    *("pairs_per_second", "p50_ms", "p99_ms", "flops_per_pair", "share_of_ceiling"),
    "bytes_per_query",
}


def tiny(precision: str = "fp32", **changes) -> Benchmark:
    register_resolvers()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("run", ["benchmark=tiny", f"benchmark.precision={precision}"])
    return instantiate(cfg.benchmark, **changes)


def ours(sizes: Benchmark, tokens: int, k: int, fusion_layer: int) -> Callable[[], torch.Tensor]:
    """Our scorer alone."""
    return OurLane(sizes, tokens, k, fusion_layer, CPU, Path()).entry("scorer").call


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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])  # attention by another road
def test_flops_are_those_of_the_products_worked_by_hand(precision):
    sizes, k, tokens = tiny(precision), 5, 4
    sequence = sizes.text_tokens + tokens + 1
    every = products(sequence, sequence, sizes) + keys_and_values(sequence, sizes)
    last = products(1, sequence, sizes) + keys_and_values(sequence, sizes)
    found = count_flops(ours(sizes, tokens, k, 0))
    assert found == k * (every + last + head(sizes))
    lean = count_flops(LeanRoad(sizes, tokens, k, CPU))
    assert lean == k * (2 * every + head(sizes))


def test_with_a_fusion_layer_the_text_costs_once_whatever_the_candidates():
    sizes, k, tokens = tiny(), 5, 4
    length = sizes.text_tokens
    text = products(length, length, sizes) + keys_and_values(length, sizes)
    both = length + tokens
    last = products(1, both, sizes) + keys_and_values(both, sizes)
    found = count_flops(ours(sizes, tokens, k, 1))
    assert found == text + k * (last + head(sizes))


def test_arithmetic_is_linear_in_candidates_and_in_queries():
    sizes = tiny()
    by_k = [count_flops(ours(sizes, 4, k, 0)) for k in (7, 14, 28)]
    assert by_k[1] == 2 * by_k[0] and by_k[2] == 4 * by_k[0]
    model, texts = random_reranker(sizes, 4, 1), many_texts(sizes)
    scorer = StoredTokenScorer(model, texts, torch.float32, batch_size=16)
    by_queries = []
    for queries in (2, 4, 8):
        captions = torch.arange(queries).repeat_interleave(5)
        images = torch.arange(5).repeat(queries)
        first = torch.zeros(len(images))
        by_queries.append(count_flops(lambda c=captions, i=images, f=first: scorer("t2i", c, i, f)))
    assert by_queries[1] == 2 * by_queries[0] and by_queries[2] == 4 * by_queries[0]


def many_texts(sizes: Benchmark) -> ScoringSet:
    ids = torch.randint(1, sizes.vocabulary, (8, 6))
    return ScoringSet(TextBatch(ids, torch.ones_like(ids).bool()), torch.randn(5, 4, sizes.width))


def test_all_tiers_and_the_peers_score_every_candidate(tmp_path: Path):
    sizes = tiny()
    entries = list(OurLane(sizes, 4, 5, 0, CPU, tmp_path).entries())
    cold = ["cold"] if share_kept(tmp_path) <= LEFT else []
    assert [entry.tier for entry in entries] == ["scorer", "host", "warm", *cold, "query"]
    for entry in entries:
        (entry.prepare or (lambda: None))()
        assert entry.call().shape == (5,)
    assert BlipRoad(sizes, 3, CPU, with_vision=False)().shape == (3,)
    assert BlipRoad(sizes, 3, CPU, with_vision=True)().shape == (3,)
    pytest.importorskip("sentence_transformers")
    assert cross_encoder(sizes, 4, 5, CPU)().shape == (5,)


def test_the_cross_encoder_reads_as_many_positions_as_the_lean_road():
    """Beyond 512 of them too, where a tokenizer of BERT's would cut the text off."""
    pytest.importorskip("sentence_transformers")
    sizes = tiny()
    road = cross_encoder(sizes, 520, 2, CPU)
    assert road is not None
    assert count_flops(road) == count_flops(LeanRoad(sizes, 520, 2, CPU))


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


def test_blips_roads_give_the_scores_of_its_own_model():
    sizes = tiny()
    pixels, features = (BlipRoad(sizes, 2, CPU, with_vision=vision) for vision in (True, False))
    features.model, features.ids = pixels.model, pixels.ids
    with torch.no_grad():
        output = pixels.model(pixels.ids.expand(2, -1), pixels.images)
        features.images = pixels.model.vision_model(pixels.images).last_hidden_state
    expected = output.itm_score[:, 1]
    torch.testing.assert_close(pixels(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features(), expected, rtol=1e-5, atol=1e-5)


def test_a_forgotten_file_is_not_in_memory_and_reads_the_same(tmp_path: Path):
    if share_kept(tmp_path) > LEFT:
        pytest.skip("this file system keeps its files in memory")
    stored, rows = StoredFile(tmp_path / "store", 20, 8, 512), torch.tensor([3, 11])
    before = stored.read(rows, dtype=torch.float32, device="cpu")
    shards = list((tmp_path / "store").glob("*.arrow"))
    assert share_in_memory(shards) > 0.5
    stored.forget()
    assert share_in_memory(shards) <= LEFT
    after = stored.read(rows, dtype=torch.float32, device="cpu")
    assert torch.equal(before, after) and stored.cell_bytes == 8 * 512 * 2


def test_where_pages_cant_be_dropped_no_read_is_called_cold(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pages, "drop_pages", lambda paths: None)
    monkeypatch.setattr(pages, "TRIES", 1)
    entries = OurLane(tiny(), 4, 5, 0, CPU, tmp_path).entries()
    assert [entry.tier for entry in entries] == ["scorer", "host", "warm", "query"]
    assert f"cold is skipped: 100% of the pages of a file in {tmp_path} can't" in caplog.text
    with pytest.raises(EdjeError, match=r"store: 100\.00% of the pages .* no cold read can be"):
        StoredFile(tmp_path / "store", 20, 8, 512).forget()


def test_the_arithmetic_of_a_calibration_is_not_counted(tmp_path: Path):
    alone = {"lanes": ["ours"], "tiers": ["scorer"], "fusion_layers": [0], "int8": False}
    sizes = tiny(tokens=[4], candidates=[40], min_runs=1, **alone)
    (row,), _ = measure(sizes, CPU, tmp_path)
    given = count_flops(ours(tiny(batch_size=9), 4, 40, 0)) / 40
    assert row["flops_per_pair"] == given


class Slept(Peer):
    """A peer whose batches take a known time, by a clock of its own."""

    def __init__(self, k: int, seconds: dict[int, float], **changes):
        super().__init__(tiny(**changes), k, CPU)
        self.seconds, self.now = seconds, 0.0
        self.clock = lambda: self.now

    def scores(self, pairs: int, batch_size: int) -> torch.Tensor:
        self.now += self.seconds[pairs] if pairs == batch_size else 0.0
        return torch.full((pairs,), float(batch_size))


def test_a_peer_runs_in_its_own_fastest_batch_unless_one_is_given():
    seconds = {16: 1.6, 32: 2.2, 64: 6.4, 100: 12.0, 40: 3.0, 5: 1.0}  # 32: 0.07 s per pair
    assert Slept(100, seconds)().tolist() == [32.0] * 100
    assert Slept(40, seconds | {32: 2.6})().tolist() == [40.0] * 40
    assert Slept(5, seconds)().tolist() == [5.0] * 5
    assert Slept(100, {}, batch_size=64)().tolist() == [64.0] * 100
    assert Slept(5, {5: 1.0}, batch_size=64).batch() == 5


def test_rows_say_the_batch_in_which_each_peer_ran(monkeypatch, tmp_path):
    """Sizes below k are tried, and of them only the given one is fast."""
    monkeypatch.setattr("edje.benchmark.entry.SIZES", (2, 3))
    monkeypatch.setattr("edje.benchmark.entry.calibrated", lambda run, tried, *_: tried[1])
    peers = {"lanes": ["research", "lean"], "tokens": [4], "min_runs": 1, "seconds": 0.0}
    rows, _ = measure(tiny(**peers), CPU, tmp_path)
    assert [(row["lane"], row["batch"]) for row in rows] == [("research", 3), ("lean", 3)]
    rows, _ = measure(tiny(batch_size=2, **peers), CPU, tmp_path)
    assert [row["batch"] for row in rows] == [2, 2]


def test_a_peers_scores_do_not_depend_on_its_batch():
    pytest.importorskip("sentence_transformers")
    roads = [LeanRoad, ResearchRoad, cross_encoder]
    peers = [road(tiny(), 4, 5, CPU) for road in roads]
    for peer in [*peers, BlipRoad(tiny(), 5, CPU, with_vision=False)]:
        torch.testing.assert_close(peer.scores(5, 2), peer(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(peer.scores(3, 3), peer()[:3], rtol=1e-4, atol=1e-5)


def test_settings_whose_query_would_take_too_long_are_left_out(tmp_path, monkeypatch, caplog):
    """Their layers do 1.8 and 2.5 million operations, on a machine that does a million a second."""
    monkeypatch.setattr("edje.benchmark.measure.ceiling_of", lambda *_: Ceiling(1e6, 1e9, 1e9))
    alone = {"lanes": ["ours"], "tiers": ["scorer"], "fusion_layers": [0], "int8": False}
    short = {"min_runs": 1, "seconds": 0.0, **alone}
    with caplog.at_level("INFO"):
        rows, _ = measure(tiny(longest=2.0, **short), CPU, tmp_path)
    assert [row["tokens"] for row in rows] == [4]
    assert "8 visual tokens, k = 5: left out, a query's layers would take 2.5 s" in caplog.text
    with pytest.raises(EdjeError, match=r"benchmark.longest=1.0: every setting would take longer"):
        measure(tiny(longest=1.0, **short), CPU, tmp_path)
    rows, _ = measure(tiny(longest=None, **short), CPU, tmp_path)
    assert [row["tokens"] for row in rows] == [4, 8]


def test_what_prepares_a_call_is_done_before_each_run_and_not_timed():
    log, clock = [], {"time": 0.0}

    def spend(name: str, seconds: float) -> None:
        log.append(name)
        clock["time"] += seconds

    timings = timed_together(
        {"call": lambda: spend("call", 1.0)},
        CPU,
        warmup=1,
        min_runs=2,
        seconds=0.0,
        clock=lambda: clock["time"],
        prepare=lambda name: spend(f"prepare {name}", 5.0),
    )
    assert log == ["prepare call", "call"] * 3 and timings["call"].seconds == (1.0, 1.0)


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


def test_tiers_without_the_scorer_alone_are_refused():
    with pytest.raises(EdjeError, match=r"benchmark.tiers=\['host'\]: lacks scorer"):
        Benchmark(tiers=["host"])


def test_the_task_writes_rows_a_table_and_a_plot(tmp_path: Path, capsys):
    folder = tmp_path / "run"
    run(["task=benchmark", "benchmark=tiny", f"hydra.run.dir={folder}"])
    rows = json.loads((folder / "benchmark.json").read_text())
    assert all(set(row) >= COLUMNS for row in rows)
    lanes = {(row["lane"], row["tier"], row["tokens"]) for row in rows}
    assert len(lanes) == len(rows)
    cold = ["cold"] if share_kept(tmp_path) <= LEFT else []
    for tokens in (4, 8):
        for tier in ("scorer", "host", "warm", *cold, "query"):
            assert {("ours", tier, tokens), ("ours, fusion at 1", tier, tokens)} <= lanes
        assert {("research", "scorer", tokens), ("lean", "scorer", tokens)} <= lanes
        assert (("ours, int8", "scorer", tokens) in lanes) == has_int8_products()
    assert {("blip", "scorer", 5), ("blip_vision", "scorer", 5)} <= lanes  # 4 patches and a class
    for row in rows:
        assert row["p50_ms"] <= row["p99_ms"] and row["runs"] >= 3
        assert row["pairs_per_second"] == pytest.approx(1000 * row["k"] / row["p50_ms"])
        assert row["batch"] <= row["k"] == (2 if row["lane"].startswith("blip") else 5)
        moved = 0 if row["tier"] == "scorer" else 5 * row["tokens"] * 32 * 2
        assert row["bytes_per_query"] == moved and 0 < row["share_of_ceiling"] <= 1
    machine = json.loads((folder / "machine.json").read_text())
    assert machine["clock"] == "wall"
    assert set(machine["ceilings_tflops_per_second"]) == {row["dtype"] for row in rows}
    assert all(rate > 0 for rate in machine["ceilings_tflops_per_second"].values())
    assert machine["copy_gb_per_second"] > 0
    assert (folder / "plots" / "throughput.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "ours, fusion at 1" in printed and "TFLOP/s" in printed
