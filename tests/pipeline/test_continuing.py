"""Claims about what a training continues: its own model, with its own settings."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edje.errors import EdjeError
from edje.inference.checkpoint import Checkpoint, save_checkpoint
from edje.objectives.alignment import Alignment
from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.pipeline.continuing import SETTINGS, check_continued, settings_of
from edje.pipeline.start import CheckpointStart
from edje.training.optimisation import Optimisation
from tests.tiny.rerankers import tiny_checkpoint


def training(max_steps: int = 10, lr: float = 1e-3, **changed: Any) -> Any:
    objectives: Mapping[str, Any] = {"matching": Matching()}
    given = {"objectives": objectives, "negatives": HardNegatives(), "seed": 0, "score": "joint"}
    given |= {"optimisation": Optimisation(lr=lr), "teacher": None}
    return SimpleNamespace(**given | changed, trainer={"max_steps": max_steps})


def left(folder: Path, checkpoint: Checkpoint, settings: Any = None) -> Path:
    """The last checkpoint of a training of ten steps; without settings, of an earlier version."""
    save_checkpoint(checkpoint, folder / "last.ckpt")
    content = torch.load(folder / "last.ckpt", weights_only=True) | {"global_step": 10}
    if settings is not None:
        content[SETTINGS] = settings_of(settings)
    torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt"


def test_a_training_is_not_continued_on_the_tokens_of_another_backbone(tmp_path: Path) -> None:
    first = replace(tiny_checkpoint(), backbone={"backbone": "a tower", "layer": -2})
    last = left(tmp_path, first)
    check_continued(last, training(), first)
    other = replace(first, backbone={"backbone": "a tower", "layer": -1})
    with pytest.raises(EdjeError, match=r"layer: trained on -2, given -1.*start a new run"):
        check_continued(last, training(), other)


def test_a_training_is_not_continued_with_other_heads_for_the_same_weights(tmp_path: Path) -> None:
    first = tiny_checkpoint()
    last = left(tmp_path, replace(first, facts=replace(first.facts, num_heads=8)))
    with pytest.raises(EdjeError, match=r"num_heads 8, here 2.*start=checkpoint start\.path="):
        check_continued(last, training(), first)


def test_a_training_is_not_continued_with_another_model(tmp_path: Path) -> None:
    last = left(tmp_path, tiny_checkpoint())
    other = tiny_checkpoint()
    other.model.adapter.added = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(EdjeError, match=r"the shape of adapter\.added is none there, here \(3,\)"):
        check_continued(last, training(), other)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"lr": 0.1}, r"optimisation\.lr=0\.001 where this training has optimisation\.lr=0\.1"),
        ({"objectives": {"matching": Matching(weight=9.0)}}, r"objectives\.matching\.weight=1\.0"),
        ({"objectives": {"matching": Matching(), "alignment": Alignment()}}, "objectives.align"),
        (
            {"objectives": {"alignment": Alignment()}},
            r"objectives\.matching=Matching where .*=None \(and \d",
        ),
        ({"negatives": HardNegatives(count=1)}, r"negatives\.count=3"),
        ({"seed": 1}, r"seed=0 where this training has seed=1\b"),
    ],
)
def test_a_finished_training_is_not_taken_for_one_of_other_settings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: dict[str, Any], said: str
) -> None:
    own = tiny_checkpoint()
    last = left(tmp_path, own, training())
    check_continued(last, training(), own)
    with pytest.raises(EdjeError, match=f"ends a training of 10 steps with {said}.*another folder"):
        check_continued(last, training(**changed), own)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        check_continued(last, training(max_steps=20, **changed), own)
    assert "is continued; it had " in caplog.text
    check_continued(left(tmp_path, own), training(**changed), own)  # of an earlier version


@pytest.mark.usefixtures("unchecked")
def test_a_start_from_weights_of_other_heads_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new = replace(tiny_checkpoint(), backbone={"backbone": "a tower", "layer": -2})
    start = CheckpointStart(path=str(left(tmp_path, new)))
    start.load(new, None, None)
    assert "heads" not in caplog.text
    left(tmp_path, replace(new, facts=replace(new.facts, num_heads=8)))
    start.load(new, None, None)
    assert "its adapter attends with 8 heads and the new one with 2" in caplog.text
