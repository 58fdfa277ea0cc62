import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edje.data.shapes.scene_images import draw_scene
from edje.data.shapes.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    generate_scenes,
)
from edje.data.shapes.shapes_source import ANNOTATIONS, ShapesSource
from edje.errors import EdjeError
from edje.images.decoder import open_image
from tests.data.shapes.scene_reader import is_true


def small(folder: Path, **values: object) -> ShapesSource:
    sizes = {"train_images": 40, "val_images": 12, "test_images": 12, "dev_images": 0}
    return ShapesSource(cache_dir=str(folder), **(sizes | values))


def entries(source: ShapesSource) -> list[dict]:
    return json.loads(source.annotations.read_text())["images"]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The default evaluated splits and a train split of a block, with their scenes."""
    source = ShapesSource(cache_dir=str(tmp_path_factory.mktemp("cache")), image_side=8)
    source.render()
    return entries(source)


def test_every_caption_is_true_of_its_scene_and_of_no_other_of_its_split(full: list[dict]) -> None:
    parts = [
        [entry for entry in full if entry["split"] == name] for name in ("train", "val", "test")
    ]
    blocks = [part[start : start + 500] for part in parts for start in range(0, len(part), 500)]
    for scenes in blocks:  # blocks of data.unique_among
        by_shapes: dict[frozenset, list[dict]] = {}
        for entry in scenes:
            key = frozenset(thing["shape"] for thing in entry["scene"]["objects"])
            by_shapes.setdefault(key, []).append(entry)
        for entry in scenes[:: 5 if scenes[0]["split"] == "train" else 1]:
            for sentence in entry["sentences"]:
                said = set(SHAPES) & set(sentence["raw"].split())
                possible = [e for key, es in by_shapes.items() if said <= key for e in es]
                true = [e["filename"] for e in possible if is_true(sentence["raw"], e["scene"])]
                assert true == [entry["filename"]], sentence["raw"]


def test_five_different_captions_name_attributes_and_a_relation(full: list[dict]) -> None:
    captions = [[sentence["raw"] for sentence in entry["sentences"]] for entry in full]
    assert all(len(set(group)) == 5 for group in captions)
    flat = [caption for group in captions for caption in group]
    named = [caption for caption in flat if "background" in caption]
    assert 0.75 < len(named) / len(flat) < 0.85
    words = Counter(word for caption in flat for word in caption.replace(",", "").split())
    expected = {*SHAPES, *COLOURS, *SIZES, *BACKGROUNDS, "left", "right", "above", "below"}
    assert expected <= set(words) and min(words[word] for word in expected) > 0.02 * len(flat)


def test_siblings_differ_only_in_which_shape_has_which_colour() -> None:
    groups: dict[int, list[Scene]] = {}
    for scene in generate_scenes(200, siblings=4, objects=3, seed=(0, 1)):
        groups.setdefault(scene.group, []).append(scene)
    bags = set()
    for group in groups.values():
        assert len(group) == 4 and len({scene.background for scene in group}) == 1
        assert len({tuple((o.shape, o.size) for o in scene.objects) for scene in group}) == 1
        for scene in group:  # the same cells of the grid
            for one, other in zip(scene.objects, group[0].objects, strict=True):
                assert abs(one.x - other.x) < 0.03 and abs(one.y - other.y) < 0.03
        assert len({tuple(sorted(o.colour for o in scene.objects)) for scene in group}) == 1
        assert len({tuple(o.colour for o in scene.objects) for scene in group}) == 4
        one = group[0]
        words = [sorted(getattr(o, field) for o in one.objects) for field in ("shape", "colour")]
        bags.add((*map(tuple, words), one.background))
    assert len(bags) == len(groups)


def test_a_training_split_may_hold_no_siblings(tmp_path: Path) -> None:
    source = small(tmp_path, train_siblings=1)
    assert len({scene.group for scene in source.scenes("train")}) == 40
    assert len({scene.group for scene in source.scenes("val")}) == 3


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"siblings": 5}, r"data.siblings=5: 3 objects give 1 to 4 siblings"),
        ({"train_siblings": 0}, r"data.train_siblings=0: 3 objects give 1 to 4 siblings"),
        ({"objects": 9}, r"data.objects=9: expected 2 to 8"),
        ({"objects": 8, "unique_among": 30}, r"there are 6 sets of 8 shapes, 8 colours and a ba"),
    ],
)
def test_scenes_that_do_not_exist_are_refused(tmp_path: Path, choice: dict, said: str) -> None:
    with pytest.raises(EdjeError, match=said):
        small(tmp_path, **choice).read("val")


def test_objects_lie_on_the_canvas_and_apart() -> None:
    for scene in generate_scenes(300, siblings=4, objects=3, seed=(3,)):
        for thing in scene.objects:
            assert thing.radius <= min(thing.x, thing.y, 1 - thing.x, 1 - thing.y)
        for number, one in enumerate(scene.objects):
            for other in scene.objects[:number]:
                distance = np.hypot(one.x - other.x, one.y - other.y)
                assert distance > one.radius + other.radius


def test_more_scenes_continue_fewer() -> None:
    few = generate_scenes(10, siblings=4, objects=3, seed=(0,))
    assert generate_scenes(30, siblings=4, objects=3, seed=(0,))[:10] == few
    assert generate_scenes(10, siblings=4, objects=3, seed=(1,)) != few


def test_a_disc_is_drawn_at_its_place_with_smooth_edges() -> None:
    disc = SceneObject("circle", "red", "large", x=0.25, y=0.75, radius=0.15, angle=0.0)
    image = np.asarray(draw_scene(Scene(0, "grey", (disc,)), 64), dtype=int)
    assert tuple(image[48, 16]) == (214, 40, 40) and tuple(image[16, 48]) == (196, 196, 196)
    reds = image[..., 0] - image[..., 1]
    middle = np.argwhere(reds > 80).mean(axis=0)
    assert np.allclose(middle, [47.5, 15.5], atol=0.6)
    assert np.unique(image.reshape(-1, 3), axis=0).shape[0] > 4  # mixed colours along the edge


def test_every_shape_and_colour_is_drawn_differently() -> None:
    def picture(shape: str, colour: str) -> bytes:
        thing = SceneObject(shape, colour, "large", x=0.5, y=0.5, radius=0.3, angle=0.0)
        return draw_scene(Scene(0, "grey", (thing,)), 32).tobytes()

    assert len({picture(shape, colour) for shape in SHAPES for colour in COLOURS}) == 64


def test_the_same_recipe_gives_the_same_bytes_and_folder(tmp_path: Path) -> None:
    one, other = small(tmp_path / "a"), small(tmp_path / "b")
    one.render(), other.render()
    assert one.root.name == other.root.name
    for path in sorted(one.root.rglob("*.*")):
        assert path.read_bytes() == (other.root / path.relative_to(one.root)).read_bytes()
    assert small(tmp_path, render_seed=1).root.name != one.root.name


def test_splits_are_read_like_photographs(tmp_path: Path) -> None:
    source = small(tmp_path)
    assert source.splits() == ["test", "train", "val"]
    split = source.read("val")
    assert len(split.images) == 12 and len(split.captions) == 60
    assert open_image(split.images[0].path).size == (source.recipe["image_side"],) * 2
    ids = [{image.image_id for image in source.read(name).images} for name in source.splits()]
    assert len(set.union(*ids)) == 64


def test_a_half_rendered_folder_is_finished(tmp_path: Path) -> None:
    whole, broken = small(tmp_path / "a"), small(tmp_path / "b")
    whole.render(), broken.render()
    broken.annotations.unlink()
    pictures = sorted((broken.root / "images").iterdir())
    pictures[0].unlink()
    pictures[1].write_bytes(b"half")
    again = small(tmp_path / "b")
    again.read("train")
    for path in pictures:
        assert path.read_bytes() == (whole.root / "images" / path.name).read_bytes()
        Image.open(path).verify()
    assert not list(again.root.rglob("*.tmp"))


def test_a_rendered_folder_is_not_rendered_again(tmp_path: Path) -> None:
    small(tmp_path).render()
    source = small(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in source.root.rglob("*.*")}
    source.render()
    assert before == {path: path.stat().st_mtime_ns for path in source.root.rglob("*.*")}


def test_processes_that_start_together_render_a_folder_once(tmp_path: Path) -> None:
    program = (
        "import logging; from edje.data.shapes.shapes_source import ShapesSource; "
        "logging.basicConfig(level=logging.INFO); "
        f"ShapesSource(root={str(tmp_path / 'shapes')!r}, train_images=400, val_images=12, "
        "test_images=12).render()"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    told = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert sum("rendering 424 images" in text for text in told) == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_root_of_another_recipe_is_refused(tmp_path: Path) -> None:
    small(tmp_path, root=str(tmp_path / "mine")).render()
    other = small(tmp_path, root=str(tmp_path / "mine"), siblings=2, image_side=32)
    with pytest.raises(EdjeError, match=r"another recipe \(differing: image_side, siblings\)"):
        other.read("val")


def test_a_root_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdjeError, match=r"can't write the rendered images .* data.root="):
        small(tmp_path, root=str(tmp_path / "file" / "shapes")).read("val")


def test_too_many_scenes_for_unique_captions_is_an_error(tmp_path: Path) -> None:
    pairs = {"objects": 2, "siblings": 2, "train_siblings": 2}
    crowded = small(tmp_path, captions=200, **pairs)
    with pytest.raises(EdjeError, match=r"true of it alone.*unique_among"):
        crowded.read("train")


def test_annotations_stand_last_so_that_they_mean_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def stopped(scene: Scene, side: int) -> Image.Image:
        drawn.append(scene)
        if len(drawn) == 50:
            raise KeyboardInterrupt
        return draw_scene(scene, side)

    monkeypatch.setattr("edje.data.shapes.shapes_source.draw_scene", stopped)
    source = small(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        source.read("val")
    assert not (source.root / ANNOTATIONS).exists()
