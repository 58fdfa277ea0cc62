"""What counts as a caption: one rule for every source."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ImageCaptions:
    """The captions of one image as they are read, and the values that are not captions.

    A caption is a text with more than white space. Null, a number (also NaN), an object or a
    blank text is bad: `bad` says for each where it is. The image keeps its other captions;
    `bad_images` decides whether a bad one is an error, or is left out and counted. What cleaning
    leaves of a caption ("...") doesn't matter here: see `clean_caption`.
    """

    image: str
    texts: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def add(self, value: Any, place: str) -> None:
        """Add a caption, or each of a list of them, from the position `place`."""
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str) and text.strip():
                self.texts.append(text)
            else:
                told = "empty" if isinstance(text, str) else "null" if text is None else repr(text)
                expected = "" if told in ("empty", "null") else ", expected a text"
                self.bad.append(f"{place}: the caption of {self.image} is {told[:40]}{expected}")
