"""One canonical form of a backbone's identity, whichever version of transformers wrote it.

Stores and checkpoints keep identities for years. Old ones hold an image processor's settings as
the installed version printed them, and class names and sizes change from version to version.
Everything that is compared or hashed goes through here first, on both sides.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from PIL import Image

Value = str | int | float

# Facts that former versions didn't record: identities without them are of whatever these say.
LATER = frozenset({"configuration", "tokenizer"})

_CLASS = re.compile(r"(\w+?)(?:ImageProcessor|FeatureExtractor)(\w*)")
_LIBRARIES = {"Pil": "pil", "Fast": "torchvision"}  # by the ending of the class name


def canonical_identity(facts: Mapping[str, Value]) -> dict[str, Value]:
    """The same facts, with the settings of a transformers image processor in canonical form.

    Everything else stays as it is, including what is canonical already.
    """
    settings = _settings(facts.get("preprocessing"))
    if settings is None:
        return dict(facts)
    return {**facts, "preprocessing": canonical_pixels(settings)}


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

    `settings` are its attributes, as objects or as any version of transformers prints them, with
    the name of its `class` and, if known, its `backend`. A step that is off is left out.
    """
    family, library = _kind(settings)
    steps: dict[str, Any] = {"family": family, "library": library}
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


def _settings(preprocessing: object) -> dict[str, Any] | None:
    """An image processor's settings as identities used to hold them; None for anything else."""
    try:
        settings = json.loads(str(preprocessing))
    except ValueError:
        return None
    if not isinstance(settings, dict) or not _CLASS.fullmatch(str(settings.get("class"))):
        return None
    return settings


def _kind(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Family and library: classes without an ending changed library when `SizeDict` came."""
    name = str(settings["class"])
    found = _CLASS.fullmatch(name)
    family, ending = (found[1], found[2]) if found else (name, "")
    printed = any(str(settings.get(size)).startswith("SizeDict") for size in ("size", "crop_size"))
    library = settings.get("backend") or _LIBRARIES.get(ending)
    return family.lower(), library or ("torchvision" if printed else "pil")


def plain_size(size: Any) -> Any:
    """The keys of an image processor's size that are set, as a plain dictionary."""
    if isinstance(size, str):
        return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", size)}
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
