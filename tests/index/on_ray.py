"""A program that adds to an index on a cluster of Ray of its own and commits what it gets at once.

python on_ray.py <run folder> <index folder> <pictures>
"""

import sys
from pathlib import Path

import torch

from edje import ImageIndex, Reranker
from edje.index import ray_additions
from edje.index.ray_engine import RayEngine


def main(run_folder: str, folder: str, pictures: str) -> None:
    """Add, and say what was done."""
    torch.set_num_threads(1)
    ray_additions.SECONDS = 0.0  # between commits
    index = ImageIndex.open(folder, Reranker.from_pretrained(run_folder, device="cpu"))
    source = {path.name: path for path in Path(pictures).rglob("*.png")}
    added = index.add(source, batch_size=2, engine=RayEngine(unit=4), show_progress_bar=False)
    sys.stdout.write(f"{added}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
