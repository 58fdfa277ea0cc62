"""The benchmark: every lane in every setting, measured side by side, as rows."""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from edje.benchmark.ceiling import SHORTEST, Ceilings, Shape, ceiling_of
from edje.benchmark.entry import SCORER, Entry, name_of_dtype
from edje.benchmark.flops import count_flops
from edje.benchmark.ours import OurLane
from edje.benchmark.peers import peer_entry
from edje.benchmark.settings import Benchmark
from edje.benchmark.timing import CLOCKS, timed_together
from edje.errors import EdjeError
from edje.inference.batch_size import UNTRIED
from edje.inference.cpu import has_int8_products

log = logging.getLogger(__name__)
BLIP = ("blip", "blip_vision")
CEILINGS = "ceilings"  # their name among the calls


@dataclass(frozen=True)
class Row:
    """One lane and tier in one setting: one query with k candidates, scored `runs` times."""

    lane: str
    tier: str
    tokens: int
    text_tokens: int
    k: int
    batch: int  # pairs per run of the encoder
    dtype: str
    device: str
    threads: int
    runs: int
    pairs_per_second: float  # of the median run
    p50_ms: float
    p99_ms: float  # the slowest run if there are fewer than 100
    flops_per_pair: float  # of scoring alone, counted
    ceiling_tflops_per_second: float  # of products in this format, the fastest in these turns
    share_of_ceiling: float  # at most 1, as the row's own runs count for the ceiling
    bytes_per_query: int  # of visual tokens, read from host memory or a file


def measure(
    sizes: Benchmark, device: torch.device, folder: Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the measurement, and facts of the machine.

    Token stores are in `folder` while they are read.
    """
    dtype = sizes.dtype(device)
    first = ceiling_of(device, dtype, sizes.seconds / 10, CLOCKS[sizes.clock])
    rows: list[Row] = []
    for k in sizes.candidates:
        for tokens in sizes.tokens:
            least = sizes.layer_flops(tokens, k) / first.flops_per_second
            if sizes.longest is not None and least > sizes.longest:
                log.info(
                    "%d visual tokens, k = %d: left out, a query's layers would take %.1f s or "
                    "more. benchmark.longest=null leaves none out.",
                    tokens,
                    k,
                    least,
                )
                continue
            log.info("%d visual tokens, k = %d", tokens, k)
            with tempfile.TemporaryDirectory(dir=folder) as stores:
                entries = setting(sizes, tokens, k, device, Path(stores))
                rows += timed_rows(sizes, entries, device)
    entries = [
        entry
        for lane in sizes.lanes
        if lane in BLIP and (entry := peer_entry(lane, sizes, 0, 0, device)) is not None
    ]
    rows += timed_rows(sizes, entries, device) if entries else []
    if not rows:
        raise EdjeError(
            f"benchmark.longest={sizes.longest}: every setting would take longer. Give fewer "
            "candidates or tokens, or longest=null."
        )
    machine = {
        "device": name_of(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": name_of_dtype(dtype),
        "clock": sizes.clock,
        "ceilings_tflops_per_second": {
            dtype: median(row.ceiling_tflops_per_second for row in rows if row.dtype == dtype)
            for dtype in dict.fromkeys(row.dtype for row in rows)
        },
        "copy_gb_per_second": first.copied_bytes_per_second / 1e9,
        "corpus": sizes.corpus,
        "stored_images": sizes.stored_images,
        "warmup": sizes.warmup,
    }
    return [asdict(row) for row in rows], machine


def setting(
    sizes: Benchmark, tokens: int, k: int, device: torch.device, folder: Path
) -> list[Entry]:
    """All lanes with one number of tokens and candidates."""
    entries: list[Entry] = []
    of_peers = sizes.candidates if sizes.peer_candidates is None else sizes.peer_candidates
    for lane in sizes.lanes:
        if lane == "ours":
            for layer in sizes.fusion_layers:
                entries += OurLane(sizes, tokens, k, layer, device, folder).entries()
            if sizes.int8 and device.type == "cpu" and has_int8_products():
                in_int8 = OurLane(sizes, tokens, k, 0, device, folder, torch.int8)
                entries.append(in_int8.entry(SCORER))
        elif lane not in BLIP and k in of_peers:
            entry = peer_entry(lane, sizes, tokens, k, device)
            entries += [] if entry is None else [entry]
    return entries


def timed_rows(sizes: Benchmark, entries: list[Entry], device: torch.device) -> list[Row]:
    """The entries of one setting and the ceilings of their number formats, measured in turns."""
    names = [f"{entry.lane}|{entry.tier}" for entry in entries]
    for entry in entries:
        entry.call()  # a first warm-up, in which each lane finds its batch size
    flops = {
        entry.lane: count_flops(entry.call) / entry.k for entry in entries if entry.tier == SCORER
    }
    prepare = {
        name: entry.prepare or (lambda: None) for name, entry in zip(names, entries, strict=True)
    }
    clock = CLOCKS[sizes.clock]
    positions = max(entry.k * (sizes.text_tokens + entry.tokens + 1) for entry in entries)
    shapes = [Shape(min(positions, UNTRIED), *one) for one in sizes.layer_products()]
    ceilings = Ceilings(device, [entry.dtype for entry in entries], shapes, clock)
    calls: dict[str, Callable[[], object]] = {CEILINGS: ceilings}
    timings = timed_together(
        calls | dict(zip(names, (entry.call for entry in entries), strict=True)),
        device,
        warmup=max(sizes.warmup - 1, 0),
        min_runs=sizes.min_runs,
        seconds=sizes.seconds,
        clock=clock,
        prepare=lambda name: prepare.get(name, lambda: None)(),
    )

    def rate(entry: Entry, seconds: float) -> float:
        return entry.k * flops[entry.lane] / max(seconds, SHORTEST)

    highest = {entry.dtype: ceilings[entry.dtype].flops_per_second for entry in entries}
    for name, entry in zip(names, entries, strict=True):
        highest[entry.dtype] = max(highest[entry.dtype], rate(entry, timings[name].fastest))
    return [
        Row(
            lane=entry.lane,
            tier=entry.tier,
            tokens=entry.tokens,
            text_tokens=sizes.text_tokens,
            k=entry.k,
            batch=entry.batch(),
            dtype=name_of_dtype(entry.dtype),
            device=device.type,
            threads=torch.get_num_threads(),
            runs=len(timing.seconds),
            pairs_per_second=entry.k / max(timing.median, SHORTEST),
            p50_ms=1000 * timing.median,
            p99_ms=1000 * timing.quantile(0.99),
            flops_per_pair=flops[entry.lane],
            ceiling_tflops_per_second=highest[entry.dtype] / 1e12,
            share_of_ceiling=rate(entry, timing.median) / highest[entry.dtype],
            bytes_per_query=entry.bytes_per_query,
        )
        for entry, timing in zip(entries, (timings[name] for name in names), strict=True)
    ]


def name_of(device: torch.device) -> str:
    """The device's own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.backends.cpu.get_cpu_capability()})"
