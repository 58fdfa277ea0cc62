"""Caption cleaning: one rule for the dual encoder and the joint encoder alike."""

import html
import re
import string
from typing import Literal

import ftfy

CaptionRule = Literal["openclip", "blip"]

_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BLIP_SEPARATORS = re.compile(r"[.!\"()*#:;~]")


def clean_caption(text: str, rule: CaptionRule = "openclip") -> str:
    """Text of a caption as the encoders read it: lower case, single spaces, little punctuation.

    `openclip` is open_clip's canonicalisation: broken unicode is fixed, HTML is unescaped twice,
    underscores become spaces, ASCII punctuation is deleted ("t-shirt" → "tshirt").
    `blip` is BLIP's: a few marks become spaces; hyphens, apostrophes and commas stay.
    An empty caption stays empty, and a caption of punctuation alone ("...") becomes empty. A
    cached set keeps such captions and the log counts them; in a mixture that is encoded on the
    fly, another pair replaces it. Cleaning a clean caption changes nothing, except where a
    text mixes broken unicode, entities and "<" so that one pass can't undo them all.

    Raises:
        ValueError: the rule is neither of the two above.
    """
    if rule == "openclip":
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
        text = text.replace("_", " ").translate(_DELETE_PUNCTUATION)
    elif rule == "blip":
        text = _BLIP_SEPARATORS.sub(" ", text)
    else:
        raise ValueError(f"caption rule {rule!r} is unknown; expected 'openclip' or 'blip'")
    return " ".join(text.lower().split())
