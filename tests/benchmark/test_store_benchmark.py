"""The store's benchmark in a tiny size: its rows say what was read, and cold reads are cold."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from edje.analysis.store_speed import store_table
from edje.benchmark import pages
from edje.benchmark import store_benchmark as store
from edje.benchmark.pages import drop_pages, share_in_memory
from edje.benchmark.store_benchmark import StoreBenchmark, measure_store
from edje.benchmark.store_lanes import MemoryMapLane
from edje.benchmark.timing import timed_together
from edje.cli import run
from edje.errors import EdjeError

LANES = {"store", "memory map", "preadv, 2 threads"}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark") / "run"
    run(["task=benchmark", "benchmark=store_tiny", f"hydra.run.dir={folder}"])
    return folder


def test_the_table_says_how_pages_were_dropped(measured: Path, capsys) -> None:
    rows, machine = (
        json.loads((measured / f"{name}.json").read_text()) for name in ("benchmark", "machine")
    )
    Console(width=80).print(store_table(rows, machine | {"pages_dropped": 1.0}))
    assert capsys.readouterr().out.count("cold: ") == 1
    Console(width=80).print(store_table(rows, machine))
    printed = " ".join(capsys.readouterr().out.split())
    assert "warm store 5" in printed and "600 cells of 256 bytes" in printed
    assert ("posix_fadvise(DONTNEED) after fsync" in printed) == bool(machine["pages_dropped"])
    Console(width=80).print(store_table(rows, machine | {"pages_dropped": None}))
    assert "cold: not measured" in " ".join(capsys.readouterr().out.split())


def test_the_task_writes_a_row_per_lane_and_setting(measured: Path) -> None:
    rows = json.loads((measured / "benchmark.json").read_text())
    machine = json.loads((measured / "machine.json").read_text())
    tiers = {
        tier: {row["lane"] for row in rows if row["tier"] == tier} for tier in ("warm", "cold")
    }
    assert tiers["warm"] == LANES
    assert tiers["cold"] == (LANES | {"map, MADV_RANDOM"} if machine["pages_dropped"] else set())
    assert {row["lane"] for row in rows if row["tier"] == "write"} == {"store", "plain write"}
    for row in rows:
        assert row["batch"] == (600 if row["tier"] == "write" else 5)
        assert row["cell_bytes"] == 4 * 32 * 2 and row["runs"] >= 3
        assert row["p50_ms"] <= row["p99_ms"]
        assert row["cells_per_second"] == pytest.approx(1000 * row["batch"] / row["p50_ms"])
        assert row["gb_per_second"] == pytest.approx(row["cells_per_second"] * 256 / 1e9)
        peer = next(
            other
            for other in rows
            if other["tier"] == row["tier"] and other["lane"] in ("memory map", "plain write")
        )
        assert row["ratio"] == pytest.approx(row["cells_per_second"] / peer["cells_per_second"])


def test_nothing_is_left_of_what_was_read(measured: Path) -> None:
    assert not (measured / "files").exists()


def test_all_lanes_read_the_same_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = StoreBenchmark(
        images=300, tokens=4, width=32, batches=[], cold_batches=[7], min_runs=1, seconds=0.0
    )
    found: dict[str, torch.Tensor] = {}

    def read_once(sizes, lanes, batch, files):
        for name, lane in lanes.items():
            lane.open()
            found[name] = lane.read(torch.tensor([299, 0, 17, 17]))
            lane.close()
        return []

    monkeypatch.setattr("edje.benchmark.store_benchmark.measure_cold", read_once)
    monkeypatch.setattr("edje.benchmark.store_benchmark.share_left", lambda files: 0.0)
    measure_store(sizes, tmp_path / "files")
    first, *others = found.values()
    assert first.shape == (4, 4, 32) and first.dtype == torch.bfloat16 and first.any()
    assert len(others) == 3 and all(torch.equal(first, other) for other in others)


def test_dropped_pages_are_gone_and_read_ones_are_back(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    drop_pages([path])
    if share_in_memory([path]) > 0:
        pytest.skip("this file system keeps its pages in memory")
    path.read_bytes()
    assert share_in_memory([path]) == 1.0


def test_preparing_a_run_is_not_timed() -> None:
    now, prepared = itertools.count(), []
    timings = timed_together(
        {"a": lambda: None, "b": lambda: None},
        torch.device("cpu"),
        warmup=1,
        min_runs=2,
        seconds=0.0,
        prepare=lambda name: (prepared.append(name), next(now)),
        clock=lambda: float(next(now)),
    )
    assert prepared == ["a", "b", "a", "b", "a", "b"]
    assert {seconds for timing in timings.values() for seconds in timing.seconds} == {1.0}


def test_pages_that_stay_at_first_are_dropped_again_and_those_that_stay_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.3, 0.002, 0.0])
    monkeypatch.setattr(pages, "drop_pages", lambda files: None)
    monkeypatch.setattr(pages, "share_in_memory", lambda files: next(shares))
    assert pages.share_left([tmp_path]) == 0.0
    monkeypatch.setattr(pages, "share_in_memory", lambda files: 0.3)
    with pytest.raises(EdjeError, match=r"30\.00% of the pages .* Stop other programs"):
        lanes = {"memory map": MemoryMapLane(tmp_path / "flat", (2, 1, 1))}
        store.measure_cold(StoreBenchmark(images=2), lanes, 1, [tmp_path / "flat"])
