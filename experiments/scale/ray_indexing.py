"""What does engine=ray lose against one process? python experiments/scale/ray_indexing.py <folder>

2,000 pictures of data=shapes into new indexes by the shipped reranker `shapes`, in alternating
turns; of Ray, additions of 2 pictures are its start-up (processes, libraries, the reranker). The
cluster itself is started once, before. Processors' time is that of this process and of all that
come from it.
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
from edje.index.ray_engine import Engine, RayEngine, connected

PICTURES, FEW, SIDE, TURNS = 2000, 2, 96, int(os.environ.get("TURNS", "3"))
TICKS = os.sysconf("SC_CLK_TCK")


def main(folder: Path) -> None:
    """Draw the pictures, then measure."""
    drawn = folder / "pictures"
    if not drawn.is_dir():
        (folder / "making").mkdir(parents=True)
        scenes = generate_scenes(PICTURES, siblings=4, objects=3, seed=(0,))
        for number, scene in enumerate(scenes):
            draw_scene(scene, SIDE).save(folder / "making" / f"{number:06d}.png")
        (folder / "making").rename(drawn)
    pictures = sorted(drawn.iterdir())
    reranker = Reranker.from_pretrained("shapes", device="cpu")
    reranker.encode(pictures[:64])  # whatever is done once
    few = {str(number): path for number, path in enumerate(pictures[:FEW])}
    found: dict[str, list[tuple[float, float]]] = {"local": [], "start-up": [], "ray": []}
    started = time.monotonic()
    with connected(RayEngine()):
        say(f"cluster: {time.monotonic() - started:.1f} s")
        for turn in range(TURNS):
            for name, source, engine in (
                ("local", drawn, "local"),
                ("start-up", few, RayEngine(unit=1)),
                ("ray", drawn, RayEngine()),
            ):
                figures = addition(folder / "index", reranker, source, engine)
                found[name].append(figures)
                say(f"turn {turn}, {name}: {figures[0]:.1f} s, of processors {figures[1]:.1f} s")
    for kind, place in (("clock", 0), ("processors", 1)):
        local, startup, ray = (
            statistics.median(one[place] for one in found[name])
            for name in ("local", "start-up", "ray")
        )
        say(
            f"{kind}, medians: local {local:.1f} s, ray {ray:.1f} s of which start-up "
            f"{startup:.1f} s; without it ray takes {(ray - startup) / local - 1:+.0%}"
        )


def addition(
    folder: Path, reranker: Reranker, source: object, engine: Engine
) -> tuple[float, float]:
    """Seconds on the clock and of the processors that an addition to a new index takes."""
    shutil.rmtree(folder, ignore_errors=True)
    index = ImageIndex.open(folder, reranker)
    with processors() as spent:
        begun = time.monotonic()
        said = index.add(source, engine=engine, show_progress_bar=False)
        seconds = time.monotonic() - begun
    assert said.new == len(index) in (PICTURES, FEW), said
    return seconds, spent[0]


@contextmanager
def processors() -> Iterator[list[float]]:
    """Seconds of the processors that this process and its descendants use in the block."""
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
    """Seconds of the processors by process, of this one and all that come from it."""
    parents, seconds = {}, {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            parents[int(path.name)] = int(fields[1])
            seconds[int(path.name)] = (int(fields[11]) + int(fields[12])) / TICKS
    ours = {os.getpid()}
    while more := {one for one, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return {one: seconds[one] for one in ours if one in seconds}


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
