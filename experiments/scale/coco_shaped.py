"""Synthetic data with COCO's shape, and a tiny dual encoder with full-width embeddings for it.

The counts are Karpathy's: 113,287 training images (30,504 of them `restval`), 5,000 each in val and
test, 5 captions per image and 6 for a few. An image is a grid of 4 x 4 coloured cells, a caption
names three of them. So nearly all images differ, and there is something to learn.
"""

import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from edje.backbones.pretrained import load_tokenizer

COUNTS = {  # images and captions
    ("train", "train2014"): (82_783, 414_113),
    ("restval", "val2014"): (30_504, 152_634),
    ("val", "val2014"): (5_000, 25_010),
    ("test", "val2014"): (5_000, 25_010),
}
GRID, SIDE, PATCH = 4, 64, 8  # cells per side; pixels of an image and of a vision token
WIDTH, EMBEDDING = 64, 1024  # of a token; of both embeddings, as in SigLIP L
COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 160, 60),
    "blue": (40, 70, 200),
    "yellow": (235, 210, 50),
    "orange": (240, 140, 30),
    "purple": (130, 50, 160),
    "pink": (240, 150, 190),
    "cyan": (60, 200, 210),
    "grey": (130, 130, 130),
    "white": (245, 245, 245),
}


def make_data(root: Path, share: float = 1.0) -> None:
    """Write the images and Karpathy's JSON, with a share of each count."""
    with ProcessPoolExecutor() as pool:
        entries: list[dict] = []
        for (split, folder), (images, captions) in COUNTS.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            more = round((captions - 5 * images) * share)  # images with a sixth caption
            draw = partial(_image, root, split, folder, more)
            entries += pool.map(draw, range(round(images * share)), chunksize=500)
    (root / "dataset_coco.json").write_text(json.dumps({"images": entries}))


def _image(root: Path, split: str, folder: str, more: int, number: int) -> dict:
    draws = np.random.default_rng((*split.encode(), number))
    names = list(COLOURS)
    cells = draws.integers(len(names), size=(GRID, GRID))
    pixels = np.array(list(COLOURS.values()), np.uint8)[cells]
    name = f"{split}_{number:06d}.png"
    image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    image.save(root / folder / name)
    sentences = []
    for _ in range(5 + (number < more)):
        chosen = draws.choice(cells.flatten(), 3, replace=False)
        words = " and ".join(f"a {names[colour]} square" for colour in chosen)
        sentences.append({"raw": words})
    return {"filename": name, "filepath": folder, "split": split, "sentences": sentences}


def make_tower(folder: Path, tokenizer: Path) -> None:
    """Write a small, narrow CLIP with random weights."""
    transformers.logging.set_verbosity_error()  # it warns about defaults of CLIP's own vocabulary
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    words = load_tokenizer(str(tokenizer))
    shared = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": 2,
        "projection_dim": EMBEDDING,
    }
    config = CLIPConfig(
        text_config={
            **shared,
            "num_hidden_layers": 1,
            "vocab_size": len(words),
            "max_position_embeddings": 27,
            "bos_token_id": words.cls_token_id,
            "eos_token_id": words.sep_token_id,
        },
        vision_config={**shared, "num_hidden_layers": 2, "image_size": SIDE, "patch_size": PATCH},
        projection_dim=EMBEDDING,
    )
    CLIPModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    square = {"height": SIDE, "width": SIDE}
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square).save_pretrained(folder)
