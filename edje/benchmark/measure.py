"""The benchmark: every lane in every setting, measured side by side, as rows."""

import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from edje.benchmark.ceiling import Ceiling, ceiling_of
from edje.benchmark.entry import SCORER, Entry, name_of_dtype
from edje.benchmark.flops import count_flops
from edje.benchmark.ours import OurLane
from edje.benchmark.peers import peer_entry
from edje.benchmark.settings import Benchmark
from edje.benchmark.timing import CLOCKS, timed_together
from edje.errors import EdjeError
from edje.inference.cpu import has_int8_products

log = logging.getLogger(__name__)
BLIP = ("blip", "blip_vision")


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
    p99_ms: float  # the slowest run, where there are fewer than 100
    flops_per_pair: float  # of scoring alone, counted
    share_of_ceiling: float  # of the large matrix product beside it; int8 may exceed 1
    bytes_per_query: int  # of visual tokens, read from host memory or a file


def measure(
    sizes: Benchmark, device: torch.device, folder: Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the measurement, and what is stated of the machine.

    Token stores lie in `folder` while they are read.
    """
    dtype = sizes.dtype(device)
    ceilings: list[Ceiling] = []

    def ceiling() -> Ceiling:
        """Measured anew beside each setting: a shared machine's speed changes in minutes."""
        ceilings.append(ceiling_of(device, dtype, sizes.seconds / 10, CLOCKS[sizes.clock]))
        return ceilings[-1]

    first = ceiling()
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
                rows += timed_rows(sizes, entries, device, ceiling())
    entries = [
        entry
        for lane in sizes.lanes
        if lane in BLIP and (entry := peer_entry(lane, sizes, 0, 0, device)) is not None
    ]
    rows += timed_rows(sizes, entries, device, ceiling())
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
        "product_tflops_per_second": median(one.flops_per_second for one in ceilings) / 1e12,
        "copy_gb_per_second": median(one.copied_bytes_per_second for one in ceilings) / 1e9,
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
    for lane in sizes.lanes:
        if lane == "ours":
            for layer in sizes.fusion_layers:
                entries += OurLane(sizes, tokens, k, layer, device, folder).entries()
            if sizes.int8 and device.type == "cpu" and has_int8_products():
                in_int8 = OurLane(sizes, tokens, k, 0, device, folder, torch.int8)
                entries.append(in_int8.entry(SCORER))
        elif lane not in BLIP and k in sizes.peer_candidates:
            entry = peer_entry(lane, sizes, tokens, k, device)
            entries += [] if entry is None else [entry]
    return entries


def timed_rows(
    sizes: Benchmark, entries: list[Entry], device: torch.device, ceiling: Ceiling
) -> list[Row]:
    """The entries, measured in turns."""
    names = [f"{entry.lane}|{entry.tier}" for entry in entries]
    for entry in entries:
        entry.call()  # a first warm-up, in which our scorer calibrates its batch
    flops = {
        entry.lane: count_flops(entry.call) / entry.k for entry in entries if entry.tier == SCORER
    }
    prepare = {
        name: entry.prepare or (lambda: None) for name, entry in zip(names, entries, strict=True)
    }
    timings = timed_together(
        dict(zip(names, (entry.call for entry in entries), strict=True)),
        device,
        warmup=max(sizes.warmup - 1, 0),
        min_runs=sizes.min_runs,
        seconds=sizes.seconds,
        clock=CLOCKS[sizes.clock],
        prepare=lambda name: prepare[name](),
    )
    rows = []
    for name, entry in zip(names, entries, strict=True):
        timing = timings[name]
        speed = entry.k / timing.median
        rows.append(
            Row(
                lane=entry.lane,
                tier=entry.tier,
                tokens=entry.tokens,
                text_tokens=sizes.text_tokens,
                k=entry.k,
                batch=entry.batch(),
                dtype=entry.dtype,
                device=device.type,
                threads=torch.get_num_threads(),
                runs=len(timing.seconds),
                pairs_per_second=speed,
                p50_ms=1000 * timing.median,
                p99_ms=1000 * timing.quantile(0.99),
                flops_per_pair=flops[entry.lane],
                share_of_ceiling=speed * flops[entry.lane] / ceiling.flops_per_second,
                bytes_per_query=entry.bytes_per_query,
            )
        )
    return rows


def name_of(device: torch.device) -> str:
    """What the device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.backends.cpu.get_cpu_capability()})"
