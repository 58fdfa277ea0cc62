"""Where the scorer's time goes: operators by CPU time, 64 tokens, MiniLM-L12's size.

OMP_NUM_THREADS=1 python experiments/speed/profile_scorer.py bf16 64
"""

import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from edje.benchmark.ours import OurLane
from edje.benchmark.settings import Benchmark


def main(precision: str, pairs: int) -> None:
    """Profile two queries of `pairs` candidates after a warm-up; print the table."""
    in_int8 = precision == "int8"
    sizes = Benchmark(precision="bf16" if in_int8 else precision, batch_size=pairs)
    form = torch.int8 if in_int8 else None
    call = OurLane(sizes, 64, pairs, 0, torch.device("cpu"), Path(), form).entry("scorer").call
    call()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(2):
            call()
    table = seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=15)
    print(table)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
