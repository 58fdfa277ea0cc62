"""What a checkpoint says about its run, and the backbone that it goes with."""

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edje.errors import EdjeError
from edje.inference.checkpoint import Checkpoint, save_checkpoint
from edje.inference.reranker import Reranker
from edje.inference.run_choices import choices_of
from edje.retrieval.fusion import Standardiser, SumFusion
from tests.tiny.bright_tower import BrightTower
from tests.tiny.rerankers import tiny_checkpoint

PICTURE = np.zeros((8, 8, 3), np.uint8)


def fused() -> Checkpoint:
    one = SumFusion(0.5, Standardiser(0.0, 1.0), Standardiser(0.0, 1.0))
    return replace(tiny_checkpoint(), fusion={4: {"t2i": one, "i2t": one}})


def test_a_checkpoint_with_weights_of_a_sum_ranks_by_the_sum_unless_its_run_says_otherwise() -> (
    None
):
    assert choices_of(fused()).score == "sum"
    assert choices_of(replace(fused(), config="score: joint")).score == "joint"
    assert choices_of(tiny_checkpoint()).score == "joint"


def test_a_reranker_that_names_no_backbone_encodes_with_the_given_one(tmp_path: Path) -> None:
    save_checkpoint(tiny_checkpoint(), tmp_path / "model.ckpt")
    bare = Reranker.from_pretrained(tmp_path / "model.ckpt", device="cpu")
    with pytest.raises(EdjeError, match=r"Pass the one.*to edje\.Reranker\.from_pretrained or"):
        bare.encode([PICTURE])
    given: Any = BrightTower()
    whole = Reranker.from_pretrained(tmp_path / "model.ckpt", device="cpu", backbone=given)
    assert len(whole.encode([PICTURE])) == 1
    assert len(Reranker(tiny_checkpoint(), backbone=given).encode([PICTURE])) == 1
    for copied in (copy.deepcopy(whole), pickle.loads(pickle.dumps(whole))):
        assert len(copied.encode([PICTURE])) == 1


def test_a_given_backbone_must_be_the_one_that_the_reranker_was_trained_with() -> None:
    other: Any = BrightTower("other")
    with pytest.raises(EdjeError, match=r"another backbone's tokens \(name: trained on tiny"):
        Reranker(tiny_checkpoint(), backbone=other)
