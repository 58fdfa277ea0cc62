"""Pretraining on a mixture, through the command line's own entry: no store but the evaluated."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from edje.cli import run
from edje.data.datamodules.cached_datamodule import CachedLoading
from edje.data.datamodules.stored_pairs import PairDataset
from edje.data.mixture.streamed_pairs import DecodedPairs, StreamSampler
from edje.errors import EdjeError
from edje.inference.checkpoint import load_checkpoint
from edje.pipeline.feed import cached_feed, streamed_feed
from edje.pipeline.preparation import Prepared
from edje.quiet import quiet_libraries
from edje.records import PairBatch
from edje.tasks.wiring import cache_of, training_of
from tests.tiny.image_files import write_tar
from tests.tiny.world import make_world

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def pretraining(root: Path) -> list[str]:
    """Overrides of a run on two sources that hold the world's images, evaluated on its val."""
    overrides = make_world(root)
    data = root / "data"
    with (data / "captions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number in range(2):
        members: dict[str, bytes | str] = {}
        for row in rows[number::2]:
            if row["split"] == "train":
                image = (data / "images" / row["image"]).read_bytes()
                members |= {row["image"]: image, row["image"].replace("png", "txt"): row["caption"]}
        write_tar(root / "tars" / f"{number}.tar", members)
    kept = [line for line in overrides if not line.startswith(("data.", "loader."))]
    left_out = [f"data.sources.{name}=null" for name in ("visual_genome", "sbu", "cc12m")]
    return [
        *kept,
        "data=pretrain",
        "loader=stream",
        "data@data.evaluated=folder",
        f"data.evaluated.root={data}",
        "data.evaluated.images=images",
        "data.evaluated.dev_images=4",
        f"data.sources.coco.root={data}",
        "data.sources.coco.annotations=captions.csv",
        f"data.sources.cc3m.root={root / 'tars'}",
        *left_out,
        "loader.batch_size=8",
        "loader.num_workers=0",
        "scoring.dev_every=2",
        "score=residual",  # whose statistics are those of the held-out images
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished run of pretraining."""
    root = tmp_path_factory.mktemp("pretraining")
    overrides = pretraining(root)
    run(overrides)
    return root, overrides


def test_pretraining_needs_no_store_of_what_it_trains_on(world: tuple[Path, list[str]]) -> None:
    root, _ = world
    metrics = json.loads((root / "run" / "metrics.json").read_text())
    assert (metrics["dataset"], metrics["split"], metrics["num_images"]) == ("folder", "val", 8)
    assert metrics["label"] == "coco + cc3m train"
    logged = pd.read_csv(root / "run" / "logs" / "part_0" / "metrics.csv")
    assert logged["train/matching"].notna().sum() == 4
    assert logged["dev/t2i_recall@1"].notna().any()
    stores = {path.parent.parent.name for path in (root / "cache").rglob("store.json")}
    assert stores == {"folder-val", "folder-dev"}
    model = load_checkpoint(root / "run").model
    assert (model.first_stage_deviation != 1).all()


def test_images_that_are_judged_on_are_not_trained_on(world: tuple[Path, list[str]]) -> None:
    root, _ = world
    cfg = OmegaConf.load(root / "run" / "config.yaml")
    source = instantiate(cfg.data)
    mixture = source.mixture()
    trained = set()
    for block in mixture.blocks:
        for row in block.visited.tolist():
            folder, pair = mixture.pair(row)
            if pair.member is None:
                trained.add(Path(folder / pair.file).name)
    judged = {image.image_id for name in ("val", "dev") for image in source.read(name).images}
    everything = {path.name for path in (root / "data" / "images").iterdir()}
    assert len(judged) == 8 + 4
    assert trained == everything - judged


def test_a_streamed_batch_is_the_cached_batch_of_the_same_pairs(
    world: tuple[Path, list[str]],
) -> None:
    """Same record, same shapes, same words; tokens and embeddings up to the store's rounding."""
    root, _ = world
    quiet_libraries()
    cfg = OmegaConf.load(root / "run" / "config.yaml")
    cfg.loader.tower_precision = "fp32"
    cfg.data.evaluated.dev_images = 0
    backbone = instantiate(cfg.backbone)
    prepared = Prepared(load_checkpoint(root / "run"))
    source = instantiate(cfg.data)
    feed = streamed_feed(
        cache_of(cfg),
        source,
        backbone,
        training_of(cfg, source, root / "run"),
        prepared,
        instantiate(cfg.loader, _partial_=True),
    )
    stream = feed.datamodule
    place = next(iter(StreamSampler(stream.order, 8, 1, 0, 0, 1)))
    decoded = stream.pairs[place]
    assert isinstance(decoded, DecodedPairs)
    streamed = stream.on_after_batch_transfer(decoded, 0)

    folder = source.evaluated
    chosen = replace(training_of(cfg, source, root / "run"), loading=CachedLoading(batch_size=8))
    cached = cached_feed(cache_of(cfg), folder, backbone, chosen, prepared).datamodule
    split = folder.read("train")
    names = [image.image_id for image in split.images]
    owners = split.image_of_caption()
    at = []
    for row in decoded.sample_ids.tolist():
        _, pair = stream.pairs.mixture.pair(row)
        name = Path(pair.member or pair.file).name
        at.append(
            next(
                number
                for number, item in enumerate(split.captions)
                if names[owners[number]] == name and item.text == pair.captions[0]
            )
        )
    expected = cached.training.unpacked(PairDataset(cached.training).__getitems__(at))
    assert isinstance(streamed, PairBatch) and isinstance(expected, PairBatch)
    assert torch.equal(streamed.text.input_ids, expected.text.input_ids)
    assert torch.equal(streamed.text.attention_mask, expected.text.attention_mask)
    torch.testing.assert_close(streamed.tokens, expected.tokens, rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(streamed.image_embeddings, expected.image_embeddings)
    torch.testing.assert_close(streamed.text_embeddings, expected.text_embeddings)
    one, other = streamed.caption_keys, expected.caption_keys
    assert torch.equal(one[:, None] == one, other[:, None] == other)


def test_a_pretrained_run_is_evaluated_elsewhere_without_its_mixture(
    world: tuple[Path, list[str]], tmp_path: Path
) -> None:
    root, _ = world
    hidden = root / "hidden"
    shutil.move(root / "tars", hidden)
    try:
        run(
            [
                "task=evaluate",
                f"checkpoint={root / 'run'}",
                "data=folder",
                f"data.root={root / 'data'}",
                "data.images=images",
                f"hydra.run.dir={tmp_path / 'evaluated'}",
            ]
        )
    finally:
        shutil.move(hidden, root / "tars")
    first, second = (
        json.loads((folder / "metrics.json").read_text())["t2i"]
        for folder in (root / "run", tmp_path / "evaluated")
    )
    assert first == second


def test_a_cut_off_tar_stops_the_run_before_it_trains(tmp_path: Path) -> None:
    overrides = pretraining(tmp_path)
    tar = tmp_path / "tars" / "1.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(EdjeError, match=r"1\.tar is cut off"):
        run(overrides)
    assert not list((tmp_path / "run").rglob("*.ckpt"))
