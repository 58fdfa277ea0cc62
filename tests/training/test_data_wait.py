"""Claims about the share of training that is waiting for data."""

import logging
from types import SimpleNamespace

import lightning as L
import pytest

from edje.data.datamodules.stored_pairs import PairDataset
from edje.training.data_wait import DataWait
from tests.tiny.training import fit

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*`isinstance.treespec, LeafSpec.`.*"
)


class Log:
    def __init__(self):
        self.shares = []

    def log(self, name, value):
        assert name == "time/data_wait"
        self.shares.append(value)


def test_the_share_is_of_the_time_since_the_first_step_and_said_at_the_end(caplog):
    moments = iter([10.0, 13.0, 14.0, 18.0, 18.0, 20.0])  # steps of 3, 4 and 2 s, waits of 1 and 0
    wait, module = DataWait(clock=lambda: next(moments)), Log()
    for step in range(3):
        wait.on_train_batch_start(None, module, None, step)
        wait.on_train_batch_end(None, module, None, None, step)
    assert module.shares == [0.0, 1 / 8, 1 / 10]
    with caplog.at_level(logging.INFO):
        wait.on_train_end(None, module)
    assert "waiting for data: 10.0% of the training time" in caplog.text


def test_a_run_without_a_step_waits_for_nothing():
    assert DataWait().share == 0.0


class Steps(L.Callback):
    """A step takes a hundredth of a second of the clock."""

    def __init__(self, clock):
        self.clock = clock

    def on_before_backward(self, trainer, pl_module, loss):
        self.clock.now += 0.01


@pytest.mark.parametrize(("reading", "share"), [(0.05, 0.15 / 0.19), (0.0, 0.0)])
def test_slow_reading_is_waiting_and_slow_steps_are_not(tmp_path, monkeypatch, reading, share):
    """Four steps, with three reads between them, by a clock that nothing else moves."""
    clock, read = SimpleNamespace(now=0.0), PairDataset.__getitems__

    def slowly(self, captions):
        clock.now += reading
        return read(self, captions)

    monkeypatch.setattr(PairDataset, "__getitems__", slowly)
    wait = DataWait(clock=lambda: clock.now)
    fit(tmp_path, 4, callbacks=[Steps(clock), wait])
    assert wait.waited == pytest.approx(3 * reading)
    assert wait.share == pytest.approx(share)
