"""Calibrations in a checkpoint: what is written comes back, and files without them open."""

from dataclasses import replace

import torch

from edje.inference.checkpoint import (
    AdapterSpecification,
    keep_first_tokens,
    load_checkpoint,
    save_checkpoint,
)
from edje.retrieval.calibration import Calibration, OperatingPoint
from tests.tiny.rerankers import COMPRESSION, tiny_checkpoint

NESTED = AdapterSpecification(COMPRESSION.target, {**COMPRESSION.choices, "budgets": [2, 4]})


def calibration(intercept: float) -> Calibration:
    points = (OperatingPoint(0.1, 0.5, 1.0), OperatingPoint(0.9, 0.95, 0.4))
    return Calibration("sum", intercept, 1.0, 0.2, 2.0, 0.5, -0.3, 50, 1000, 800, points)


FITTED = {
    2: {"t2i": calibration(-1.0), "i2t": calibration(-2.0)},
    4: {"t2i": calibration(-3.0), "i2t": calibration(-4.0)},
}


def test_a_checkpoint_keeps_them_by_number_of_tokens_and_direction(tmp_path):
    save_checkpoint(replace(tiny_checkpoint(NESTED), calibration=FITTED), tmp_path / "model.ckpt")
    assert load_checkpoint(tmp_path / "model.ckpt").calibration == FITTED
    stored = torch.load(tmp_path / "model.ckpt", weights_only=True)["edje"]["calibration"]
    assert stored[2]["i2t"]["per_root_lead"] == 2.0
    assert stored[2]["i2t"]["operating_points"] == [[0.1, 0.5, 1.0], [0.9, 0.95, 0.4]]


def test_a_checkpoint_of_a_former_version_opens_without_any(tmp_path):
    save_checkpoint(tiny_checkpoint(), tmp_path / "model.ckpt")
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    del content["edje"]["calibration"]
    torch.save(content, tmp_path / "former.ckpt")
    assert load_checkpoint(tmp_path / "former.ckpt").calibration == {}


def test_fewer_tokens_have_the_calibration_fitted_with_so_many():
    given = replace(tiny_checkpoint(NESTED), calibration=FITTED)
    assert keep_first_tokens(given, 2).calibration == {2: FITTED[2]}
    few = replace(given, calibration={2: FITTED[2]})
    assert keep_first_tokens(few, 4).calibration == {} and given.calibration == FITTED
