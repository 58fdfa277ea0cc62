"""Claims about caption cleaning."""

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


@pytest.mark.parametrize(("raw", "clean"), EXAMPLES)
def test_openclip_rule_on_worked_examples(raw: str, clean: str) -> None:
    assert clean_caption(raw) == clean


@pytest.mark.parametrize(("raw", "_"), EXAMPLES)
def test_cleaning_twice_changes_nothing(raw: str, _: str) -> None:
    for rule in ("openclip", "blip"):
        once = clean_caption(raw, rule)
        assert clean_caption(once, rule) == once


def test_blip_rule_keeps_hyphens_apostrophes_and_commas() -> None:
    assert clean_caption("A man's T-shirt, (red): nice!", "blip") == "a man's t-shirt, red nice"


def test_a_very_long_caption_is_kept_whole() -> None:
    assert len(clean_caption("word " * 20_000).split()) == 20_000


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="'openclip' or 'blip'"):
        clean_caption("a dog", "clip")  # type: ignore[arg-type]
