from pathlib import Path

import numpy as np
import pytest

from edje.data.shapes.scene_places import occupied_cells, read_scenes
from edje.data.shapes.scenes import GRID, Scene, SceneObject, generate_scenes
from edje.data.shapes.shapes_source import ShapesSource
from edje.errors import EdjeError


def scene(*places: tuple[float, float, float]) -> Scene:
    things = (SceneObject("circle", "red", "small", x, y, radius, 0.0) for x, y, radius in places)
    return Scene(0, "grey", tuple(things))


def test_scenes_come_back_by_image_id_as_they_were_drawn(tmp_path: Path) -> None:
    source = ShapesSource(
        cache_dir=str(tmp_path), train_images=8, val_images=8, test_images=12, image_side=8
    )
    images = source.read("test").images
    scenes = read_scenes(Path(images[0].path).parents[1])
    assert len(scenes) == 28
    assert [scenes[image.image_id] for image in images] == source.scenes("test")


def test_a_cell_is_occupied_where_an_object_reaches_into_it() -> None:
    # x to the right, y down: a disc in the upper right, one over the middle of the lower edge
    grid = occupied_cells(scene((0.75, 0.25, 0.1), (0.5, 0.9, 0.05)), 2).reshape(2, 2)
    assert grid.tolist() == [[False, True], [True, True]]
    # at a corner of four cells, it reaches the diagonal one too; beside it, not
    assert occupied_cells(scene((0.5, 0.5, 0.01)), 2).all()
    near = occupied_cells(scene((0.42, 0.42, 0.1)), 2).reshape(2, 2)
    assert near.tolist() == [[True, True], [True, False]]  # 0.113 from the corner


def test_every_object_of_a_scene_has_one_cell_of_its_grid() -> None:
    for one in generate_scenes(40, siblings=4, objects=3, seed=(0, 2)):
        cells = occupied_cells(one, GRID)
        places = {int(GRID * thing.y) * GRID + int(GRID * thing.x) for thing in one.objects}
        assert set(np.flatnonzero(cells).tolist()) == places and len(places) == 3


@pytest.mark.parametrize("content", [None, "{", "[]", '{"images": [{"filename": "a.png"}]}'])
def test_a_folder_without_rendered_scenes_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "dataset_shapes.json").write_text(content)
    with pytest.raises(EdjeError, match=r"describes no rendered scenes .*shapes-<digest>"):
        read_scenes(tmp_path)
