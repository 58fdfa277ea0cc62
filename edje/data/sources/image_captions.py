"""What counts as a caption: one rule for every source."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ImageCaptions:
    """The captions of one image as they are read, and what should have been one and isn't.

    A caption is a text that holds more than white space. Null, a number (NaN too), an object or a
    blank text is none: `bad` tells of each where it stands. It is no caption of its image, whose
    others stay; what becomes of it says `bad_images`: an error, or it is left out and counted.
    What cleaning makes of a caption ("...") is no matter here: see `clean_caption`.
    """

    image: str
    texts: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def add(self, value: Any, place: str) -> None:
        """Take a caption, or each of a list of them, that stands at `place`."""
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str) and text.strip():
                self.texts.append(text)
            else:
                told = "empty" if isinstance(text, str) else "null" if text is None else repr(text)
                expected = "" if told in ("empty", "null") else ", expected a text"
                self.bad.append(f"{place}: the caption of {self.image} is {told[:40]}{expected}")
