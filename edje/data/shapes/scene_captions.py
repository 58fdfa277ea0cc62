"""Captions of scenes, each true of exactly one scene of its split.

A claim is the content of a caption without its wording: the relations of one object to up to two
others, and optionally the background. An object is named by colour and shape and optionally by
its size. A relation is stated only if it is plainly visible, but it counts as true of another
scene even if it barely holds: so a caption that is unique here is unique to any reader.
"""

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from edje.data.shapes.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Scene, SceneObject
from edje.errors import EdjeError

VISIBLE = 0.15  # least distance along an axis, in canvas widths, for a relation to be stated

RELATIONS = ("to the left of", "to the right of", "above", "below")

NAMED = 3  # objects in a caption, if a scene has that many

# Claims are mixed-radix digits of one integer, so that the claims of a split can be counted by
# sorting: an object, then relation and object for each other one, then the background. An object
# is shape, colour, size.
# Size and background count from 1; 0 means that a caption leaves them out.
_SIZE, _COLOUR = len(SIZES) + 1, len(COLOURS)
_OBJECT = len(SHAPES) * _COLOUR * _SIZE
_RELATION, _BACKGROUND = len(RELATIONS), len(BACKGROUNDS) + 1


def write_captions(
    scenes: Sequence[Scene], *, per_scene: int, background_share: float, seed: tuple[int, ...]
) -> list[list[str]]:
    """`per_scene` different captions of each scene, each true of no other scene in `scenes`.

    About `background_share` of them name the background; more if a scene has too few unique
    claims without it.

    Raises:
        EdjeError: A scene has too few unique claims (too many scenes or siblings).
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
        pools = [own[own % _BACKGROUND == 0].tolist(), own[own % _BACKGROUND > 0].tolist()]
        chosen = []
        for named in rng.random(per_scene) < background_share:
            pool = pools[int(named)] or pools[int(not named)]
            named = min(NAMED, len(scene.objects))
            chosen.append(_words(pool.pop(), named, leads=bool(rng.random() < 0.5)))
        captions.append(chosen)
    return captions


def _claims(scene: Scene, margin: float) -> np.ndarray:
    """All claims true of a scene, each once; relations hold by more than `margin`."""
    backgrounds = np.array([0, BACKGROUNDS.index(scene.background) + 1])
    found = []
    for subject, *others in permutations(scene.objects, min(NAMED, len(scene.objects))):
        claims = _names(subject)
        for other in others:
            claims = _combined(claims, _relations(subject, other, margin), _RELATION)
            claims = _combined(claims, _names(other), _OBJECT)
        found.append(_combined(claims, backgrounds, _BACKGROUND))
    return np.unique(np.concatenate(found))


def _combined(high: np.ndarray, low: np.ndarray, radix: int) -> np.ndarray:
    """Every combination of higher digits with a lowest one."""
    return (high[:, None] * radix + low).ravel()


def _names(thing: SceneObject) -> np.ndarray:
    """An object with and without its size."""
    code = (SHAPES.index(thing.shape) * _COLOUR + COLOURS.index(thing.colour)) * _SIZE
    return np.array([code, code + SIZES.index(thing.size) + 1])


def _relations(first: SceneObject, second: SceneObject, margin: float) -> np.ndarray:
    right, down = second.x - first.x, second.y - first.y
    holds = [right > margin, right < -margin, down > margin, down < -margin]
    return np.flatnonzero(holds)


def _words(claim: int, named: int, leads: bool) -> str:
    claim, background = divmod(claim, _BACKGROUND)
    others = []
    for _ in range(named - 1):
        claim, other = divmod(claim, _OBJECT)
        claim, relation = divmod(claim, _RELATION)
        others.append(f"{RELATIONS[relation]} {_phrase(other)}")
    text = f"{_phrase(claim)} {' and '.join(reversed(others))}"
    if not background:
        return text
    place = f"{_article(BACKGROUNDS[background - 1])} background"
    return f"on {place}, {text}" if leads else f"{text} on {place}"


def _phrase(code: int) -> str:
    code, size = divmod(code, _SIZE)
    shape, colour = divmod(code, _COLOUR)
    sized = [SIZES[size - 1]] if size else []
    return _article(" ".join([*sized, COLOURS[colour], SHAPES[shape]]))


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
