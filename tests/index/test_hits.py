import time
from dataclasses import replace

import torch

from edje.index.hits import Hit, cosines, grouped


def hit(name: str) -> Hit:
    return Hit(name, f"/{name}", 1.0, None, 0.5, 1)


def test_each_near_duplicate_belongs_to_the_best_hit_that_it_is_close_to() -> None:
    angles = torch.tensor([0.0, 0.1, 0.19, 1.0, 0.05]).mul(torch.pi / 2)
    tokens = torch.stack([angles.cos(), angles.sin()], dim=1)[:, :, None]  # two of width 1
    hits = [hit(name) for name in "abcde"]  # cos(0.1 · 90°) = 0.988, cos(0.19 · 90°) = 0.956
    cosine = cosines(tokens)
    found = grouped(hits, cosine, 5, 0.98)
    assert [(one.id, one.duplicates) for one in found] == [("a", ("b", "e")), ("c", ()), ("d", ())]
    assert [one.id for one in grouped(hits, cosine, 2, 0.98)] == ["a", "c"]
    assert [one.id for one in grouped(hits, cosine, 5, 0.95)] == ["a", "d"]
    assert grouped([], cosines(torch.empty(0, 2, 1)), 5, 0.98) == []


def test_equal_pictures_are_near_duplicates_at_a_cosine_of_1() -> None:
    """Whatever the rounding of the cosine of equal tokens."""
    one = torch.randn(50, 64, 1024, generator=torch.Generator().manual_seed(0))
    hits = [hit(f"{number}") for number in range(150)]
    found = grouped(hits, cosines(one.repeat(3, 1, 1)), 150, 1.0)
    assert (cosines(one.half()).diagonal() - 1).abs().max() < 1e-5  # also of tokens in 16 bits
    assert [hit.duplicates for hit in found] == [(f"{n + 50}", f"{n + 100}") for n in range(50)]


def test_thousands_of_distinct_pictures_are_grouped_at_once() -> None:
    hits = [hit(f"{number}") for number in range(3000)]
    began = time.process_time()
    found = grouped(hits, torch.eye(3000), 3000, 0.8)
    assert (
        time.process_time() - began < 2
    )  # 0.03 s on a 2-core Intel Xeon; pair by pair, 2,000 took 4
    assert found == hits


def test_a_hit_without_a_probability_shows_its_score() -> None:
    assert str(hit("a.png")).split() == ["1.000", "a.png"]


def test_a_hit_is_one_line_with_its_probability_and_the_number_of_its_near_duplicates() -> None:
    sure = replace(hit("a\n\x1b[1m\u2028é.png"), probability=0.5, duplicates=("b",))
    assert str(sure).strip() == r"50.0%  a\n\x1b[1m\u2028é.png  (+1 near duplicate)"
    assert str(replace(sure, duplicates=("b", "c"))).endswith("  (+2 near duplicates)")
