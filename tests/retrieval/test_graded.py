"""Claims about measures of one list: worked by hand, and as trec_eval computes them."""

from math import log2

import numpy as np
import pytest

from edje.errors import EdjeError
from edje.retrieval.graded import measure_named

GAINS = np.array([0.0, 2.0, 0.0, 1.0, 0.0])  # of four relevant pictures two are listed
IDEAL = np.array([3.0, 2.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("Success@1", 0), ("Success@2", 1), ("R@2", 1 / 4), ("R@10", 2 / 4)),
        *(("P@2", 1 / 2), ("P@4", 2 / 4), ("P@10", 2 / 10)),  # what a short list lacks is wrong
        *(("AP", (1 / 2 + 2 / 4) / 4), ("AP@3", 1 / 2 / 4), ("RR", 1 / 2), ("RR@1", 0)),
        ("nDCG@2", (2 / log2(3)) / (3 + 2 / log2(3))),
        ("nDCG", (2 / log2(3) + 1 / log2(5)) / (3 + 2 / log2(3) + 1 / 2 + 1 / log2(5))),
    ],
)
def test_a_measure_is_the_one_worked_by_hand(name: str, value: float) -> None:
    assert measure_named(name)(GAINS, IDEAL) == pytest.approx(value, abs=1e-12)
    assert measure_named(name)(np.array([]), IDEAL) == 0


def test_the_best_list_earns_everything() -> None:
    for name in ("Success@1", "R@4", "P@4", "AP", "RR", "nDCG", "nDCG@2"):
        assert measure_named(name)(IDEAL, IDEAL) == pytest.approx(1)


@pytest.mark.parametrize("name", ["recall@1", "R", "P@0", "nDCG@", "ndcg@10", "AP@x", "RR@1.5"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(EdjeError, match=r"measures: got .*expected Success@k, R@k"):
        measure_named(name)
