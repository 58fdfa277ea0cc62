"""Claims about what a mixture holds back: images on which this run or a later one chooses."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from edje.config.locations import conf_folder, register_resolvers
from edje.data.mixture.listed_pairs import ListedPairs
from edje.data.mixture.pretrain import PretrainSource
from edje.data.sources.folder import FolderSource
from edje.data.sources.holdout import hold_out
from edje.data.sources.karpathy import KarpathySource
from edje.errors import EdjeError
from tests.tiny.image_files import write_images

SPLITS = {"train": 12, "restval": 4, "val": 3, "test": 3}


def names(split: str) -> list[str]:
    return [f"{split}_{number}.jpg" for number in range(SPLITS[split])]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Set A, a folder with a table; set B, Karpathy's JSON beside captions of all its images."""
    root = tmp_path_factory.mktemp("sets")
    write_images(root / "a", ["0.jpg", "1.jpg", "2.jpg"])
    table = "image,caption,split\n0.jpg,dog,train\n1.jpg,cat,train\n2.jpg,cow,val\n"
    (root / "a" / "captions.csv").write_text(table)
    write_images(root / "b" / "images", [name for split in SPLITS for name in names(split)])
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": f"caption of {name}"}]}
        for split in SPLITS
        for name in names(split)
    ]
    (root / "b" / "dataset_coco.json").write_text(json.dumps({"images": images}))
    pairs = [{"image": item["filename"], "caption": item["sentences"][0]["raw"]} for item in images]
    (root / "b" / "all.json").write_text(json.dumps(pairs))
    return root


def set_b(root: Path, **more: Any) -> KarpathySource:
    settings: dict[str, Any] = {"annotations": "dataset_coco.json", "dev_images": 5} | more
    return KarpathySource(name="b", root=str(root / "b"), images=["images"], **settings)


def trained_on(root: Path, cache: Path, held_back: KarpathySource | None) -> set[str]:
    """Images of B in a mixture of A and B, where A is evaluated."""
    a = ListedPairs(root=str(root / "a"), annotations="captions.csv", images=["."])
    b = ListedPairs(
        root=str(root / "b"), annotations="all.json", images=["images"], held_back=held_back
    )
    evaluated = FolderSource(name="a", root=str(root / "a"), dev_images=1)
    source = PretrainSource(sources={"a": a, "b": b}, evaluated=evaluated, cache_dir=str(cache))
    mixture = source.mixture()
    rows = [row for block in mixture.blocks for row in block.visited.tolist()]
    files = [mixture.pair(row)[1].file for row in rows]
    assert len([file for file in files if "images/" not in file]) == 1  # of A: neither dev nor val
    return {Path(file).name for file in files if "images/" in file}


def everything() -> set[str]:
    return {name for split in SPLITS for name in names(split)}


@pytest.mark.parametrize("seed", [0, 3])
def test_dev_of_a_later_stage_s_set_is_not_trained_on_where_another_is_evaluated(
    root: Path, tmp_path: Path, seed: int
) -> None:
    later = set_b(root, dev_seed=seed)
    dev = hold_out(later.read("train"), later.dev_images, later.dev_seed)[1]
    held = {image.image_id for image in dev.images}
    assert len(held) == 5
    trained = trained_on(root, tmp_path, set_b(root, dev_seed=seed))
    assert trained == {*names("train"), *names("restval")} - held


@pytest.mark.parametrize("linked", ["evaluated", "mixture"])
def test_an_evaluated_image_is_held_back_where_one_of_its_files_is_a_link(
    tmp_path: Path, linked: str
) -> None:
    names = ["0.jpg", "1.jpg", "2.jpg"]
    real, links = tmp_path / "real", tmp_path / "links"
    write_images(real, names)
    links.mkdir()
    for name in names:
        (links / name).symlink_to(f"../real/{name}")
    evaluated, mixture = (links, real) if linked == "evaluated" else (real, links)
    (evaluated / "captions.csv").write_text("image,caption,split\n0.jpg,a,val\n2.jpg,c,val\n")
    (mixture / "list.csv").write_text("image,caption\n" + "".join(f"{n},x\n" for n in names))
    source = PretrainSource(
        sources={"a": ListedPairs(root=str(mixture), annotations="list.csv", images=["."])},
        evaluated=FolderSource(name="a", root=str(evaluated), dev_images=0),
        cache_dir=str(tmp_path / "cache"),
    )
    assert source.mixture().blocks[0].without == (0, 2)


def test_without_a_set_that_is_held_back_all_is_trained_on(root: Path, tmp_path: Path) -> None:
    assert trained_on(root, tmp_path, None) == everything()


def test_a_set_whose_annotations_are_not_there_holds_nothing_back_and_says_so(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert trained_on(root, tmp_path, set_b(root, annotations="none.json")) == everything()
    assert "data.sources.b.held_back: no image is held back" in caplog.text


def test_a_split_without_images_on_disk_is_told_and_the_others_are_held_back(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = json.loads((root / "b" / "dataset_coco.json").read_text())
    gone = {"filename": "gone.jpg", "split": "val", "sentences": [{"raw": "x"}]}
    content["images"] = [*(i for i in content["images"] if i["split"] != "val"), gone]
    (root / "b" / "other.json").write_text(json.dumps(content))
    trained = trained_on(root, tmp_path, set_b(root, annotations="other.json", bad_images="skip"))
    assert "split 'val' of" in caplog.text and "is empty" in caplog.text
    assert not trained & set(names("test")) and len(trained) == 16 - 5 + 3


def test_a_dev_set_that_can_not_be_drawn_is_refused_with_the_way_out(
    root: Path, tmp_path: Path
) -> None:
    match = r"data\.sources\.b\.held_back: .*can't hold out 16 of the 16 .*held_back=null"
    with pytest.raises(EdjeError, match=match):
        trained_on(root, tmp_path, set_b(root, dev_images=16))


def test_the_option_holds_back_coco_s_dev_where_its_source_lies(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    register_resolvers()
    key = "data.sources.coco"
    chosen = ["data=pretrain", f"{key}.root={root / 'b'}", f"{key}.annotations=all.json"]
    chosen += [f"data.sources.{name}=null" for name in ("visual_genome", "sbu", "cc3m", "cc12m")]
    chosen += ["data@data.evaluated=folder", f"data.evaluated.root={root / 'a'}"]
    chosen += ["data.evaluated.dev_images=1", f"cache_dir={tmp_path}"]
    own = [f"{key}.held_back.{name}=null" for name in ("split_sizes", "caption_counts")]
    for more, count in (([*own, f"{key}.held_back.dev_images=5"], 16 - 5), (["null"], 22)):
        more = [f"{key}.held_back=null"] if more == ["null"] else more
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            source = instantiate(compose("run", [*chosen, *more]).data)
        with caplog.at_level(logging.INFO):
            mixture = source.mixture()
        assert sum(block.visits for block in mixture.blocks) == count
        assert f"{22 - count} pairs are not trained on" in caplog.text
