"""Figures of a GPU: scoring, whole queries, training, encoding; each with its ceiling.

python experiments/speed/gpu.py <folder> [--tiny] [--parts scoring training encoding]

Prints tables, with the busiest kernels, and writes <folder>/gpu.json, in under 4 minutes on a GPU.
`--tiny` runs the same code in sizes for a CPU, in seconds: these figures mean nothing.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import lightning
import torch
import transformers
from gpu_encoding import encoding_figures
from gpu_figures import Figure, as_rows, as_table
from gpu_profile import Measured, Profile, as_profile_table
from gpu_scoring import scoring_figures
from gpu_training import training_figures
from rich.console import Console

from edje.benchmark.measure import name_of
from edje.quiet import quiet_libraries

log = logging.getLogger(__name__)
Part = Callable[[torch.device, bool], Measured]
PARTS: Mapping[str, Part] = {
    "scoring": scoring_figures,
    "training": training_figures,
    "encoding": encoding_figures,
}


def main(folder: Path, tiny: bool, names: list[str]) -> int:
    """Measure the parts; a part that fails is logged in full, and the others still run."""
    if not tiny and not torch.cuda.is_available():
        log.error("gpu.py: torch sees no GPU here. Add --tiny to try it on the CPU.")
        return 2
    quiet_libraries()
    device = torch.device("cpu" if tiny else "cuda")
    if tiny:
        torch.set_num_threads(1)  # more would only wait for each other
    versions = {
        "device": name_of(device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "lightning": lightning.__version__,
        "tiny": tiny,
    }
    title = ", ".join(f"{key} {value}" for key, value in versions.items())
    figures: list[Figure] = []
    profiles: list[Profile] = []
    failed: list[str] = []
    spent: dict[str, float] = {}
    console = Console(width=150)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        torch.manual_seed(0)
        started = time.perf_counter()
        try:
            found = PARTS[name](device, tiny)
            figures += found.figures
            profiles += found.profiles
            console.print(as_table(found.figures, f"{name}: {title}"))
            for one in found.profiles:
                console.print(as_profile_table(one))
        except Exception:
            log.exception("%s failed", name)
            failed.append(name)
        spent[name] = time.perf_counter() - started
        if device.type == "cuda":
            torch.cuda.empty_cache()
        content = versions | {"seconds": spent, "failed": failed, "figures": as_rows(figures)}
        content["profiles"] = [asdict(one) for one in profiles]
        (folder / "gpu.json").write_text(json.dumps(content, indent=1) + "\n")
    console.print({name: f"{seconds:.0f} s" for name, seconds in spent.items()})
    if failed:
        log.error("failed: %s", ", ".join(failed))
    return int(bool(failed))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS])
    given = parser.parse_args()
    sys.exit(main(given.folder, given.tiny, given.parts))
