"""The positions of objects in rendered scenes, read from their annotations."""

import json
from pathlib import Path

import numpy as np

from edje.data.shapes.scenes import Scene, SceneObject
from edje.data.shapes.shapes_source import ANNOTATIONS
from edje.errors import EdjeError


def read_scenes(root: str | Path) -> dict[str, Scene]:
    """The scene of each image of all splits, by image id; `root` is the rendered folder.

    Raises:
        EdjeError: the folder holds no rendered scenes.
    """
    path = Path(root) / ANNOTATIONS
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["images"]
        return {entry["filename"]: _scene(entry["scene"]) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EdjeError(
            f"{path} describes no rendered scenes ({type(error).__name__}: {error}). Give the "
            "folder shapes-<digest> in which data=shapes rendered its images."
        ) from error


def occupied_cells(scene: Scene, side: int) -> np.ndarray:
    """Which cells of a `side` by `side` grid over the image any object overlaps: (side²,).

    Row by row, like vision tokens. An object counts as its disc; in a grid of 4 each has one
    cell.
    """
    edges = np.arange(side + 1) / side
    reached = np.zeros((side, side), dtype=bool)
    for thing in scene.objects:
        beside, above = (
            place - np.clip(place, edges[:-1], edges[1:]) for place in (thing.x, thing.y)
        )
        reached |= np.hypot(beside[None, :], above[:, None]) < thing.radius
    return reached.ravel()


def _scene(content: dict) -> Scene:
    objects = tuple(SceneObject(**thing) for thing in content["objects"])
    return Scene(content["group"], content["background"], objects)
