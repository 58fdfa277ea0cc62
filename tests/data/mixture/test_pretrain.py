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
from edje.data.mixture.order import MixtureOrder
from edje.data.mixture.pretrain import PretrainSource
from edje.data.mixture.tar_pairs import TarPairs
from edje.data.sources.folder import FolderSource
from edje.data.sources.holdout import hold_out
from edje.data.sources.karpathy import KarpathySource
from edje.errors import EdjeError
from tests.tiny.image_files import write_images, write_tar

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


GENOME = {  # a photo's numbers in Visual Genome, COCO and on Flickr
    1: (391895, None),  # evaluated
    2: (391896, 77),
    3: (None, 1000092795),  # evaluated
    4: (None, 1000268201),  # evaluated
    5: (1000092795, 391895),  # others' numbers
    6: (None, None),
}


def genome(root: Path) -> tuple[FolderSource, ListedPairs]:
    """An evaluated folder of three photos, and Visual Genome's layout with copies of them."""
    evaluated = ["COCO_val2014_000000391895.jpg", "1000092795.jpg", "1000268201_693b08cb0e.jpg"]
    write_images(root / "judged", evaluated)
    rows = "".join(f"{name},dog,test\n" for name in evaluated)
    (root / "judged" / "captions.csv").write_text(f"image,caption,split\n{rows}")
    write_images(root / "genome" / "VG_100K", [f"{number}.jpg" for number in GENOME])
    regions = [{"image_id": one, "regions": [{"phrase": "a tail"}]} for one in GENOME]
    (root / "genome" / "region_descriptions.json").write_text(json.dumps(regions))
    judged = FolderSource(name="judged", root=str(root / "judged"), split="test", dev_images=0)
    listed = {"annotations": "region_descriptions.json", "images": ["VG_100K"]}
    return judged, ListedPairs(root=str(root / "genome"), **listed)


def trained_of_genome(root: Path, judged: FolderSource | None, listed: ListedPairs) -> set[int]:
    sources = {"visual_genome": listed}
    source = PretrainSource(sources=sources, evaluated=judged, cache_dir=str(root / "cache"))
    mixture = source.mixture()
    rows = [row for block in mixture.blocks for row in block.visited.tolist()]
    return {int(Path(mixture.pair(row)[1].file).stem) for row in rows}


@pytest.mark.parametrize("named", ["image_id", "id"])
def test_photos_of_visual_genome_that_are_evaluated_under_other_names_are_left_out(
    tmp_path: Path, named: str
) -> None:
    judged, listed = genome(tmp_path)
    content = [
        {named: one, "url": "", "coco_id": coco, "flickr_id": flickr}
        for one, (coco, flickr) in GENOME.items()
    ]
    (tmp_path / "genome" / "image_data.json").write_text(json.dumps(content))
    assert trained_of_genome(tmp_path, judged, listed) == {2, 5, 6}
    assert trained_of_genome(tmp_path, None, listed) == set(GENOME)


def test_without_visual_genome_s_list_of_images_the_leak_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judged, listed = genome(tmp_path)
    assert trained_of_genome(tmp_path, judged, listed) == set(GENOME)
    assert "Put its image_data.json into" in caplog.text
    caplog.clear()
    assert trained_of_genome(tmp_path, None, listed) == set(GENOME)
    assert "image_data.json" not in caplog.text


@pytest.mark.parametrize("content", ["[", "{}x", "[1]", '[{"image_id": 1}]', '{"a": 1}'])
def test_a_list_of_visual_genome_s_images_that_can_not_be_read_is_refused(
    tmp_path: Path, content: str
) -> None:
    judged, listed = genome(tmp_path)
    (tmp_path / "genome" / "image_data.json").write_text(content)
    with pytest.raises(EdjeError, match=r"visual_genome: .*image_data\.json isn't Visual Genome's"):
        trained_of_genome(tmp_path, judged, listed)


def test_a_share_of_a_source_is_counted_over_all_of_its_tars(tmp_path: Path) -> None:
    for tar in range(4):
        members = {f"{key}.{ending}": b"x" for key in "ab" for ending in ("jpg", "txt")}
        write_tar(tmp_path / f"{tar}.tar", members)

    def visits(passes: float) -> int:
        tars = TarPairs(root=str(tmp_path), passes=passes)
        source = PretrainSource(sources={"tars": tars}, evaluated=None, cache_dir=str(tmp_path))
        return MixtureOrder(source.mixture().blocks, 2, 0).rows

    assert [visits(passes) for passes in (0.25, 0.3, 1, 1.25, 2.5)] == [2, 2, 8, 10, 20]


@pytest.mark.parametrize("passes", ["x", None, float("inf"), float("nan"), 0, -1.0])
def test_passes_that_are_no_number_above_0_are_refused(
    tmp_path: Path, unchecked: None, passes: Any
) -> None:
    tars = TarPairs(root=str(tmp_path), passes=passes)
    with pytest.raises(EdjeError, match=r"data\.sources\.tars\.passes=.*expected a number above 0"):
        PretrainSource(sources={"tars": tars}, evaluated=None)


def test_an_evaluated_split_that_has_the_name_of_the_held_out_images_is_refused(
    tmp_path: Path,
) -> None:
    write_images(tmp_path, [f"{number}.jpg" for number in range(5)])
    lines = [f"{number}.jpg,c,{'dev' if number > 2 else 'train'}" for number in range(5)]
    (tmp_path / "captions.csv").write_text("\n".join(["image,caption,split", *lines]))

    def of(split: str, **more: Any) -> PretrainSource:
        mine = FolderSource(name="a", root=str(tmp_path), split=split, **{"dev_images": 1} | more)
        return PretrainSource(sources={}, evaluated=mine)

    with pytest.raises(EdjeError, match=r"data\.evaluated\.split=dev: .*split_names=\{dev: val\}"):
        of("dev")
    for source in (of("dev", split_names={"dev": "val"}), of("dev", dev_images=0), of("val")):
        assert [Path(i.image_id).stem for i in source.read(source.split).images] == ["3", "4"]
    (tmp_path / "captions.csv").write_text(
        "\n".join(["image,caption,split", *lines, "5.jpg,c,val"])
    )
    assert of("val").splits() == ["dev", "train", "val"]


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
