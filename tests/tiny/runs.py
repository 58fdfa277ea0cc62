"""Run folders made on the spot: drawn images, made-up embeddings, a joint encoder that helps."""

import json
from pathlib import Path

import pandas as pd
import torch
import yaml
from PIL import Image, ImageDraw

from edje.records import Direction
from edje.retrieval import (
    candidate_columns,
    candidate_lists,
    query_columns,
    rerank,
    retrieval_metrics,
)

COLOURS = ("crimson", "royalblue", "seagreen", "goldenrod", "slategray", "indigo")
CAPTIONS_PER_IMAGE = 3
DIRECTIONS: tuple[Direction, Direction] = ("t2i", "i2t")


def write_run(folder: Path, *, images: int = 12, pool: int = 6, seed: int = 0) -> dict:
    """A finished run as the evaluate task leaves it; its metrics."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    image_ids = [f"scene_{row:03d}" for row in range(images)]
    image_of_caption = torch.arange(images).repeat_interleave(CAPTIONS_PER_IMAGE)
    caption_ids = [
        f"{image_ids[image]}#{n % CAPTIONS_PER_IMAGE}"
        for n, image in enumerate(image_of_caption.tolist())
    ]
    texts = [f"a drawing of scene {caption_id}, worth $5 & more" for caption_id in caption_ids]
    gallery = torch.randn(images, 8, generator=generator)
    captions = gallery[image_of_caption] + 1.2 * torch.randn(
        len(caption_ids), 8, generator=generator
    )

    def scorer(direction, queries, candidates, first_stage):
        caption, image = (queries, candidates) if direction == "t2i" else (candidates, queries)
        match = (image_of_caption[caption] == image).float()
        return match + 0.5 * torch.randn(len(caption), generator=generator)

    lists = {
        direction: rerank(
            candidate_lists(gallery, captions, image_of_caption, direction, pool), scorer, 16
        )
        for direction in DIRECTIONS
    }
    names = {"t2i": (caption_ids, image_ids), "i2t": (image_ids, caption_ids)}
    groups = {"t2i": image_of_caption, "i2t": torch.arange(images)}
    metrics = {
        **retrieval_metrics(lists, groups),
        **{"dataset": "shapes", "split": "test", "seed": seed, "score": "joint"},
        **{"label": "shapes", "num_images": images, "num_captions": len(caption_ids)},
        **{"storage_bytes_per_image": 49152, "scored_pairs_per_second": 3812.4},
        **{"device": "cpu", "dtype": "float32"},
    }
    pairs = [pd.DataFrame(candidate_columns(lists[d], *names[d])) for d in DIRECTIONS]
    pd.concat(pairs, ignore_index=True).to_parquet(folder / "candidates.parquet")
    owners = {"t2i": [image_ids[row] for row in image_of_caption.tolist()], "i2t": image_ids}
    queries = [
        pd.DataFrame(query_columns(lists[d], names[d][0], owners[d], texts if d == "t2i" else None))
        for d in DIRECTIONS
    ]
    pd.concat(queries, ignore_index=True).to_parquet(folder / "queries.parquet")
    paths = [draw_scene(folder.parent / f"{folder.name}_images", row) for row in range(images)]
    pd.DataFrame({"image_id": image_ids, "path": paths}).to_parquet(folder / "images.parquet")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.yaml").write_text(
        yaml.safe_dump(
            {"name": "shapes", "seed": seed, "adapter": {"num_tokens": 8}, "ks": [1, 5, 10]}
        )
    )
    write_log(folder / "logs" / "metrics.csv", generator)
    return metrics


def draw_scene(folder: Path, row: int) -> str:
    folder.mkdir(exist_ok=True)
    image = Image.new("RGB", (64, 48), "whitesmoke")
    pen = ImageDraw.Draw(image)
    pen.ellipse((6 + row, 8, 30 + row, 32), fill=COLOURS[row % 6])
    pen.rectangle((30, 20, 50, 40), fill=COLOURS[row // 2 % 6])
    path = folder / f"{row:03d}.png"
    image.save(path)
    return str(path)


def write_log(path: Path, generator: torch.Generator) -> None:
    """What Lightning's CSV logger writes: training rows, then a validation row per epoch."""
    path.parent.mkdir(parents=True)
    steps = torch.arange(5, 400, 5)
    noise = torch.rand(3, len(steps), generator=generator)
    log = pd.DataFrame({"epoch": steps.numpy() // 100, "step": steps.numpy()})
    log["train/matching"] = (1.4 * torch.exp(-steps / 150) + 0.2 * noise[0]).numpy()
    log["train/masked_language"] = (3 * torch.exp(-steps / 80) + 0.5 * noise[1]).numpy()
    log["train/text_recovery"] = (torch.exp(-steps / 200) + 0.1 * noise[2]).numpy()
    log["train/loss"] = log.filter(like="train/").sum(axis=1)
    dev = pd.DataFrame({"epoch": [0, 1], "step": [99, 199], "dev/recall@1": [30.0, 50.0]})
    pd.concat([log, dev]).to_csv(path, index=False)
