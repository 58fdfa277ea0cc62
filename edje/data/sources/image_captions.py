"""What counts as a caption: one rule for every source."""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ImageCaptions:
    """The captions of one image as they are read, and the values that are not captions.

    A caption is a text with more than white space. Null, a number (also NaN), an object or a
    blank text is bad: `bad` says for each where it is. A text that is a JSON list of texts, as in a
    field of a table, is these. The image keeps its other captions;
    `bad_images` decides whether a bad one is an error, or is left out and counted. What cleaning
    leaves of a caption ("...") doesn't matter here: see `clean_caption`.
    """

    image: str
    texts: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def add(self, value: Any, place: str) -> None:
        """Add a caption, or each of a list of them, from the position `place`."""
        for text in value if isinstance(value, list | tuple) else _listed(value):
            if isinstance(text, str) and text.strip():
                self.texts.append(text)
            else:
                told = "empty" if isinstance(text, str) else "null" if text is None else repr(text)
                expected = "" if told in ("empty", "null") else ", expected a text"
                self.bad.append(f"{place}: the caption of {self.image} is {told[:40]}{expected}")


def _listed(value: Any) -> list[Any]:
    """The texts of a JSON list of texts; the value itself if it is none."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            texts = json.loads(value)
            if all(isinstance(text, str | None) for text in texts):
                return list(texts)
    return [value]
