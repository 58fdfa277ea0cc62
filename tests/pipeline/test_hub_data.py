"""A data set read through `datasets` goes the same way as a folder of image files."""

import csv
from pathlib import Path

import datasets
import pytest
import torch

from edje.cli import run
from edje.tokens.store import TokenStore
from tests.tiny.world import make_world

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def save_world(root: Path, folder: Path) -> None:
    """The images and captions of a world's folder as a data set with a row per caption."""
    with (root / "captions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["photo"] = str(root / "images" / row["image"])
    data = datasets.Dataset.from_list(rows).cast_column("photo", datasets.Image())
    datasets.DatasetDict(all=data).save_to_disk(folder)


def test_the_same_images_give_the_same_tokens_and_caption_features(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    overrides = make_world(tmp_path)
    save_world(tmp_path / "data", tmp_path / "saved")
    columns = "data.image_column=photo data.id_column=image data.split_column=split"
    hub = [line for line in overrides if not line.startswith(("data.", "cache_dir="))]
    hub += ["data=hub", f"data.dataset={tmp_path / 'saved'}", *columns.split()]
    hub += ["data.split=val", "data.dev_images=4", f"cache_dir={tmp_path / 'hub_cache'}"]
    run([*overrides, "task=cache"])
    run([*hub, "task=cache", f"hydra.run.dir={tmp_path / 'hub_run'}"])
    for split, count in (("train", 16), ("val", 8)):
        (first,) = (tmp_path / "cache").glob(f"folder-{split}/raw-*")
        (second,) = (tmp_path / "hub_cache").glob(f"hub-{split}/raw-*")
        stores = [TokenStore.open(folder) for folder in (first, second)]
        assert stores[0].image_ids == stores[1].image_ids
        tokens = [store.read(torch.arange(count)) for store in stores]
        assert torch.equal(*tokens)
