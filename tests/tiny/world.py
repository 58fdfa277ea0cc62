"""A tiny world on disk: a folder of images with captions, and a SigLIP of random weights."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from tests.tiny.towers import make_siglip
from tests.tiny.words import WORDS

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}


def make_images(root: Path, count: int = 24) -> Path:
    """Flat patches on grey, two captions each; a third of them is the val split."""
    (root / "images").mkdir(parents=True)
    draws = np.random.default_rng(0)
    with (root / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "split"])
        for number in range(count):
            colour = list(COLOURS)[number % 3]
            pixels = draws.integers(90, 110, (32, 32, 3), dtype=np.uint8)
            pixels[4 + number % 5 : 20, 6:24] = COLOURS[colour]
            Image.fromarray(pixels).save(root / "images" / f"{number:03d}.png")
            split = "val" if number % 3 == 2 else "train"
            table.writerow([f"{number:03d}.png", f"{colour} {WORDS[number % 10]}", split])
            table.writerow([f"{number:03d}.png", f"large {colour} {WORDS[number % 7]}", split])
    return root


def make_world(root: Path) -> list[str]:
    """Overrides of a run in this world that takes a few seconds."""
    images, siglip = make_images(root / "data"), make_siglip(root / "siglip")
    return [
        "experiment=folder",
        "backbone=shapes",
        "joint=tiny",
        "name=tiny",
        f"data.root={images}",
        "data.images=images",
        "data.dev_images=4",
        f"backbone.pretrained={siglip}",
        f"cache_dir={root / 'cache'}",
        f"joint.tokenizer={siglip}",
        "joint.width=32",
        "joint.num_layers=2",
        "joint.fusion_layer=1",
        "joint.num_heads=2",
        "joint.hidden_width=64",
        "adapter.num_tokens=4",
        "adapter.hidden_width=32",
        "objective=[matching,masked_language,text_recovery]",
        "loader.batch_size=8",
        "negatives.count=1",
        "negatives.pool=2",
        "trainer.max_steps=4",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        "trainer.log_every_n_steps=1",
        "scoring.candidates=5",
        "scoring.examples=0",
        "teacher=null",
        "start=fresh",
        f"hydra.run.dir={root / 'run'}",
        f"hydra.sweep.dir={root / 'sweep'}",
    ]


def with_changes(overrides: list[str], *changes: str) -> list[str]:
    """The overrides with some replaced or added, by key."""
    keys = {change.split("=")[0] for change in changes}
    return [line for line in overrides if line.split("=")[0] not in keys] + list(changes)
