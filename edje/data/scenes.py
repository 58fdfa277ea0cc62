"""Scenes of coloured shapes in sibling groups: the descriptions behind the `shapes` data set.

The scenes of a group share background, shapes, colours, sizes and places; in each, two objects
have exchanged their colours, their places, or both. A dual encoder that knows what is in a
picture finds the group; telling siblings apart takes binding and relations.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SIZES = ("small", "large")
BACKGROUNDS = ("grey", "beige", "navy", "brown", "mint", "pink")

GRID = 5  # cells per axis: an object lies within one cell, and has it for itself
RADIUS = {"small": (0.048, 0.056), "large": (0.076, 0.084)}  # in canvas widths
JITTER = 0.014  # largest distance of an object from the centre of its cell, per axis


@dataclass(frozen=True)
class SceneObject:
    """One shape; lengths in canvas widths, x to the right, y down, angle in degrees."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """Objects that do not overlap on one background; `group` is shared by siblings."""

    group: int
    background: str
    objects: tuple[SceneObject, ...]


def generate_scenes(
    count: int, *, siblings: int, objects: int, seed: tuple[int, ...]
) -> list[Scene]:
    """Scenes 0 … count - 1 of one split, group after group; no two groups have the same bag.

    A function of the seed alone: a larger `count` continues a smaller one.
    """
    rng = np.random.default_rng(seed)
    scenes: list[Scene] = []
    bags: set[Bag] = set()
    while len(scenes) < count:
        bag = _bag(rng, objects)
        if bag not in bags:
            bags.add(bag)
            scenes.extend(_sibling_group(rng, len(bags) - 1, bag, siblings))
    return scenes[:count]


Bag = tuple[tuple[str, ...], tuple[str, ...], str]
Attributes = tuple[str, str, str]


def _bag(rng: np.random.Generator, objects: int) -> Bag:
    """Sorted shapes and colours, and a background; no shape and no colour twice."""
    shapes = rng.choice(SHAPES, objects, replace=False)
    colours = rng.choice(COLOURS, objects, replace=False)
    return _sorted(shapes), _sorted(colours), str(rng.choice(BACKGROUNDS))


def _sorted(words: np.ndarray) -> tuple[str, ...]:
    return tuple(sorted(words.tolist()))


def _sibling_group(rng: np.random.Generator, group: int, bag: Bag, siblings: int) -> list[Scene]:
    shapes, colours, background = bag
    sizes = rng.choice(SIZES, len(shapes)).tolist()
    base: list[Attributes] = list(
        zip(rng.permutation(shapes).tolist(), rng.permutation(colours).tolist(), sizes, strict=True)
    )
    places = _places(rng, len(base))
    scenes = []
    for arrangement in [base, *_exchanges(rng, base)][:siblings]:
        members = tuple(
            _place_object(rng, *attributes, place)
            for attributes, place in zip(arrangement, places, strict=True)
        )
        scenes.append(Scene(group, background, members))
    return scenes


def _exchanges(rng: np.random.Generator, base: list[Attributes]) -> list[list[Attributes]]:
    """Arrangements in which two objects have each other's colours, places, or both.

    One pair of objects, drawn at random, comes first with all three.
    """
    pairs = rng.permutation(list(combinations(range(len(base)), 2))).tolist()
    found = []
    for i, j in pairs:
        (shape_i, colour_i, size_i), (shape_j, colour_j, size_j) = base[i], base[j]
        recoloured = (shape_i, colour_j, size_i), (shape_j, colour_i, size_j)
        for first, second in (recoloured, (base[j], base[i]), recoloured[::-1]):
            arrangement = list(base)
            arrangement[i], arrangement[j] = first, second
            found.append(arrangement)
    return found


def _places(rng: np.random.Generator, count: int) -> list[tuple[float, float]]:
    """Centres of different cells."""
    cells = rng.choice(GRID * GRID, count, replace=False).tolist()
    return [((cell % GRID + 0.5) / GRID, (cell // GRID + 0.5) / GRID) for cell in cells]


def _place_object(
    rng: np.random.Generator, shape: str, colour: str, size: str, place: tuple[float, float]
) -> SceneObject:
    dx, dy = rng.uniform(-JITTER, JITTER, size=2)
    radius = rng.uniform(*RADIUS[size])
    return SceneObject(
        shape=shape,
        colour=colour,
        size=size,
        x=round(place[0] + float(dx), 4),
        y=round(place[1] + float(dy), 4),
        radius=round(float(radius), 4),
        angle=round(float(rng.uniform(-10, 10)), 1),
    )
