"""Claims about recall on dev in training: what is logged, and which weights are kept."""

import logging
import math

import lightning as L
import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.training.callbacks import ResumableCheckpoint, StepProgress
from edje.training.development_recall import DevelopmentRecall
from edje.training.optimisation import Optimisation
from edje.training.reranker_module import RerankerModule
from tests.tiny.rerankers import tiny_pairs, tiny_reranker

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*",
    "ignore:.*`isinstance.treespec, LeafSpec.`.*",
    "ignore:.*your dataloader is not resumable.*",  # a list of equal batches
)
FIGURE = "dev/t2i_recall@1"
HALF, ALL, THIRD = [1.0, 7.0], [1.0, 1.0], [1.0, 3.0, math.inf]


def module() -> RerankerModule:
    torch.manual_seed(0)
    given = tiny_reranker(), {"matching": Matching()}, HardNegatives(count=1, pool=1)
    return RerankerModule(*given, Optimisation(), 4, 1, {})


class Watch(L.Callback):
    """What stood in the log behind each step."""

    def __init__(self):
        self.logged = []

    def on_train_batch_end(self, trainer, *args):
        found = trainer.callback_metrics
        self.logged.append({k: v.item() for k, v in found.items() if k.startswith("dev/")})


def trained(tmp_path, ranks, best=None, *, patience=None, every=1, accumulate=1, **other):
    """The callback, the log after each step, and the steps at which weights were kept."""
    due, kept, watch = iter(ranks), [], Watch()
    callback = DevelopmentRecall(
        lambda: torch.tensor(next(due)),
        lambda: kept.append(trainer.global_step),
        every,
        FIGURE,
        patience,
    )
    if best is not None:
        callback.load_state_dict({"best": best})
    shown = other.pop("callbacks", [])
    resume = other.pop("resume", None)
    options = {"logger": False, "enable_progress_bar": bool(shown)} | other
    trainer = L.Trainer(
        max_steps=len(ranks) * every,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=str(tmp_path),
        accumulate_grad_batches=accumulate,
        callbacks=[callback, watch, ResumableCheckpoint(tmp_path, 1000, "resume"), *shown],
        **options,
    )
    part = module()
    part.transfer_batch_to_device = lambda batch, device, index: batch
    batches = [tiny_pairs(6)] * (len(ranks) * every * accumulate)
    trainer.fit(part, DataLoader(batches, batch_size=None), ckpt_path=resume, weights_only=True)
    return callback, watch.logged, kept


def test_every_score_is_of_its_own_queries_and_the_best_weights_are_kept(tmp_path):
    callback, logged, kept = trained(tmp_path, [HALF, ALL, THIRD])
    assert [figures[FIGURE] for figures in logged] == pytest.approx([50.0, 100.0, 100 / 3])
    assert [figures["dev/t2i_recall@5"] for figures in logged] == pytest.approx([50, 100, 200 / 3])
    assert logged[0]["dev/t2i_recall@10"] == 100.0
    assert kept == [1, 2] and callback.state_dict() == {"best": 100.0, "since_best": 1}


@pytest.mark.parametrize("best", [100 * (1 / 3), torch.tensor(100 / 3).item()])
def test_a_resumed_run_keeps_nothing_that_is_only_as_good(best, tmp_path):
    """Also where a former version kept its best in double precision, a hair below."""
    assert trained(tmp_path, [THIRD], best)[2] == []
    assert trained(tmp_path, [HALF], best)[2] == [1]


def test_a_checkpoint_holds_nothing_of_the_metrics():
    assert all(name.startswith("model.") for name in module().state_dict())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_score_stands_in_the_log_at_its_own_step_and_nowhere_else(tmp_path, accumulate):
    logger = CSVLogger(tmp_path, "logs", "part_0")
    options = {"every": 3, "accumulate": accumulate, "logger": logger, "log_every_n_steps": 2}
    trained(tmp_path, [HALF, ALL, THIRD], **options)
    table = pd.read_csv(tmp_path / "logs" / "part_0" / "metrics.csv")
    scores = table[["step", FIGURE]].dropna().astype(float)
    assert scores["step"].tolist() == [2, 5, 8]  # which the log counts from 0
    assert scores[FIGURE].tolist() == pytest.approx([50.0, 100.0, 100 / 3], rel=1e-5)
    assert table.loc[table["train/loss"].notna(), "step"].tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_training_stops_when_patience_runs_out_and_says_so(tmp_path, accumulate, caplog):
    ranks = [HALF, ALL, THIRD, ALL, HALF, HALF]
    with caplog.at_level(logging.INFO):
        callback, logged, kept = trained(tmp_path, ranks, patience=2, accumulate=accumulate)
    assert len(logged) == 4 * accumulate and kept == [1, 2]
    assert (callback.best, callback.since_best) == (100.0, 2)
    assert (
        "stopped early, at step 4 of 6: dev/t2i_recall@1 did not rise above 100.00 again (scores "
        "since then: 2, scoring.patience=2)"
    ) in caplog.text
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert last["global_step"] == 4


def test_a_new_best_gives_patience_anew(tmp_path):
    ranks = [THIRD, THIRD, HALF, HALF, ALL, HALF]
    assert len(trained(tmp_path, ranks, patience=2)[1]) == 6


def test_a_stopped_run_trains_no_step_when_resumed_and_goes_on_with_more_patience(tmp_path):
    stopped = [HALF, HALF, HALF, HALF, HALF]
    assert len(trained(tmp_path, stopped, patience=1)[1]) == 2
    last = tmp_path / "last.ckpt"
    callback, logged, kept = trained(tmp_path, stopped, patience=1, resume=last)
    assert (logged, kept, callback.since_best) == ([], [], 1)
    _, logged, kept = trained(tmp_path, stopped, patience=3, resume=last)
    assert len(logged) == 2 and kept == []  # steps 3 and 4: three scores without a new best
    last.unlink()


class Screen(StepProgress):
    """Keeps what stands beside the bar at each of its moves."""

    def __init__(self):
        super().__init__([FIGURE, "train/loss"], clock=iter(range(10**6)).__next__)
        self.seen = {}

    def on_train_batch_end(self, trainer, *args):
        super().on_train_batch_end(trainer, *args)
        self.seen[trainer.global_step] = dict(self.get_metrics(trainer, None))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_bar_shows_the_last_score_with_accumulated_batches_and_after_a_resume(
    tmp_path, accumulate
):
    options = {"every": 2, "accumulate": accumulate}
    first = Screen()
    trained(tmp_path, [HALF, ALL], callbacks=[first], **options)
    assert {step: shown.get(FIGURE) for step, shown in first.seen.items() if step} == {
        1: None, 2: 50.0, 3: 50.0, 4: 100.0,
    }  # fmt: skip
    again, last = Screen(), tmp_path / "last.ckpt"
    trained(tmp_path, [HALF, HALF, HALF, THIRD], callbacks=[again], resume=last, **options)
    assert sorted(step for step in again.seen if step > 4) == [5, 6, 7, 8]
    assert again.seen[6][FIGURE] == again.seen[7][FIGURE] == 50.0
    assert again.seen[8][FIGURE] == 50.0 and "train/loss" in again.seen[5]


def test_the_best_score_has_the_name_in_checkpoints_that_version_0_1_gave_it():
    callback = DevelopmentRecall(lambda: torch.ones(1), lambda: None, 1, FIGURE)
    assert callback.state_key == "DevelopmentScore"
