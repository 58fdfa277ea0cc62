"""A step is the optimiser's: what counts steps counts these, however many batches make one."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from edje.inference.checkpoint import AdapterSpecification
from edje.objectives.masked_language import MaskedLanguage
from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.training import reranker_module as reranker
from edje.training.callbacks import ResumableCheckpoint, StepProgress
from edje.training.development_recall import DevelopmentRecall
from edje.training.optimisation import Optimisation
from edje.training.reranker_module import RerankerModule
from tests.tiny.rerankers import COMPRESSION, tiny_pairs, tiny_reranker

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*`isinstance.treespec, LeafSpec.`.*"
)
MICRO, STEPS = 3, 4
BUDGETS = AdapterSpecification(
    COMPRESSION.target, {"num_tokens": 4, "hidden_width": 32, "budgets": [1, 2, 3, 4]}
)


class Easier(HardNegatives):
    """Keeps the pools that were drawn from."""

    def __init__(self):
        super().__init__(count=1, pool=5, easy_steps=STEPS)
        self.pools = []

    def pool_at(self, step):
        self.pools.append(super().pool_at(step))
        return self.pools[-1]


class Watch(L.Callback):
    """What a micro-batch was trained with."""

    def __init__(self):
        self.budgets, self.seeds, self.rates = [], [], []

    def on_before_backward(self, trainer, pl_module, loss):
        self.budgets.append(pl_module.model.adapter.drawn)
        self.seeds.append(torch.initial_seed())
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Four steps of three micro-batches, all of the same pairs."""
    folder = tmp_path_factory.mktemp("steps")
    torch.manual_seed(0)
    negatives, watch, masks, scored, saved = Easier(), Watch(), [], [], []
    module = RerankerModule(
        tiny_reranker(BUDGETS),
        {"matching": Matching(), "masked_language": MaskedLanguage()},
        negatives,
        Optimisation(lr=1e-3, warmup_steps=2, initial_lr=0.0),
        mask_id=4,
        steps_per_epoch=2,
        checkpoint_fields={},
    )
    module.transfer_batch_to_device = lambda batch, device, index: batch
    progress = StepProgress()
    keeping = ResumableCheckpoint(folder, 2, "resume")

    def score():
        scored.append(trainer.global_step)
        return torch.ones(1)

    keeping._save = lambda trainer: saved.append(trainer.global_step)
    trainer = L.Trainer(
        max_steps=STEPS,
        accumulate_grad_batches=MICRO,
        accelerator="cpu",
        logger=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=str(folder),
        callbacks=[
            DevelopmentRecall(score, lambda: None, 2, "dev/t2i_recall@1"),
            keeping,
            progress,
            watch,
        ],
    )
    original = reranker.masked_positions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            reranker, "masked_positions", lambda *a: masks.append(original(*a)) or masks[-1]
        )
        batches = DataLoader([tiny_pairs(8)] * (MICRO * STEPS), batch_size=None)
        trainer.fit(module, batches)
    bar = progress.train_progress_bar
    return {
        "pools": negatives.pools[::2],  # of either direction
        "budgets": watch.budgets,
        "seeds": watch.seeds,
        "rates": watch.rates,
        "masks": masks,
        "scored": scored,
        "saved": saved,
        "bar": (bar.n, bar.total),
    }


def by_step(values):
    return [values[start : start + MICRO] for start in range(0, len(values), MICRO)]


def test_a_curriculum_counts_optimiser_steps(run):
    assert by_step(run["pools"]) == [[5] * MICRO, [4] * MICRO, [3] * MICRO, [2] * MICRO]


def test_a_budget_is_drawn_for_a_whole_step(run):
    steps = by_step(run["budgets"])
    assert all(len(set(step)) == 1 for step in steps)
    assert len({step[0] for step in steps}) > 1


def test_the_rate_warms_up_by_optimiser_steps(run):
    assert by_step(run["rates"])[:3] == [[0.0] * MICRO, [5e-4] * MICRO, [1e-3] * MICRO]


def test_masks_and_dropout_differ_within_a_step(run):
    assert len(set(run["seeds"])) == len(run["seeds"]) == MICRO * STEPS
    assert len(run["masks"]) == MICRO * STEPS
    assert not any(torch.equal(one, other) for one, other in pairwise(run["masks"]))


def test_scores_and_checkpoints_fall_due_by_optimiser_steps(run):
    assert run["scored"] == [2, 4]
    assert run["saved"] == [2, 4, 4]  # and at the end


def test_the_bar_shows_optimiser_steps(run):
    assert run["bar"] == (STEPS, STEPS)


@pytest.mark.parametrize("own", [False, True])
def test_a_short_batch_is_counted_and_said_now_and_then(own, caplog):
    torch.manual_seed(0)
    rule = HardNegatives(count=2, pool=2)
    module = RerankerModule(
        tiny_reranker(), {"matching": Matching()}, rule.__call__ if own else rule,
        Optimisation(), 4, 1, {},
    )  # fmt: skip
    named = replace(tiny_pairs(6), caption_keys=torch.tensor([0, 0, 0, 0, 0, 1]))
    for step in range(5):
        outputs = module(named, step)
    assert Matching()(outputs).isfinite()
    assert module.missing_negatives == 5 * (5 + 6)  # the rare one has no second wrong caption
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3 and "short batch no. 4" in said[-1]
    assert "13 of the 24 wrong images and captions" in said[0]
    module(tiny_pairs(6), 5)
    assert module.missing_negatives == 55

    saved = {}
    module.on_save_checkpoint(saved)
    module.missing_negatives = 0
    module.on_load_checkpoint(saved)
    assert module.missing_negatives == 55
    module.on_load_checkpoint({})  # of a run before
    assert module.missing_negatives == 0


def test_a_row_without_negatives_teaches_matching_nothing():
    """All captions are true of image 0 and its own: only the others' rows move the weights."""
    torch.manual_seed(0)
    module = RerankerModule(
        tiny_reranker(), {"matching": Matching()}, HardNegatives(count=2, pool=2),
        Optimisation(), 4, 1, {},
    )  # fmt: skip
    batch = replace(
        tiny_pairs(6),
        image_ids=torch.tensor([0, 0, 1, 2, 3, 4]),
        caption_keys=torch.tensor([0, 1, 0, 0, 0, 0]),
    )
    outputs = module(batch, 0)
    assert outputs.pairs.t2i_presence.has_negative.tolist() == [False, True, *[False] * 4]
    assert outputs.pairs.i2t_presence.has_negative.tolist() == [False, False, *[True] * 4]
    logits = outputs.pairs.t2i[1]
    t2i = torch.nn.functional.cross_entropy(logits[None], torch.zeros(1).long())
    pairs = outputs.pairs.i2t[2:, :2]
    i2t = torch.nn.functional.cross_entropy(pairs, torch.zeros(4).long())
    torch.testing.assert_close(Matching()(outputs), (t2i + i2t) / 2)


def test_the_bar_looks_at_its_figures_once_a_second():
    """A look waits for the device."""
    clock, looks = SimpleNamespace(now=0.0), []

    class Figure:
        def item(self):
            looks.append(clock.now)
            return clock.now

    progress = StepProgress(("train/loss", "dev"), clock=lambda: clock.now)
    trainer = SimpleNamespace(callback_metrics={"train/loss": Figure(), "train/other": Figure()})
    shown = []
    for clock.now in (0.0, 0.4, 0.9, 1.1, 1.5, 2.2):
        shown.append(progress.get_metrics(trainer, None))
    assert [figures["train/loss"] for figures in shown] == [0.0, 0.0, 0.0, 1.1, 1.1, 2.2]
    assert looks == [0.0, 1.1, 2.2] and set(shown[-1]) == {"train/loss"}


@pytest.mark.parametrize("is_shown", [True, False])
def test_the_bar_is_drawn_as_often_as_any_bar_and_shows_the_last_step(tmp_path, capsys, is_shown):
    """Its output would fill the log of a long run."""
    clock, drawn = SimpleNamespace(now=0.0), []

    class Drawn(StepProgress):
        def init_train_tqdm(self):
            bar = super().init_train_tqdm()
            if not bar.disable:
                bar.mininterval = 30.0
            refresh = bar.refresh
            bar.refresh = lambda *given, **options: (
                drawn.append(bar.n),
                refresh(*given, **options),
            )
            return bar

        def on_train_batch_end(self, trainer, *given):
            clock.now = 10.0 * trainer.global_step
            super().on_train_batch_end(trainer, *given)

    progress = Drawn(clock=lambda: clock.now)
    if not is_shown:
        progress.disable()  # as Lightning does on ranks above 0
    trainer = L.Trainer(
        max_steps=8,
        accelerator="cpu",
        logger=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=str(tmp_path),
        callbacks=[progress],
    )
    trainer.fit(OneWeight(), DataLoader(torch.ones(8, 1)))
    written = capsys.readouterr()
    assert "8/8" not in written.out and ("8/8" in written.err) == is_shown
    if is_shown:
        assert sorted(set(drawn)) == [0, 1, 4, 7, 8]


class OneWeight(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, index):
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
