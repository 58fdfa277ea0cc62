"""Scenes of coloured shapes in sibling groups: the descriptions behind the `shapes` data set.

The scenes of a group share their bag of shapes, colours and sizes and the places on the canvas;
they differ in one exchange: who has which colour, which size, or which place. A dual encoder that
knows what is in a picture finds the group; telling siblings apart takes binding and relations.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond")
COLOURS = (
    "red",
    "orange",
    "yellow",
    "green",
    "cyan",
    "blue",
    "purple",
    "pink",
    "white",
    "black",
)
SIZES = ("small", "large")
BACKGROUNDS = ("grey", "beige", "slate", "brown")

CELLS = 3  # the objects of a scene lie in different cells of a square grid, per axis
RADIUS = {"small": (0.08, 0.092), "large": (0.134, 0.146)}  # in canvas widths
JITTER = 0.02  # largest distance of an object from the middle of its cell, per axis


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
    bags: set[tuple[tuple[str, ...], ...]] = set()
    while len(scenes) < count:
        bag = _bag(rng, objects)
        if bag not in bags:
            bags.add(bag)
            scenes.extend(_sibling_group(rng, len(bags) - 1, bag, siblings))
    return scenes[:count]


def _bag(rng: np.random.Generator, objects: int) -> tuple[tuple[str, ...], ...]:
    """Sorted shapes, colours and sizes; no shape and no colour twice."""
    shapes = rng.choice(SHAPES, objects, replace=False)
    colours = rng.choice(COLOURS, objects, replace=False)
    sizes = rng.choice(SIZES, objects)
    return tuple(tuple(sorted(str(word) for word in words)) for words in (shapes, colours, sizes))


def _sibling_group(
    rng: np.random.Generator, group: int, bag: tuple[tuple[str, ...], ...], siblings: int
) -> list[Scene]:
    places = _places(rng, len(bag[0]))
    shapes, colours, sizes = ([str(word) for word in rng.permutation(words)] for words in bag)
    base = list(zip(shapes, colours, sizes, strict=True))
    arrangements = [base]
    for arrangement in _exchanges(rng, base):
        if arrangement not in arrangements:
            arrangements.append(arrangement)
    scenes = []
    for arrangement in arrangements[:siblings]:
        background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
        members = tuple(
            _place_object(rng, shape, colour, size, place)
            for (shape, colour, size), place in zip(arrangement, places, strict=True)
        )
        scenes.append(Scene(group, background, members))
    return scenes


Attributes = tuple[str, str, str]


def _exchanges(rng: np.random.Generator, base: list[Attributes]) -> list[list[Attributes]]:
    """Arrangements one exchange away from the base, in random order.

    An exchange gives two objects each other's colour, each other's size, or each other's place;
    one pair of objects never changes places, so that a caption can tell the base from them all.
    """
    pairs = [tuple(pair) for pair in rng.permutation(list(combinations(range(len(base)), 2)))]
    found = []
    for number, (i, j) in enumerate(pairs):
        (shape_i, colour_i, size_i), (shape_j, colour_j, size_j) = base[i], base[j]
        exchanged = [
            ((shape_i, colour_j, size_i), (shape_j, colour_i, size_j)),
            ((shape_i, colour_i, size_j), (shape_j, colour_j, size_i)),
            (base[j], base[i]),
        ]
        for first, second in exchanged[: 2 if number == 0 else 3]:
            arrangement = list(base)
            arrangement[i], arrangement[j] = first, second
            found.append(arrangement)
    return [found[i] for i in rng.permutation(len(found))]


def _places(rng: np.random.Generator, count: int) -> list[tuple[float, float]]:
    """The middles of `count` different cells."""
    cells = rng.choice(CELLS * CELLS, count, replace=False)
    return [
        ((cell % CELLS + 0.5) / CELLS, (cell // CELLS + 0.5) / CELLS) for cell in cells.tolist()
    ]


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
