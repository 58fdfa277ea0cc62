"""Claims about the precision of a training's ranks."""

import logging

import pytest

from edje.errors import EdjeError
from edje.training.one_precision import OnePrecision
from tests.tiny.training import module, quiet_trainer


def test_the_precision_of_a_training_is_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "edje"):
        OnePrecision().on_fit_start(quiet_trainer(tmp_path, 1), module(1))
    assert caplog.messages[-1] == "training in precision 32-true on cpu"


def test_ranks_of_unlike_processors_are_refused(tmp_path, monkeypatch):
    ranks = ["32-true", "bf16-mixed", "32-true"]
    monkeypatch.setattr("edje.training.one_precision.of_every_rank", lambda own: ranks)
    said = r"would .*: 32-true \(2 of 3 ranks\), bf16-mixed \(1 of 3 ranks\)\. Set trainer\."
    with pytest.raises(EdjeError, match=said):
        OnePrecision().on_fit_start(quiet_trainer(tmp_path, 1), module(1))
