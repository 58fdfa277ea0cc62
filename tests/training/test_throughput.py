"""Claims about the pairs per second in the log."""

from types import SimpleNamespace

import lightning as L
import pytest

from edje.data.datamodules.stored_pairs import PairDataset
from edje.training.data_wait import DataWait
from edje.training.throughput import Throughput
from tests.tiny.training import fit

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*`isinstance.treespec, LeafSpec.`.*"
)


class Steps(L.Callback):
    """A step takes a hundredth of a second of the clock, what others do at its end a whole one."""

    def __init__(self, clock):
        self.clock, self.shown = clock, []

    def on_before_backward(self, trainer, pl_module, loss):
        self.clock.now += 0.01

    def on_train_batch_end(self, trainer, *args):
        self.clock.now += 1.0  # dev is scored
        self.shown.append(trainer.callback_metrics["time/pairs_per_second"].item())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_pairs_are_counted_by_the_time_of_steps_and_data_alone(tmp_path, monkeypatch, accumulate):
    """Batches of 6 pairs, by a clock that nothing else moves."""
    clock, read = SimpleNamespace(now=0.0), PairDataset.__getitems__

    def slowly(self, captions):
        clock.now += 0.05
        return read(self, captions)

    monkeypatch.setattr(PairDataset, "__getitems__", slowly)
    steps, wait = Steps(clock), DataWait(clock=lambda: clock.now)
    pace = Throughput(wait, clock=lambda: clock.now)
    fit(tmp_path, 3, callbacks=[pace, steps, wait], accumulate=accumulate)
    batches = range(1, 3 * accumulate + 1)  # before the first nothing is waited for
    expected = [6 * n / (0.01 * n + 0.05 * (n - 1)) for n in batches]
    assert steps.shown == pytest.approx(expected, rel=1e-5)


def test_it_looks_back_over_one_logged_interval():
    moments = iter([0.0, 1.0, 1.0, 2.0, 2.0, 5.0, 5.0, 6.0])  # steps of 1, 1, 3 and 1 seconds
    pace = Throughput(DataWait(), clock=lambda: next(moments))
    trainer = SimpleNamespace(log_every_n_steps=2, accumulate_grad_batches=1, world_size=2)
    found = []
    module = SimpleNamespace(log=lambda name, value: found.append(value.item()))
    pace.on_train_start(trainer, module)
    for step in range(4):
        batch = SimpleNamespace(sample_ids=range(8))
        pace.on_train_batch_start(trainer, module, batch, step)
        pace.on_train_batch_end(trainer, module, None, batch, step)
    assert found == [16.0, 16.0, 8.0, 8.0]  # of both ranks
