"""The benchmark: every lane in every setting, measured side by side, as rows."""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from edje.benchmark.ceiling import Ceiling, ceiling_of
from edje.benchmark.flops import count_flops
from edje.benchmark.ours import STORED, our_calls
from edje.benchmark.peers import peer_call
from edje.benchmark.settings import Benchmark
from edje.benchmark.timing import timed_together
from edje.inference.scorer import PAIRS_AT_ONCE

log = logging.getLogger(__name__)
SCORER = "scorer"  # the tier that every lane has: scoring alone, its input on the device


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
    share_of_ceiling: float  # of the large matrix product in the same run, in [0, 1]
    bytes_per_query: int  # of visual tokens, read from host memory


def measure(sizes: Benchmark, device: torch.device) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the measurement, and what is stated of the machine."""
    dtype = sizes.dtype(device)
    ceiling = ceiling_of(device, dtype, sizes.seconds / 10)
    rows: list[Row] = []
    for k in sizes.candidates:
        for tokens in sizes.tokens:
            log.info("%d visual tokens, k = %d", tokens, k)
            rows += measure_setting(sizes, tokens, k, device, ceiling)
    machine = {
        "device": name_of(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "product_tflops_per_second": ceiling.flops_per_second / 1e12,
        "copy_gb_per_second": ceiling.copied_bytes_per_second / 1e9,
        "corpus": sizes.corpus,
        "stored_images": sizes.stored_images,
        "warmup": sizes.warmup,
    }
    return [asdict(row) for row in rows], machine


def measure_setting(
    sizes: Benchmark, tokens: int, k: int, device: torch.device, ceiling: Ceiling
) -> list[Row]:
    """All lanes with one number of tokens and candidates, in turns."""
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for lane in sizes.lanes:
        if lane == "ours":
            for layer in sizes.fusion_layers:
                ours = f"ours, fusion at {layer}" if layer else "ours"
                for tier, call in our_calls(sizes, tokens, k, layer, device).items():
                    calls[ours, tier] = call
        elif (peer := peer_call(lane, sizes, tokens, k, device)) is not None:
            calls[lane, SCORER] = peer
    flops = {lane: count_flops(call) / k for (lane, tier), call in calls.items() if tier == SCORER}
    timings = timed_together(
        {"|".join(name): call for name, call in calls.items()},
        device,
        warmup=sizes.warmup,
        min_runs=sizes.min_runs,
        seconds=sizes.seconds,
    )
    rows = []
    for road, tier in calls:
        timing = timings[f"{road}|{tier}"]
        speed = k / timing.median
        at_once = PAIRS_AT_ONCE.get(device.type, k) if road.startswith("ours") else k
        rows.append(
            Row(
                lane=road,
                tier=tier,
                tokens=tokens,
                text_tokens=sizes.text_tokens,
                k=k,
                batch=min(sizes.batch_size or at_once, k),
                dtype=str(sizes.dtype(device)).removeprefix("torch."),
                device=device.type,
                threads=torch.get_num_threads(),
                runs=len(timing.seconds),
                pairs_per_second=speed,
                p50_ms=1000 * timing.median,
                p99_ms=1000 * timing.quantile(0.99),
                flops_per_pair=flops[road],
                share_of_ceiling=speed * flops[road] / ceiling.flops_per_second,
                bytes_per_query=0 if tier == SCORER else k * tokens * sizes.width * STORED.itemsize,
            )
        )
    return rows


def name_of(device: torch.device) -> str:
    """What the device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.backends.cpu.get_cpu_capability()})"
