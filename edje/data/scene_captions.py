"""Captions of scenes, each true of exactly one scene of its split.

A claim is what a caption says, without its wording: descriptions of two or three objects and, for
a relation, how the first lies to the second. A description names the shape and may name colour
and size. A relation is stated only where it is plainly visible, but counts as true of another
scene where it holds by a hair: what is unique here is unique to any reader.
"""

from collections.abc import Sequence
from itertools import combinations, permutations

import numpy as np

from edje.data.scenes import COLOURS, SHAPES, SIZES, Scene, SceneObject
from edje.errors import EdjeError

VISIBLE = 0.15  # least distance along an axis, in canvas widths, at which a relation is stated

WORDINGS = ("to the left of", "to the right of", "above", "below")
SHORT_WORDINGS = ("left of", "right of", "above", "below")  # where a caption has two relations
_LEFT, _RIGHT, _ABOVE, _BELOW, _AND = range(5)

# A description is a size, a colour (0: not named) and a shape, counted from 1. A claim is two or
# three descriptions and how the first lies to the second and to the third. Both are mixed-radix
# digits of one integer, so that the claims of a split are counted by sorting.
_DESCRIPTIONS = (len(SIZES) + 1) * (len(COLOURS) + 1) * (len(SHAPES) + 1)
_FORMS = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])  # which of size and colour is named
_KINDS = ("relation", "chain", "listing")


def write_captions(
    scenes: Sequence[Scene], *, per_scene: int, seed: tuple[int, ...], shares: Sequence[float]
) -> list[list[str]]:
    """`per_scene` different captions of each scene, each true of no other scene in `scenes`.

    `shares` are the wished shares of relations between two objects, of chains (one object's
    relations to two others) and of listings (who has which colour and size); where a scene has no
    claim of the wished kind of its own, another kind fills in.

    Raises:
        EdjeError: A scene has too few claims of its own (too many scenes or siblings).
    """
    loose = [_claims(scene, margin=0.0) for scene in scenes]
    values, counts = np.unique(np.concatenate(loose), return_counts=True)
    captions = []
    for index, scene in enumerate(scenes):
        rng = np.random.default_rng((*seed, index))
        stated = _claims(scene, margin=VISIBLE)
        own = rng.permutation(stated[counts[np.searchsorted(values, stated)] == 1])
        if len(own) < per_scene:
            raise EdjeError(
                f"scene {index} of {len(scenes)} has {len(own)} captions that are true of it "
                f"alone, expected {per_scene}: lower data.unique_among, siblings or captions"
            )
        kinds = [list(own[_kind(own) == kind]) for kind in range(len(_KINDS))]
        chosen: list[int] = []
        for wish in rng.choice(len(_KINDS), size=per_scene, p=shares):
            pool = next(kinds[k] for k in (wish, 0, 1, 2) if kinds[k])
            chosen.append(int(pool.pop()))
        captions.append([_words(rng, claim) for claim in chosen])
    return captions


def _claims(scene: Scene, margin: float) -> np.ndarray:
    """All claims true of a scene, each once; relations hold by more than `margin`."""
    things = sorted(scene.objects, key=lambda thing: SHAPES.index(thing.shape))
    described = [_descriptions(thing) for thing in things]
    numbers = range(len(things))
    relations = {
        (i, j): _relations(things[i], things[j], margin) for i, j in permutations(numbers, 2)
    }
    found = []
    for i in numbers:
        others = [j for j in numbers if j != i]
        for j in others:
            found.append(_encode(described[i], described[j], None, relations[i, j], [0]))
        for j, k in combinations(others, 2):
            found.append(
                _encode(described[i], described[j], described[k], relations[i, j], relations[i, k])
            )
    for i, j in combinations(numbers, 2):
        found.append(_encode(described[i], described[j], None, [_AND], [0]))
    for i, j, k in combinations(numbers, 3):
        found.append(_encode(described[i], described[j], described[k], [_AND], [_AND]))
    return np.unique(np.concatenate(found))


def _encode(
    first: np.ndarray,
    second: np.ndarray,
    third: np.ndarray | None,
    to_second: list[int],
    to_third: list[int],
) -> np.ndarray:
    """The claims of every combination of the given descriptions and relations."""
    total = first
    for codes in (second, np.zeros(1, dtype=first.dtype) if third is None else third):
        total = (total[:, None] * _DESCRIPTIONS + codes).ravel()
    for relations in (to_second, to_third):
        total = (total[:, None] * 5 + np.array(relations, dtype=first.dtype)).ravel()
    return total


def _kind(claims: np.ndarray) -> np.ndarray:
    """The kind of each claim, a row of _KINDS."""
    listing = claims // 5 % 5 == _AND
    chain = claims // 25 % _DESCRIPTIONS > 0
    return np.where(listing, 2, np.where(chain, 1, 0))


def _descriptions(thing: SceneObject) -> np.ndarray:
    """The codes of the four descriptions of an object, barest first; the shape leads."""
    size, colour = SIZES.index(thing.size) + 1, COLOURS.index(thing.colour) + 1
    shape = SHAPES.index(thing.shape) + 1
    sizes, colours = _FORMS[:, 0] * size, _FORMS[:, 1] * colour
    return (shape * (len(COLOURS) + 1) + colours) * (len(SIZES) + 1) + sizes


def _relations(first: SceneObject, second: SceneObject, margin: float) -> list[int]:
    found = []
    if first.x < second.x - margin:
        found.append(_LEFT)
    if first.x > second.x + margin:
        found.append(_RIGHT)
    if first.y < second.y - margin:
        found.append(_ABOVE)
    if first.y > second.y + margin:
        found.append(_BELOW)
    return found


def _words(rng: np.random.Generator, claim: int) -> str:
    claim, to_third = divmod(claim, 5)
    claim, to_second = divmod(claim, 5)
    claim, third = divmod(claim, _DESCRIPTIONS)
    first, second = (_phrase(code) for code in divmod(claim, _DESCRIPTIONS))
    if to_second == _AND:
        phrases = [first, second, _phrase(third)] if third else [first, second]
        phrases = [phrases[i] for i in rng.permutation(len(phrases))]
        return f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    if not third:
        return f"{first} {WORDINGS[to_second]} {second}"
    ends = [
        f"{SHORT_WORDINGS[to_second]} {second}",
        f"{SHORT_WORDINGS[to_third]} {_phrase(third)}",
    ]
    return f"{first} {' and '.join(ends[i] for i in rng.permutation(2))}"


def _phrase(code: int) -> str:
    code, size = divmod(code, len(SIZES) + 1)
    shape, colour = divmod(code, len(COLOURS) + 1)
    words = [SHAPES[shape - 1]]
    if colour:
        words.insert(0, COLOURS[colour - 1])
    if size:
        words.insert(0, SIZES[size - 1])
    article = "an" if words[0][0] in "aeiou" else "a"
    return f"{article} {' '.join(words)}"
