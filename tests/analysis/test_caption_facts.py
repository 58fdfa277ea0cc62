import pytest

from edje.analysis.caption_facts import CaptionFacts, caption_facts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a black dog is running after a white dog in the snow", CaptionFacts(12, 3, 2, 0)),
        ("black dog chasing brown dog through snow", CaptionFacts(7, 0, 2, 1)),
        ("two girls play on a skateboard in a courtyard", CaptionFacts(9, 3, 0, 0)),
        # the article of "to the left of" opens no phrase, a background is one
        (
            "on a grey background, a small red circle to the left of a blue star and above a bar",
            CaptionFacts(19, 4, 3, 2),
        ),
        ("the cat sits ON TOP OF his car, in front of the house", CaptionFacts(13, 3, 0, 2)),
        ("he left a redder apple overnight", CaptionFacts(6, 1, 0, 0)),  # whole words alone
        ("", CaptionFacts(0, 0, 0, 0)),
    ],
)
def test_facts_are_those_counted_by_hand(text: str, expected: CaptionFacts) -> None:
    assert caption_facts(text) == expected
