"""Claims about caption cleaning."""

import random
import string

import pytest

from edje.captions import clean_caption

EXAMPLES = [
    ("A black dog is running after a white dog in the snow .",
     "a black dog is running after a white dog in the snow"),
    ("Two  men\tin T-shirts;\n one's waving!", "two men in tshirts ones waving"),
    ("fish &amp;amp; chips &lt;br&gt;", "fish chips br"),
    ("a_red_star", "a red star"),
    ("the cafÃ© is closed", "the café is closed"),
    ("", ""),
    (" ... !? ", ""),
    ("A dog 🐕 and a 猫", "a dog 🐕 and a 猫"),
    ("ΜΕΓΑΛΟΣ ΣΚΥΛΟΣ", "μεγαλος σκυλος"),
]  # fmt: skip


ODD = [
    # emoji: joined, with a skin tone, as an entity
    ("A family 👩‍👩‍👧, thumbs up 👍🏽!", "a family 👩‍👩‍👧 thumbs up 👍🏽"),
    ("Dog &#128054; &#x1F436;", "dog 🐶 🐶"),
    # entities: named, numbered, escaped twice, of white space, and what only looks like one
    ("The man&#39;s &quot;best&quot; friend", "the mans best friend"),
    ("caf&eacute; &amp;eacute;t&amp;eacute;", "café été"),
    ("a&nbsp;dog&#10;runs", "a dog runs"),
    ("&nbsp;", ""),
    ("AT&T; &dog;", "att dog"),
    # marks that word processors put in, ligatures, full width
    ("“Quoted” – it’s … ﬁne", "quoted – its … fine"),
    ("ＦＵＬＬ　ＷＩＤＴＨ", "full width"),
    ("Ã©tÃ© â€œsoleilâ€\x9d", "été soleil"),
    # white space and control characters of all kinds
    ("a\u00a0dog\u2028runs\u3000fast\r\n", "a dog runs fast"),
    ("\ufeffa dog", "a dog"),
    ("red\x00 \x1b[31mdog", "red dog"),
    ("\t \n", ""),
    # half a character, as cut-off JSON escapes leave it
    ("a dog \ud83d", "a dog \ufffd"),
    # combining marks: composed where a composed letter exists
    ("cafe\u0301", "café"),
    # other scripts: right to left, joined, without spaces, with case rules of their own
    ("الكلب الأسود، يجري!", "الكلب الأسود، يجري"),
    ("כלב שחור", "כלב שחור"),
    ("काला कुत्ता दौड़ता है।", "काला कुत्ता दौड़ता है।"),
    ("สุนัขสีดำกำลังวิ่ง", "สุนัขสีดำกำลังวิ่ง"),
    ("一只黑色的狗在奔跑。", "一只黑色的狗在奔跑。"),
    ("검은 개", "검은 개"),
    ("ЧЁРНАЯ СОБАКА", "чёрная собака"),
    ("STRAẞE Straße", "straße straße"),
    ("ΟΔΟΣ", "οδος"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "clean"), EXAMPLES + ODD)
def test_openclip_rule_on_worked_examples(raw: str, clean: str) -> None:
    assert clean_caption(raw) == clean


@pytest.mark.parametrize(("raw", "_"), EXAMPLES + ODD)
def test_cleaning_twice_changes_nothing(raw: str, _: str) -> None:
    for rule in ("openclip", "blip"):
        once = clean_caption(raw, rule)
        assert clean_caption(once, rule) == once


def test_blip_rule_keeps_hyphens_apostrophes_and_commas() -> None:
    assert clean_caption("A man's T-shirt, (red): nice!", "blip") == "a man's t-shirt, red nice"


def test_a_clean_caption_has_no_capitals_marks_or_loose_spaces() -> None:
    draws = random.Random(0)
    characters = "Aé_-.!?<>&;'\"猫🐕👍🏽\u200d\u00a0\t İẞΣЖ\x00"
    pieces = [*characters, "&amp;", "&lt;", "&#39;", "â€™", "Ã©"]
    for _ in range(2000):
        clean = clean_caption("".join(draws.choices(pieces, k=12)))
        assert clean == clean.lower() == " ".join(clean.split())
        assert not set(clean) & set(string.punctuation)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [("", ""), (" \n", ""), ("...", ""), ("🐕 A-猫!", "🐕 a-猫"), ("&#128054;", "& 128054")],
)
def test_blip_rule_mends_nothing_and_takes_odd_captions(raw: str, clean: str) -> None:
    assert clean_caption(raw, "blip") == clean


def test_a_very_long_caption_is_kept_whole() -> None:
    assert clean_caption("Word, " * 20_000).split() == ["word"] * 20_000
    assert clean_caption("猫" * 100_000) == "猫" * 100_000


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="'openclip' or 'blip'"):
        clean_caption("a dog", "clip")  # type: ignore[arg-type]
