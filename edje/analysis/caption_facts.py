"""What an English caption mentions, counted with word lists."""

import re
from dataclasses import dataclass

COLOURS = (
    *("black", "white", "grey", "gray", "red", "orange", "yellow", "green", "blue", "purple"),
    *("pink", "brown", "beige", "tan", "gold", "golden", "silver", "cyan", "mint", "lilac"),
    *("peach", "violet", "maroon", "turquoise", "teal", "navy"),
)
# Without "in", "on" and "at", which nearly every caption has.
RELATIONS = (
    *("(?:(?:to|on|at) )?(?:the )?(?:left|right)(?: hand)?(?: side)? of", "in front of"),
    *("next to", "on top of", "in between", "close to", "above", "below", "under", "underneath"),
    *("beneath", "behind", "between", "beside", "near", "inside", "outside", "over", "across"),
    *("around", "against", "among", "along", "through", "toward", "towards", "opposite"),
)
# How a phrase for a thing begins; a plural without any of these words is not counted.
OPENINGS = (
    *("a", "an", "the", "another", "some", "several", "many", "his", "her", "its", "their"),
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
)


def _any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(words)})\b")


_COLOUR, _RELATION, _OPENING = _any_of(COLOURS), _any_of(RELATIONS), _any_of(OPENINGS)


@dataclass(frozen=True)
class CaptionFacts:
    """Counts of one caption. They are estimates: words are looked up, not understood."""

    words: int
    things: int  # phrases that begin with an article, a number or a possessive
    colours: int
    relations: int  # spatial relations between two things


def caption_facts(text: str) -> CaptionFacts:
    """The facts of a caption in English.

    >>> caption_facts("A red star to the left of a dog in front of two blue cars")
    CaptionFacts(words=15, things=3, colours=2, relations=2)
    """
    text = text.lower()
    rest, relations = _RELATION.subn(" ", text)  # the article of "the left of" begins no thing
    things, colours = (len(pattern.findall(rest)) for pattern in (_OPENING, _COLOUR))
    return CaptionFacts(len(text.split()), things, colours, relations)
