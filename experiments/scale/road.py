"""The whole pipeline at COCO's size: seconds and peak memory of each part.

    python experiments/scale/road.py <folder> [--share 1.0] [--steps 50] [--only <part> …]

Makes the data in the folder (1.5 GB with everything cached), runs the parts one after another as a
user would, and prints one row per part; results.csv beside this file holds them. Later parts use
what earlier parts cached; a part that is run again starts from what is there.
"""

import argparse
import csv
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from coco_shaped import make_data, make_tower

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODEL = [
    "scoring.candidates=20",
    "backbone=clip_b16",
    "adapter=compression_8",
    "adapter.num_tokens=16",
    "objective=[matching,masked_language,text_recovery]",
    "teacher=null",
    "start=fresh",
    "optim.warmup_steps=20",
    "name=scale",
]
RANDOM = ["loader=default"]  # batches of captions in random order: nothing is mined
PARTS = {
    "cache": ["task=cache"],
    "train, score=sum": ["task=train", *RANDOM, "score=sum"],
    "train, score=residual": ["task=train", *RANDOM, "score=residual"],
    "train, score=residual, again": ["task=train", *RANDOM, "score=residual"],
    "train, two processes": ["task=train", *RANDOM, "trainer.devices=2", "trainer.accelerator=cpu"],
    "evaluate": ["task=evaluate"],
    "compress": ["task=compress", "data.split=train"],
    "compress, the test split": ["task=compress"],
    "evaluate, compressed tokens": ["task=evaluate"],
    "train, mined neighbours": ["task=train", "loader=neighbours"],
    "train, mined neighbours, again": ["task=train", "loader=neighbours"],
}
FIRST = "train, score=sum"  # its run folder is evaluated and compressed


@dataclass(frozen=True)
class Part:
    """The cost of one command. Memory is that of its largest process."""

    part: str
    seconds: int
    peak_gb: float  # resident, including mapped files
    anonymous_gb: float  # of that, not backed by a file; sampled twice a second
    processes: int


def run(name: str, arguments: list[str], log: Path) -> Part:
    """Run a command and watch it and its children.

    Raises:
        SystemExit: it failed; its log says why.
    """
    started = time.perf_counter()
    peaks: dict[int, tuple[int, int]] = {}
    with log.open("w") as out:
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=out, stderr=out)
        while process.poll() is None:
            for pid in _family(process.pid):
                now, before = _memory(pid), peaks.get(pid, (0, 0))
                peaks[pid] = (max(now[0], before[0]), max(now[1], before[1]))
            time.sleep(0.5)
    if process.returncode:
        sys.exit(f"{name}: exit status {process.returncode}; see {log}")
    seconds = time.perf_counter() - started
    resident, anonymous = (max(peak[kind] for peak in peaks.values()) for kind in (0, 1))
    large = sum(peak[0] > resident / 10 for peak in peaks.values())
    sizes = (round(size / 1e9, 2) for size in (resident, anonymous))
    return Part(name, round(seconds), *sizes, large)


def _place(folder: Path, part: str) -> Path:
    return folder / "runs" / re.sub("[^a-z]+", "_", part)


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has exited
        return []
    return [pid, *(other for child in children for other in _family(int(child)))]


def _memory(pid: int) -> tuple[int, int]:
    """Bytes: peak resident so far, and anonymous now."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return (0, 0)
    sizes = {
        line.split(":")[0]: line.split() for line in lines if line.startswith(("VmHWM", "Rss"))
    }
    found = (int(sizes[key][1]) * 1000 if key in sizes else 0 for key in ("VmHWM", "RssAnon"))
    high, anonymous = found
    return high, anonymous


def main(folder: Path, share: float, steps: int, only: list[str] | None) -> None:
    """Make missing data, run the parts, print and write the table."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "coco" / "dataset_coco.json").is_file():
        started = time.perf_counter()
        make_data(folder / "coco", share)
        make_tower(folder / "tower", ROOT / "edje/assets/shapes/backbone")
        print(f"made the data in {time.perf_counter() - started:.0f} s")  # noqa: T201
    data = ["data=coco", f"data.root={folder / 'coco'}", f"cache_dir={folder / 'cache'}"]
    if share != 1.0:
        data += ["data.split_sizes=null", "data.caption_counts=null"]
        data += [f"data.dev_images={round(1000 * share)}"]
    model = [*MODEL, f"backbone.pretrained={folder / 'tower'}", f"trainer.max_steps={steps}"]
    checkpoint = _place(folder, FIRST)
    print("| part | seconds | peak GB | of it anonymous | processes |\n|---|---|---|---|---|")  # noqa: T201
    for number, (name, options) in enumerate(PARTS.items()):
        if only and name not in only:
            continue
        place = _place(folder, name)
        if "task=train" not in options and "task=cache" not in options:
            options = [*options, f"checkpoint={checkpoint}"]
        else:
            options = [*model, *options]
        command = [sys.executable, "run.py", *data, *options, f"hydra.run.dir={place}"]
        row = run(name, command, folder / f"{number:02d}.log")
        values = f"{row.seconds:,.0f} | {row.peak_gb:.2f} | {row.anonymous_gb:.2f}"
        print(f"| {name} | {values} | {row.processes} |", flush=True)  # noqa: T201
        if share == 1.0:
            _keep(row)


def _keep(row: Part) -> None:
    """Write a row to results.csv, replacing an earlier row of that part."""
    path = HERE / "results.csv"
    kept = list(csv.DictReader(path.open())) if path.is_file() else []
    by_part = {one["part"]: one for one in kept} | {row.part: asdict(row)}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Part)])
        writer.writeheader()
        writer.writerows(by_part[part] for part in PARTS if part in by_part)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=50, help="of each training")
    parser.add_argument("--only", nargs="+", choices=list(PARTS))
    main(**vars(parser.parse_args()))
