from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from edje.errors import EdjeError
from edje.sweeps.search_space import SearchSpace, search_space

distributions = pytest.importorskip(
    "optuna.distributions", reason="optuna is not installed: edje[sweep]"
)
Float, Int = distributions.FloatDistribution, distributions.IntDistribution
Choice = distributions.CategoricalDistribution


def space(*overrides: str) -> SearchSpace:
    return search_space(OverridesParser.create().parse_overrides(list(overrides)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(1e-5, 1e-3)", Float(1e-5, 1e-3)),
        ("tag(log, interval(1e-5, 1e-3))", Float(1e-5, 1e-3, log=True)),
        ("int(interval(2, 7))", Int(2, 7)),
        ("int(tag(log, interval(2, 70)))", Int(2, 70, log=True)),
        ("range(3)", Int(0, 2)),
        ("range(2,9,3)", Int(2, 8, step=3)),
        ("range(8,1,-3)", Int(2, 8, step=3)),
        ("range(0,1,0.25)", Float(0.0, 0.75, step=0.25)),
        ("16,32", Choice((16, 32))),
        ("16,null", Choice((16, "null"))),
        ("choice(16,0.5,true,a,'b c',[1,2])", Choice((16, 0.5, True, "a", r"b\ c", "[1,2]"))),
        ("'b c',d", Choice(("'b c'", "d"))),
    ],
)  # fmt: skip
def test_hydras_words_for_sweeps_are_distributions(text: str, expected: Any) -> None:
    assert space(f"++a.b={text}").distributions == {"a.b": expected}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", "no key has values to choose from"),
        ("a=tag(log, interval(0, 1))", "a=tag(log, interval(0, 1)): "),
        ("a=interval(2, 1)", "a=interval(2, 1): "),
        ("a=tag(lgo, interval(1, 2))", "the tag lgo is unknown here: expected log, or no tag."),
        ("a=tag(log, choice(1, 2))", "the tag log is unknown here: a choice takes none."),
        ("a=range(5,2)", "a=range(5,2): this range contains no number."),
    ],
)
def test_what_spans_no_values_is_a_clear_message(text: str, expected: str) -> None:
    with pytest.raises(EdjeError) as raised:
        space(text)
    assert expected in str(raised.value)


def test_a_jobs_overrides_are_the_fixed_ones_and_its_values() -> None:
    spanned = space("++a=1", "~c", "++b=choice('x y',z)", "adapter=p,q")
    assert spanned.overrides({"b": "'x y'", "adapter": "q"}) == [
        "++a=1", "~c", "++b='x y'", "adapter=q"
    ]  # fmt: skip


def test_the_later_of_two_overrides_holds_whatever_their_prefixes() -> None:
    spanned = space("a=1,2", "b=interval(0,1)", "c=3", "++a=5", "+c=6,7")
    assert set(spanned.distributions) == {"b", "c"}
    assert spanned.overrides({"b": 0.5, "c": 6}) == ["++a=5", "b=0.5", "+c=6"]


def test_the_corners_have_each_choice_and_both_ends_of_intervals() -> None:
    assert space("a=1,2,3", "b=interval(0,1)").corners() == [
        {"a": 1, "b": 0.0}, {"a": 2, "b": 1.0}, {"a": 3, "b": 1.0}
    ]  # fmt: skip
