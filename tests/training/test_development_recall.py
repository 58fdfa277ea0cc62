"""Claims about recall on dev in training: what is logged, and which weights are kept."""

import math

import lightning as L
import pytest
import torch
from tiny import tiny_pairs, tiny_reranker
from torch.utils.data import DataLoader

from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.training.development_recall import DevelopmentRecall
from edje.training.optimisation import Optimisation
from edje.training.reranker_module import RerankerModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*`isinstance.treespec, LeafSpec.`.*"
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


def trained(tmp_path, ranks, best=None):
    """The callback, the log after each step, and the steps at which weights were kept."""
    due, kept, watch = iter(ranks), [], Watch()
    callback = DevelopmentRecall(
        lambda: torch.tensor(next(due)), lambda: kept.append(trainer.global_step), 1, FIGURE
    )
    if best is not None:
        callback.load_state_dict({"best": best})
    trainer = L.Trainer(
        max_steps=len(ranks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        default_root_dir=str(tmp_path),
        callbacks=[callback, watch],
    )
    part = module()
    part.transfer_batch_to_device = lambda batch, device, index: batch
    trainer.fit(part, DataLoader([tiny_pairs(6)] * len(ranks), batch_size=None))
    return callback, watch.logged, kept


def test_every_score_is_of_its_own_queries_and_the_best_weights_are_kept(tmp_path):
    callback, logged, kept = trained(tmp_path, [HALF, ALL, THIRD])
    assert [figures[FIGURE] for figures in logged] == pytest.approx([50.0, 100.0, 100 / 3])
    assert [figures["dev/t2i_recall@5"] for figures in logged] == pytest.approx([50, 100, 200 / 3])
    assert logged[0]["dev/t2i_recall@10"] == 100.0
    assert kept == [1, 2] and callback.state_dict() == {"best": 100.0}


@pytest.mark.parametrize("best", [100 * (1 / 3), torch.tensor(100 / 3).item()])
def test_a_resumed_run_keeps_nothing_that_is_only_as_good(best, tmp_path):
    """Also where a former version kept its best in double precision, a hair below."""
    assert trained(tmp_path, [THIRD], best)[2] == []
    assert trained(tmp_path, [HALF], best)[2] == [1]


def test_a_checkpoint_holds_nothing_of_the_metrics():
    assert all(name.startswith("model.") for name in module().state_dict())
