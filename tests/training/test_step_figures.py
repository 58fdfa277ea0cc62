"""Claims about the learning rate and the gradient norm in the log."""

import lightning as L
import pytest
import torch

from edje.training.optimisation import Optimisation
from edje.training.step_figures import StepFigures
from tests.tiny.training import GradientNorms, fit

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*`isinstance.treespec, LeafSpec.`.*"
)


class Watch(L.Callback):
    """The figures after each optimiser step, and the rates by which it was made."""

    def __init__(self):
        self.figures, self.rates = [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        self.rates.append(rate)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            logged = trainer.callback_metrics
            names = ("optim/learning_rate", "optim/gradient_norm")
            self.figures.append([logged[name].item() for name in names])


def watched(folder, steps, *callbacks, **options):
    watch = Watch()
    fit(folder, steps, callbacks=[StepFigures(1e-3), watch, *callbacks], **options)
    return watch


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_rate_is_the_one_of_the_step_also_where_batches_are_accumulated(tmp_path, accumulate):
    watch = watched(tmp_path, 5, accumulate=accumulate)
    expected = [1e-3 * Optimisation(lr=1e-3, warmup_steps=2).factor(at, 5, 5) for at in range(5)]
    assert [rate for rate, _ in watch.figures] == pytest.approx(expected, rel=1e-6)
    assert watch.rates == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_norm_is_of_the_whole_step_before_clipping(tmp_path, accumulate):
    norms = GradientNorms()  # as the optimiser used them, up to the last step but one
    free = watched(tmp_path / "free", 4, norms, accumulate=accumulate, clip=None)
    found = [norm for _, norm in free.figures]
    assert found[:3] == pytest.approx(norms.seen, rel=1e-5)
    clipped = watched(tmp_path / "clipped", 4, accumulate=accumulate, clip=1e-6)
    assert clipped.figures[0][1] == pytest.approx(found[0], rel=1e-5)
    assert found[0] > 1e-3


def test_a_resumed_run_goes_on_with_the_figures_of_a_straight_one(tmp_path):
    straight = watched(tmp_path / "straight", 6, accumulate=2)
    watched(tmp_path / "cut", 6, _StopAfter(4), accumulate=2)
    last = tmp_path / "cut" / "last.ckpt"
    resumed = watched(tmp_path / "cut", 6, accumulate=2, resume=last)
    assert resumed.figures == straight.figures[4:]


class _StopAfter(L.Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.global_step >= self.steps


def test_the_adapter_s_scale_does_not_show(tmp_path):
    """The rate is the joint encoder's, whichever group the optimiser has first."""
    model = torch.nn.ModuleDict({"adapter": torch.nn.Linear(2, 2), "joint": torch.nn.Linear(2, 2)})
    _, schedule = Optimisation(lr=1e-3, adapter_lr_scale=5.0, warmup_steps=0).build(model, 10, 5)
    found = {}
    trainer = type("Run", (), {"lr_scheduler_configs": [type("Of", (), {"scheduler": schedule})]})
    module = torch.nn.Module()
    module.log = lambda name, value: found.update({name: value.item()})
    StepFigures(1e-3).on_before_optimizer_step(trainer, module, schedule.optimizer)
    assert found["optim/learning_rate"] == pytest.approx(1e-3)
