"""Reads a caption's English against a scene description; knows nothing of the generator."""

import re
from itertools import permutations
from typing import Any

WORDS = re.compile(
    r"^(?:on an? (?P<ground>\w+) background, )?an? (?P<first>[\w ]+?) "
    r"(?P<relation>to the left of|to the right of|above|below) an? (?P<second>[\w ]+?)"
    r"(?: on an? (?P<background>\w+) background)?$"
)
LIES = {
    "to the left of": lambda a, b: a["x"] < b["x"],
    "to the right of": lambda a, b: a["x"] > b["x"],
    "above": lambda a, b: a["y"] < b["y"],
    "below": lambda a, b: a["y"] > b["y"],
}


def is_true(caption: str, scene: dict[str, Any]) -> bool:
    """Whether two objects of the scene, and its background, are as the caption says."""
    said = WORDS.match(caption)
    assert said, caption
    if (said["ground"] or said["background"]) not in (None, scene["background"]):
        return False
    return any(
        _fits(said["first"], one)
        and _fits(said["second"], other)
        and LIES[said["relation"]](one, other)
        for one, other in permutations(scene["objects"], 2)
    )


def _fits(name: str, thing: dict[str, Any]) -> bool:
    *size, colour, shape = name.split()
    return (colour, shape) == (thing["colour"], thing["shape"]) and size in ([], [thing["size"]])
