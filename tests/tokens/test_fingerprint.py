"""Claims about fingerprints."""

from pathlib import Path

import pytest

from edje.tokens.fingerprint import Fingerprint, store_folder


def test_the_digest_ignores_the_order_of_facts_and_nothing_else() -> None:
    digest = Fingerprint({"layer": -1, "name": "tiny"}).digest
    assert digest == Fingerprint({"name": "tiny", "layer": -1}).digest
    others = [{"name": "tiny", "layer": -2}, {"name": "tiny"}, {"name": "tiny", "layer": "-1"}]
    assert len({digest, *(Fingerprint(fields).digest for fields in others)}) == 4
    assert len(digest) == 64


def test_a_fingerprint_keeps_its_facts_whatever_becomes_of_the_given_ones() -> None:
    given = {"layer": -1}
    kept = Fingerprint(given)
    given["layer"] = -2
    assert kept == Fingerprint({"layer": -1})
    with pytest.raises((TypeError, ValueError)):
        Fingerprint(3)  # type: ignore[arg-type]


def test_differences_are_named_with_both_values() -> None:
    store = Fingerprint({"layer": -1, "name": "tiny", "codec": "fp16"})
    asked = Fingerprint({"layer": -2, "name": "tiny", "adapter": "abc"})
    assert store.differences(asked) == [
        "adapter: store has nothing, run needs abc",
        "codec: store has fp16, run needs nothing",
        "layer: store has -1, run needs -2",
    ]
    assert store.differences(store) == []


def test_a_fact_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError):
        _ = Fingerprint({"scale": float("nan")}).digest


def test_stores_of_other_fingerprints_live_elsewhere() -> None:
    first, second = Fingerprint({"layer": -1}), Fingerprint({"layer": -2})
    folder = store_folder("cache", "shapes", "train", "raw", first)
    assert folder == Path("cache/shapes-train") / f"raw-{first.digest[:12]}"
    assert folder != store_folder("cache", "shapes", "train", "raw", second)
