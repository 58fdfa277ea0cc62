"""What a training refuses or warns about as soon as its options are known."""

import logging
from dataclasses import replace

import pytest

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.errors import EdjeError
from edje.objectives.masked_language import MaskedLanguage
from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.pipeline.preparation import Training, new_checkpoint
from edje.training.optimisation import Optimisation
from tests.tiny.encoders import tiny_language_model
from tests.tiny.rerankers import COMPRESSION
from tests.tiny.towers import save_clip


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


@pytest.mark.parametrize(("warmup_steps", "warns"), [(3, False), (4, True)])
def test_a_warm_up_that_never_ends_is_told(warmup_steps, warns, caplog):
    with caplog.at_level(logging.WARNING, "edje"):
        training(warmup_steps=warmup_steps)
    said = f"optim.warmup_steps={warmup_steps}: with trainer.max_steps=4 the training ends before"
    assert any(message.startswith(said) for message in caplog.messages) is warns


def without_mask_token():
    language_model = tiny_language_model()
    language_model.tokenizer.mask_token = None
    return language_model


def test_words_are_masked_only_with_a_mask_token(tmp_path):
    asked = replace(training(), language_model=without_mask_token)
    backbone = HuggingFaceBackbone(pretrained=str(save_clip(tmp_path)))
    with pytest.raises(
        EdjeError, match=r"objective\.masked replaces words by a mask token.*no mask"
    ):
        new_checkpoint(asked, backbone, "nothing")
    matching = replace(asked, objectives={"matching": Matching()})
    assert new_checkpoint(matching, backbone, "nothing").label == "nothing train"
