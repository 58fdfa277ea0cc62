"""Claims about training on a device: a few steps of everything that a run may switch on."""

import math

import lightning as L
import pytest
import torch
from torch import Tensor, distributed

from edje.inference.scorer import ScoringSet, StoredTokenScorer
from edje.training.callbacks import ResumableCheckpoint
from edje.training.compilation import compile_layers
from edje.training.development_recall import DevelopmentRecall
from tests.gpu.fitting import USUAL, Fitted, fit
from tests.gpu.sizes import (
    DEVICE,
    IS_REAL,
    LOCAL,
    ON_GPU,
    RawTokens,
    needs_real_gpu,
    not_pretended,
    reranker,
    texts,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings(
        "ignore:.*does not have many workers.*",
        "ignore:.*`isinstance.treespec, LeafSpec.`.*",
        "ignore:.*This process .* is multi-threaded, use of fork.*",
    ),
]


def is_sound(fitted: Fitted) -> bool:
    """A finite loss moved the weights."""
    return math.isfinite(fitted.loss) and math.isfinite(fitted.moved) and fitted.moved > 0


@pytest.mark.parametrize(
    "precision", ["32-true", "bf16-mixed", pytest.param("16-mixed", marks=needs_real_gpu)]
)
def test_every_precision_trains(precision, raw: RawTokens, tmp_path):
    """Ten steps, as the first ones in fp16 find the scale of the loss and move nothing."""
    assert is_sound(fit(reranker(), raw, tmp_path, precision=precision, steps=10 if IS_REAL else 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_pinned_for_a_gpu_and_are_unpacked_where_they_are_trained_on(
    workers, raw: RawTokens, tmp_path
):
    found = []

    class Look(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            pairs = trainer.datamodule.training
            expected = raw.tokens[pairs.image_of_caption[batch.sample_ids.cpu()]].float()
            found.append(batch.tokens.device.type == DEVICE.type)
            found.append(torch.equal(batch.tokens.cpu(), expected))
            found.append(trainer.train_dataloader.pin_memory is ON_GPU)

    assert is_sound(fit(reranker(), raw, tmp_path, workers=workers, callbacks=[Look()]))
    assert len(found) == 9 and all(found)


def test_loaders_may_be_forked_after_the_device_is_in_use(raw: RawTokens, tmp_path):
    torch.zeros(1, device=DEVICE)
    assert is_sound(fit(reranker(), raw, tmp_path, workers=4 if IS_REAL else 1))


def test_a_teacher_comes_to_the_device_of_the_model(raw: RawTokens, tmp_path):
    terms, teacher = (*USUAL, "distillation"), reranker(LOCAL)
    assert is_sound(fit(reranker(), raw, tmp_path, terms, teacher=teacher, batch=6))


def test_late_fusion_with_evidence_and_residual_trains(raw: RawTokens, tmp_path):
    model = reranker(residual=True, fusion_layer=2, evidence=True, evidence_layers=(1,))
    assert is_sound(fit(model, raw, tmp_path, ("matching", "alignment")))


@pytest.mark.compilers
@not_pretended
@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
def test_compiled_layers_train(raw: RawTokens, tmp_path, compiling):
    model = reranker()
    compile_layers(model, "inductor" if IS_REAL else "eager")
    assert is_sound(fit(model, raw, tmp_path, steps=6 if IS_REAL else 1))


@not_pretended
@pytest.mark.filterwarnings("ignore:.*(barrier|Guessing device ID).*")
def test_one_process_trains_as_a_rank_of_ddp(raw: RawTokens, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # else Lightning gives this process all cores
    try:
        assert is_sound(fit(reranker(), raw, tmp_path, strategy="ddp"))
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def test_recall_on_dev_is_counted_on_the_device_of_the_training(raw: RawTokens, tmp_path):
    kept, ranks = [], iter(([1.0, 3.0], [1.0, 1.0]))
    callback = DevelopmentRecall(
        lambda: torch.tensor(next(ranks)), lambda: kept.append(True), 2, "dev/t2i_recall@1"
    )
    assert is_sound(fit(reranker(), raw, tmp_path, steps=4, callbacks=[callback]))
    assert len(kept) == 2 and callback.best == 100.0


def test_a_development_score_between_steps_leaves_the_training_on_its_device(
    raw: RawTokens, tmp_path
):
    model, scores = reranker(), []

    def score() -> Tensor:
        assert next(model.parameters()).device.type == DEVICE.type
        rows = torch.arange(4)
        with torch.inference_mode():
            visual = model.compress(raw.store.read(rows, device=DEVICE)).float().cpu()
        scorer = StoredTokenScorer(model, ScoringSet(texts(4), visual), torch.bfloat16)
        scores.append(float(scorer("t2i", rows, rows, torch.zeros(4)).mean()))
        return torch.ones(1)

    callbacks = [
        DevelopmentRecall(score, lambda: None, 2, "dev/t2i_recall@1"),
        ResumableCheckpoint(tmp_path, 3, "resume"),
    ]
    assert is_sound(fit(model, raw, tmp_path, steps=4, callbacks=callbacks))
    assert len(set(scores)) == 2 and all(math.isfinite(value) for value in scores)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True, map_location="cpu")
    assert kept["global_step"] == 4
    for name, weight in model.state_dict().items():
        assert torch.equal(kept["state_dict"][f"model.{name}"], weight.cpu()), name
