"""Scenes of coloured shapes in sibling groups: the descriptions behind the `shapes` data set.

The scenes of a group share background, shapes, sizes, positions and the set of colours; pairs of
objects have exchanged their colours. A dual encoder that knows what is in an image finds the
group. Telling siblings apart needs binding: which shape has which colour.
"""

from dataclasses import dataclass
from math import comb

import numpy as np

from edje.errors import EdjeError

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "bar")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "cyan")
SIZES = ("small", "large")
BACKGROUNDS = ("grey", "beige", "mint", "pink", "lilac", "peach")

GRID = 4  # cells per axis; each object is within one cell, alone
RADIUS = {"small": (0.066, 0.074), "large": (0.100, 0.108)}  # in canvas widths
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

    Depends on the seed alone: a larger `count` continues a smaller one.

    Raises:
        EdjeError: there are not enough bags for this many groups.
    """
    possible = comb(len(SHAPES), objects) * comb(len(COLOURS), objects) * len(BACKGROUNDS)
    if count > possible * siblings:
        raise EdjeError(
            f"data.objects={objects}: there are {possible} sets of {objects} shapes, {objects} "
            f"colours and a background, too few for {count} scenes in groups of {siblings}. "
            "Lower data.unique_among or the number of images, or choose 3 to 5 objects."
        )
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


def _bag(rng: np.random.Generator, objects: int) -> Bag:
    """Sorted shapes and colours, each at most once, and a background."""
    shapes = rng.choice(SHAPES, objects, replace=False)
    colours = rng.choice(COLOURS, objects, replace=False)
    return _sorted(shapes), _sorted(colours), str(rng.choice(BACKGROUNDS))


def _sorted(words: np.ndarray) -> tuple[str, ...]:
    return tuple(sorted(words.tolist()))


def _sibling_group(rng: np.random.Generator, group: int, bag: Bag, siblings: int) -> list[Scene]:
    shapes, colours, background = bag
    sizes = rng.choice(SIZES, len(shapes)).tolist()
    shapes = rng.permutation(shapes).tolist()
    colours = rng.permutation(colours).tolist()
    places = _places(rng, len(shapes))
    scenes = []
    for member in range(siblings):
        things = zip(shapes, _exchanged(colours, member), sizes, places, strict=True)
        scenes.append(Scene(group, background, tuple(_place_object(rng, *one) for one in things)))
    return scenes


def _exchanged(colours: list[str], member: int) -> list[str]:
    """Objects i and i + 1 exchange their colours in turn, for every bit i set in `member`."""
    exchanged = list(colours)
    for place in range(len(colours) - 1):
        if member >> place & 1:
            exchanged[place : place + 2] = exchanged[place + 1], exchanged[place]
    return exchanged


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
