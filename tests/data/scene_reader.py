"""Reads a caption's English against a scene description; knows nothing of the generator."""

import re
from itertools import pairwise, permutations
from typing import Any

THING = re.compile(r"\ban? ((?:\w+ )*?)(circle|square|triangle|star|cross|ring|heart|diamond)\b")
BETWEEN = {
    "to the left of": lambda a, b: a["x"] < b["x"],
    "left of": lambda a, b: a["x"] < b["x"],
    "to the right of": lambda a, b: a["x"] > b["x"],
    "right of": lambda a, b: a["x"] > b["x"],
    "above": lambda a, b: a["y"] < b["y"],
    "below": lambda a, b: a["y"] > b["y"],
}


def is_true(caption: str, scene: dict[str, Any]) -> bool:
    """Whether different objects of the scene fit all that the caption says."""
    found = list(THING.finditer(caption))
    gaps = [
        caption[one.end() : other.start()].strip()
        for one, other in pairwise(found)
    ]
    assert found and caption.startswith(found[0].group(0)) and caption.endswith(found[-1].group(0))
    for things in permutations(scene["objects"], len(found)):
        fits = all(
            thing["shape"] == words.group(2)
            and set(words.group(1).split()) <= {thing["size"], thing["colour"]}
            for thing, words in zip(things, found, strict=True)
        )
        if fits and all(_holds(gap, things, place) for place, gap in enumerate(gaps)):
            return True
    return False


def _holds(gap: str, things: tuple[dict[str, Any], ...], place: int) -> bool:
    """Whether what stands between two objects of a caption is true of them."""
    if gap in (",", "and"):
        return True
    # "a left of b and above c": the second relation is of the first object as well
    return BETWEEN[gap.removeprefix("and ")](things[0], things[place + 1])
