from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Lt

from edje.config.value_types import choices, describe, fits
from edje.ranges import NonNegativeInt, PositiveInt


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (1, int),
        (1, float),
        (0.5, float),
        (float("inf"), float),
        ("a", str),
        (True, bool),
        (None, int | None),
        ([1, 2], tuple[float, float]),
        ([1, 2, 3], tuple[int, ...]),
        ("a/b", Path),
        ({"val": 3}, dict[str, int]),
        ("t2i", Literal["t2i", "i2t"]),
        (16, Literal[16, 32] | str),
        ({"anything": [1, None]}, Any),
    ],
)
def test_values_that_fit(value: Any, annotation: Any) -> None:
    assert fits(value, annotation)


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ("1", int, "int"),
        (1.0, int, "int"),
        (True, int, "int"),
        (True, float, "float"),
        (1, bool, "bool"),
        (1, str, "str"),
        (None, int, "int"),
        ("none", int | None, "int or null"),
        ([1], tuple[float, float], "list [float, float]"),
        (["a"], list[int], "list of int"),
        ("ab", list[str], "list of str"),
        ({"val": "x"}, dict[str, int], "mapping of str to int"),
        ({"val": 1}, Mapping[str, str], "mapping of str to str"),
        ("i2i", Literal["t2i", "i2t"], "one of t2i, i2t"),
        (True, Literal[1, 2], "one of 1, 2"),
        (0, PositiveInt, "int above 0"),
        (-1, NonNegativeInt | None, "int from 0 or null"),
        (1.5, Annotated[float, Ge(0), Lt(1)], "float from 0 below 1"),
        ([3, 0], list[PositiveInt], "list of int above 0"),
    ],
)
def test_values_that_do_not_fit(value: Any, annotation: Any, expected: str) -> None:
    assert not fits(value, annotation)
    assert describe(annotation) == expected


def test_choices_are_the_strings_named_one_by_one() -> None:
    assert choices(Literal["a", "b"] | int | None) == ["a", "b"]
    assert choices(int) == []
