"""Whether probabilities are honest, on searches whose truth is known."""

import pytest
import torch

from edje.retrieval.reliability import (
    ReliabilityBin,
    calibration_error,
    error_by_chance,
    reliability,
)


def test_bins_worked_by_hand():
    probability = torch.tensor([0.99, 0.02, 1.0, 0.095, 0.5, 0.0, 0.85], dtype=torch.float64)
    right = torch.tensor([True, False, False, True, True, False, True])
    found = reliability(probability, right)
    assert [one.searches for one in found] == [3, 1, 1, 2]
    assert [one.right for one in found] == pytest.approx([1 / 3, 1.0, 1.0, 0.5])
    assert [one.probability for one in found] == pytest.approx([0.115 / 3, 0.5, 0.85, 0.995])
    gaps = 3 * (1 / 3 - 0.115 / 3) + 0.5 + 0.15 + 2 * 0.495
    assert calibration_error(found) == pytest.approx(gaps / 7, abs=1e-4)


def test_boasting_is_found():
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(4000, generator=generator, dtype=torch.float64)
    right = torch.rand(4000, generator=generator, dtype=torch.float64) < true
    honest, boasting = (reliability(said, right) for said in (true, (true + 0.2).clamp(max=1.0)))
    assert calibration_error(honest) < 0.04 < 0.15 < calibration_error(boasting)


def test_honest_probabilities_show_the_error_of_chance_on_average():
    """Of 200 searches; the mean of 300 draws is within 0.002 of it."""
    generator = torch.Generator().manual_seed(0)
    errors, expected = [], []
    for _ in range(300):
        said = torch.rand(200, generator=generator, dtype=torch.float64)
        right = torch.rand(200, generator=generator, dtype=torch.float64) < said
        bins = reliability(said, right)
        errors.append(calibration_error(bins))
        expected.append(error_by_chance(bins))
    mean, chance = sum(errors) / 300, sum(expected) / 300
    assert mean == pytest.approx(chance, abs=0.004) and 0.05 < mean < 0.08


def test_certain_and_right_leaves_nothing_to_chance():
    bins = [ReliabilityBin(0.0, 0.0, 10), ReliabilityBin(1.0, 1.0, 3)]
    assert (calibration_error(bins), error_by_chance(bins)) == (0.0, 0.0)
