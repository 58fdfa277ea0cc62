"""How much slower is engine=ray than one process? python experiments/scale/ray_indexing.py <folder>

2,000 pictures of data=shapes are added to new indexes with the shipped reranker `shapes`, in
alternating turns, one thread per process (OMP_NUM_THREADS=1). For Ray, only the part after both
workers have delivered their first unit of 128 is compared; the part before is start-up. CPU time
is that of this process and all its descendants.
"""

import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edje import ImageIndex, Reranker
from edje.data.shapes.scene_images import draw_scene
from edje.data.shapes.scenes import generate_scenes
from edje.index.ray_additions import Commits
from edje.index.ray_engine import Engine, RayEngine, connected
from edje.index.ray_units import Outcome

PICTURES, UNIT, SIDE, WORKERS = 2000, 128, 96, 2
TURNS = int(os.environ.get("TURNS", "5"))
TICKS = os.sysconf("SC_CLK_TCK")
Figures = tuple[float, float]  # seconds of wall-clock and of CPU time


def main(folder: Path) -> None:
    """Draw the pictures, then measure."""
    drawn = folder / "pictures"
    if not drawn.is_dir():
        (folder / "making").mkdir(parents=True)
        scenes = generate_scenes(PICTURES, siblings=4, objects=3, seed=(0,))
        for number, scene in enumerate(scenes):
            draw_scene(scene, SIDE).save(folder / "making" / f"{number:06d}.png")
        (folder / "making").rename(drawn)
    reranker = Reranker.from_pretrained("shapes", device="cpu")
    reranker.encode(sorted(drawn.iterdir())[:64])  # runs one-time work
    local: list[Figures] = []
    startup: list[Figures] = []
    rest: list[Figures] = []
    begun = time.monotonic()
    with connected(RayEngine()) as ray:
        say(f"cluster: {time.monotonic() - begun:.1f} s")
        ray.data.DataContext.get_current().wait_for_min_actors_s = 600
        for turn in range(TURNS):
            local.append(addition(folder / "index", reranker, drawn, "local"))
            with first_units() as seen:
                engine = RayEngine(unit=UNIT, workers=WORKERS)
                whole = addition(folder / "index", reranker, drawn, engine)
            startup.append(seen[WORKERS - 1])
            rest.append((whole[0] - startup[-1][0], whole[1] - startup[-1][1]))
            say(
                f"turn {turn}: local {local[-1][0]:.1f} s, of processors {local[-1][1]:.1f} s; ray "
                f"{whole[0]:.1f} and {whole[1]:.1f} s, of which until both workers had given a "
                f"unit {startup[-1][0]:.1f} and {startup[-1][1]:.1f} s"
            )
    share = 1 - WORKERS * UNIT / PICTURES
    for place, kind in enumerate(("clock", "processors")):
        ours, theirs = (statistics.median(one[place] for one in each) for each in (local, rest))
        say(
            f"{kind}, medians for {share * PICTURES:.0f} pictures: local {share * ours:.2f} s, "
            f"ray {theirs:.2f} s, {theirs / (share * ours) - 1:+.0%}"
        )


def addition(folder: Path, reranker: Reranker, source: Path, engine: Engine) -> Figures:
    """The time of an addition to a new index."""
    shutil.rmtree(folder, ignore_errors=True)
    index = ImageIndex.open(folder, reranker)
    with processors() as spent:
        begun = time.monotonic()
        said = index.add(source, engine=engine, show_progress_bar=False)
        seconds = time.monotonic() - begun
    assert said.new == len(index) == PICTURES, said
    return seconds, spent[0]


@contextmanager
def first_units() -> Iterator[list[Figures]]:
    """The times at which units of an addition in the block arrived, from its start."""
    take, seen = Commits.take, []
    before, begun = descendants(), time.monotonic()

    def taken(self: Commits, outcome: Outcome) -> None:
        now = descendants()
        spent = sum(value - before.get(process, 0.0) for process, value in now.items())
        seen.append((time.monotonic() - begun, spent))
        take(self, outcome)

    Commits.take = taken  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        Commits.take = take  # type: ignore[method-assign]


@contextmanager
def processors() -> Iterator[list[float]]:
    """CPU seconds that this process and its descendants use in the block."""
    before, seen, done, spent = descendants(), {}, threading.Event(), [0.0]

    def look() -> None:
        while not done.wait(0.2):
            seen.update(descendants())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield spent
    finally:
        done.set()
        looking.join()
        seen.update(descendants())
        spent[0] = sum(value - before.get(process, 0.0) for process, value in seen.items())


def descendants() -> dict[int, float]:
    """CPU seconds of this process and its descendants, by process id."""
    parents, seconds = {}, {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has exited
                continue
            parents[int(path.name)] = int(fields[1])
            seconds[int(path.name)] = (int(fields[11]) + int(fields[12])) / TICKS
    ours = {os.getpid()}
    while more := {one for one, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return {one: seconds[one] for one in ours if one in seconds}


def say(line: str) -> None:
    """Print a line immediately."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
