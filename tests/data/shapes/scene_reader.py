"""Reads a caption's English against a scene description; knows nothing of the generator."""

import re
from itertools import permutations
from typing import Any

RELATION = "to the left of|to the right of|above|below"
WORDS = re.compile(
    rf"^(?:on an? (?P<ground>\w+) background, )?an? (?P<subject>[\w ]+?) "
    rf"(?P<others>(?:{RELATION}) an? [\w ]+?(?: and (?:{RELATION}) an? [\w ]+?)*)"
    r"(?: on an? (?P<background>\w+) background)?$"
)
OTHER = re.compile(rf"^({RELATION}) an? ([\w ]+)$")
LIES = {
    "to the left of": lambda a, b: a["x"] < b["x"],
    "to the right of": lambda a, b: a["x"] > b["x"],
    "above": lambda a, b: a["y"] < b["y"],
    "below": lambda a, b: a["y"] > b["y"],
}


def is_true(caption: str, scene: dict[str, Any]) -> bool:
    """Whether objects of the scene, and its background, are as the caption says."""
    said = WORDS.match(caption)
    assert said, caption
    if (said["ground"] or said["background"]) not in (None, scene["background"]):
        return False
    others = [OTHER.match(part).groups() for part in said["others"].split(" and ")]
    return any(
        _fits(said["subject"], subject)
        and all(
            _fits(name, thing) and LIES[relation](subject, thing)
            for (relation, name), thing in zip(others, things, strict=True)
        )
        for subject, *things in permutations(scene["objects"], 1 + len(others))
    )


def _fits(name: str, thing: dict[str, Any]) -> bool:
    *size, colour, shape = name.split()
    return (colour, shape) == (thing["colour"], thing["shape"]) and size in ([], [thing["size"]])
