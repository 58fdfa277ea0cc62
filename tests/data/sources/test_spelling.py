"""Claims about the one spelling of a path."""

import pytest

from edje.data.sources.spelling import one_spelling


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("a/b.png", "a/b.png"),
        ("./a/b.png", "a/b.png"),
        ("a//b.png", "a/b.png"),
        ("a/./x/../b.png", "a/b.png"),
        ("a\\b.png", "a/b.png"),
        ("../b.png", "../b.png"),
        ("//a/b.png", "/a/b.png"),
        ("cafe\u0301.png", "caf\u00e9.png"),
        ("https://a.org//b.png", "https://a.org//b.png"),
        ("7", "7"),
        (" a b", " a b"),
        ("", ""),
    ],
)
def test_a_path_has_one_spelling(written: str, right: str) -> None:
    assert one_spelling(written) == right
    assert one_spelling(right) == right
