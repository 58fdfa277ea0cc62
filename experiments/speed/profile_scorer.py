"""Where the scorer's time goes, with 64 tokens and MiniLM-L12's size: by operator and by part.

    OMP_NUM_THREADS=1 python experiments/speed/profile_scorer.py [fp32 | bf16 | int8] [pairs]

Prints the machine, the operators of two queries by their CPU time, and the parts of a layer, each
alone and in turns with products of its shapes: milliseconds of the fastest run, arithmetic per
second, and share of the fastest product. By default 48 pairs at once.
With one thread the parts are timed by the process's CPU time, with more by wall-clock time.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from edje.benchmark.ceiling import Ceilings, Shape
from edje.benchmark.measure import name_of
from edje.benchmark.ours import OurLane
from edje.benchmark.settings import Benchmark
from edje.benchmark.timing import CLOCKS, timed_together
from edje.inference.cls_encoder import BertClsEncoder
from edje.inference.cpu import attend, attend_by_products

CPU = torch.device("cpu")
TOKENS, SECONDS = 64, 20.0
FEATURES = ("avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8")


def main(precision: str, pairs: int) -> None:
    """Print the whole profile."""
    in_int8 = precision == "int8"
    sizes = Benchmark(precision="bf16" if in_int8 else precision, batch_size=pairs)
    lane = OurLane(sizes, TOKENS, pairs, 0, CPU, Path(), torch.int8 if in_int8 else None)
    console = Console(width=120)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    has = ", ".join(name for name in FEATURES if capabilities.get(name)) or "none or not told"
    console.print(f"{capabilities.get('cpu_name', '')} {name_of(CPU)}: {has}")
    console.print(f"torch {torch.__version__}, threads: {torch.get_num_threads()}, {precision}")
    call = lane.entry("scorer").call
    call()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(2):
            call()
    table = seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=15)
    console.print(table, soft_wrap=True, highlight=False)
    if not in_int8:
        encoder = BertClsEncoder(lane.model.joint, lane.precision)
        console.print(parts_of_a_layer(encoder, sizes, pairs))


def parts_of_a_layer(encoder: BertClsEncoder, sizes: Benchmark, pairs: int) -> Table:
    """A table of the first layer's parts, each with its own input."""
    layer, dtype = encoder.layers[0], encoder.precision
    positions = sizes.text_tokens + TOKENS + 1
    rows = pairs * positions
    states = torch.randn(pairs, positions, sizes.width).to(dtype)
    hidden = torch.randn(pairs, positions, sizes.hidden_width).to(dtype)
    inputs = (*layer.query_key_value(states).chunk(3, dim=-1), layer.heads)
    shapes = [Shape(rows, *one) for one in sizes.layer_products()]
    linear = [shape.flops for shape in shapes]
    attention = 4 * pairs * positions**2 * sizes.width
    parts: dict[str, tuple[int, Callable[[], object]]] = {
        "query, key, value": (linear[0], lambda: layer.query_key_value(states)),
        "attention by two products": (attention, lambda: attend_by_products(*inputs)),
        "attention by torch's kernel": (attention, lambda: attend(*inputs)),
        "its output": (linear[1], lambda: layer.mix(states)),
        "feed-forward in, with GELU": (linear[2], lambda: layer.expand(states)),
        "GELU alone": (0, lambda: F.gelu(hidden)),
        "feed-forward out": (linear[3], lambda: layer.contract(hidden)),
        "an addition": (0, lambda: states + states),
        "a normalisation": (0, lambda: layer._normalised(states, 0)),
        "the whole layer": (sum(linear) + attention, lambda: layer(states)),
    }
    clock = CLOCKS["cpu" if torch.get_num_threads() == 1 else "wall"]
    ceilings = Ceilings(CPU, [dtype], shapes, clock)
    calls: dict[str, Callable[[], object]] = {"ceilings": ceilings}
    calls |= {name: part for name, (_, part) in parts.items()}
    with torch.inference_mode():
        timings = timed_together(calls, CPU, warmup=2, min_runs=5, seconds=SECONDS, clock=clock)
    reached = (work / timings[name].fastest for name, (work, _) in parts.items())
    ceiling = ceilings[dtype].at_least(max(reached)).flops_per_second
    title = f"{pairs} pairs, {rows:,} rows; the fastest product {ceiling / 1e9:.0f} GFLOP/s"
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=title)
    for column in ("part of a layer", "ms", "GFLOP/s", "share of the product"):
        table.add_column(column, justify="left" if column.startswith("part") else "right")
    for name, (flops, _) in parts.items():
        seconds = timings[name].fastest
        rate = flops / seconds
        shown = (f"{rate / 1e9:.0f}", f"{100 * rate / ceiling:.0f}%") if flops else ("", "")
        table.add_row(name, f"{1000 * seconds:.2f}", *shown)
    return table


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    precision, pairs = [*sys.argv[1:], *("bf16", "48")[len(sys.argv) - 1 :]]
    main(precision, int(pairs))
