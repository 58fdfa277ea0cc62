"""What identifies a backbone, in a form that no version of transformers changes."""

import json
import re
from collections.abc import Mapping
from typing import Any

from PIL import Image

Value = str | int | float

# Facts that former versions didn't record: identities without them are of whatever these say.
LATER = frozenset({"configuration", "tokenizer"})

_PRINTED = '{"class": "SiglipImageProcessorPil", '


def canonical_identity(facts: Mapping[str, Value]) -> dict[str, Value]:
    """A checkpoint's facts, with the settings of its image processor in canonical form.

    The teacher that ships for `data=shapes`, older than any release, has them as transformers
    printed them. All other facts stay as they are.
    """
    text = str(facts.get("preprocessing"))
    if facts.get("backbone") != "HuggingFaceBackbone" or not text.startswith(_PRINTED):
        return dict(facts)
    settings = json.loads(text)
    size = dict(re.findall(r"(\w+)=(\d+)", settings["size"]))  # of "SizeDict(height=96, …)"
    pixels = canonical_pixels(settings | {"backend": "pil", "size": size})
    return {**facts, "preprocessing": pixels}


def differing_names(one: Mapping[str, Value], other: Mapping[str, Value]) -> list[str]:
    """The names of the facts that differ, sorted; those of `LATER` count only if both have them.

    Names may have a prefix that ends in a dot.

    >>> differing_names({"layer": -2, "configuration": "gelu"}, {"layer": -3})
    ['layer']
    """
    return [
        name
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
        and (name.rpartition(".")[2] not in LATER or (name in one and name in other))
    ]


def canonical_pixels(settings: Mapping[str, Any]) -> str:
    """What an image processor does to pixels, as JSON: its family, its library, its steps.

    `settings` are its attributes, with the name of its `class` and its `backend`. A step that is
    off is left out.
    """
    family = str(settings["class"]).partition("ImageProcessor")[0].lower()
    steps: dict[str, Any] = {"family": family, "library": settings["backend"]}
    if settings.get("do_resize"):
        steps["resize"] = plain_size(settings["size"])
        steps["resample"] = _resample(settings["resample"])
    if settings.get("do_center_crop"):
        steps["center_crop"] = plain_size(settings["crop_size"])
    if settings.get("do_rescale"):
        steps["rescale"] = float(settings["rescale_factor"])
    if settings.get("do_normalize"):
        steps["mean"] = _numbers(settings["image_mean"])
        steps["std"] = _numbers(settings["image_std"])
    return json.dumps(steps, sort_keys=True)


def plain_size(size: Any) -> Any:
    """The keys of an image processor's size that are set, as a plain dictionary."""
    if isinstance(size, int):
        return size
    pairs = size.items() if isinstance(size, Mapping) else vars(size).items()
    return {name: int(number) for name, number in pairs if number is not None}


def _resample(resample: Any) -> int | str:
    """PIL's number of a filter, given as a number, another library's enumeration or a name."""
    name = str(resample).lower()
    numbers = (int(known) for known in Image.Resampling if known.name.lower() in name)
    return int(resample) if isinstance(resample, int) else next(numbers, name)


def _numbers(values: Any) -> list[float]:
    return [float(value) for value in values]
