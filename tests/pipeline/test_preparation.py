"""What a training refuses or warns about as soon as its options are known."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.data.mixture.pretrain import PretrainSource
from edje.errors import EdjeError
from edje.inference.checkpoint import AdapterSpecification
from edje.objectives.masked_language import MaskedLanguage
from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.pipeline.preparation import Prepared, Training, prepare
from edje.pipeline.scoring import Scoring
from edje.training.optimisation import Optimisation
from tests.tiny.encoders import tiny_language_model
from tests.tiny.rerankers import COMPRESSION
from tests.tiny.towers import make_siglip


def training(weight: float = 1.0, warmup_steps: int = 0) -> Training:
    return Training(
        language_model=tiny_language_model,
        adapter=COMPRESSION,
        objectives={"matching": Matching(weight=weight), "masked": MaskedLanguage(weight=0.0)},
        negatives=HardNegatives(),
        optimisation=Optimisation(warmup_steps=warmup_steps),
        trainer={"max_steps": 4, "accelerator": "cpu", "devices": 1},
    )


def test_a_loss_without_a_weight_is_refused():
    with pytest.raises(EdjeError, match=r"objective: no term has a weight above 0.*weight=1\."):
        training(weight=0.0)


@pytest.mark.parametrize(
    ("config", "said"),
    [("a: [1", "config: it isn't valid YAML .*line 1"), ("[1]", "config: got a list, expected")],
)
def test_a_configuration_to_keep_that_is_no_yaml_of_values_is_refused(config, said):
    with pytest.raises(EdjeError, match=said):
        replace(training(), config=config)


@pytest.mark.parametrize(("warmup_steps", "warns"), [(3, False), (4, True)])
def test_a_warm_up_that_never_ends_is_told(warmup_steps, warns, caplog):
    with caplog.at_level(logging.WARNING, "edje"):
        training(warmup_steps=warmup_steps)
    said = f"optim.warmup_steps={warmup_steps}: with trainer.max_steps=4 the training ends before"
    assert any(message.startswith(said) for message in caplog.messages) is warns


MIXTURE = PretrainSource(sources={}, evaluated=None)


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Callable[..., Prepared]:
    """Prepares a training on a tiny tower, in a new folder or a given one."""
    tower = HuggingFaceBackbone(pretrained=str(make_siglip(tmp_path_factory.mktemp("tower"))))

    def begun(
        folder: Path | None = None,
        *,
        budgets: Any = None,
        source: Any = None,
        dev_images: int = 0,
        **changes: Any,
    ) -> Prepared:
        choices = {**COMPRESSION.choices, "budgets": budgets}
        adapter = AdapterSpecification(COMPRESSION.target, choices)
        source = source or SimpleNamespace(name="drawn", dev_images=dev_images, dev_seed=3)
        folder = folder or tmp_path_factory.mktemp("run")
        return prepare(replace(training(), adapter=adapter, **changes), tower, source, folder)

    return begun


def test_a_new_training_that_would_leave_tokens_untrained_is_refused(begun, tmp_path):
    for budgets in (None, [2, 4], [4, 1], "halves"):
        begun(budgets=budgets)
    with pytest.raises(
        EdjeError, match=r"budgets=\[2, 3\]: .* adapter\.num_tokens=4.*num_tokens=3"
    ):
        begun(tmp_path, budgets=[2, 3])
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()  # an earlier version began it
    assert begun(tmp_path, budgets=[2, 3]).checkpoint.model.adapter.budgets == (2, 3)


def test_a_new_training_that_would_be_scored_with_untrained_tokens_is_refused(begun, tmp_path):
    begun(budgets=[2, 4], scoring=Scoring(num_tokens=2))
    for budgets, said in (([2, 4], "trained for the first 2, 4"), (None, "only with all of its 4")):
        with pytest.raises(EdjeError, match=rf"num_tokens=3: .*{said}"):
            begun(tmp_path, budgets=budgets, scoring=Scoring(num_tokens=3))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"score": "residual", "source": MIXTURE}, "score=residual: its scale is fitted"),
        ({"score": "sum", "source": MIXTURE}, "score=sum: .*mixture holds none.*data.evaluated"),
        ({"score": "sum"}, "score=sum: its weight is fitted on images held back from training"),
        ({"scoring": Scoring(dev_every=5)}, "scoring.dev_every=5 scores images held back"),
    ],
)
def test_a_new_training_that_needs_images_held_back_is_refused_without_them(begun, changes, said):
    begun(source=changes.get("source"))
    with pytest.raises(EdjeError, match=said):
        begun(**changes)
    if "source" not in changes:
        begun(**changes, dev_images=5)


def test_the_scale_of_a_residual_on_a_cached_set_needs_no_images_held_back(begun):
    assert begun(score="residual").checkpoint.model.residual is not None


def test_a_checkpoint_says_which_images_its_training_held_back(begun):
    assert begun(dev_images=5).checkpoint.held_back == {"dev_images": 5, "dev_seed": 3}


def test_words_are_masked_only_with_a_mask_token(begun):
    def without_mask_token():
        language_model = tiny_language_model()
        language_model.tokenizer.mask_token = None
        return language_model

    with pytest.raises(
        EdjeError, match=r"objective\.masked replaces words by a mask token.*no mask"
    ):
        begun(language_model=without_mask_token)
    begun(language_model=without_mask_token, objectives={"matching": Matching()})
