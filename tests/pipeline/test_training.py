"""Claims about the ends of a training: what it continues, and which weights it leaves."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edje.inference.checkpoint import load_checkpoint, save_checkpoint
from edje.pipeline import training
from edje.pipeline.scoring import Scoring
from tests.tiny.rerankers import tiny_checkpoint


@pytest.mark.parametrize("dev_every", [0, 10])
def test_best_weights_of_an_earlier_part_are_left_where_dev_is_no_longer_scored(
    tmp_path: Path, dev_every: int
) -> None:
    torch.manual_seed(0)
    best, last = tiny_checkpoint(), tiny_checkpoint()
    (tmp_path / "checkpoints").mkdir()
    save_checkpoint(best, tmp_path / "checkpoints" / "best.ckpt")
    choices: Any = SimpleNamespace(scoring=SimpleNamespace(dev_every=dev_every))
    cache: Any = SimpleNamespace()
    training.finish(choices, last, cache, None, cache, tmp_path)
    left = load_checkpoint(tmp_path / "checkpoints" / "model.ckpt").model.state_dict()
    expected = (best if dev_every else last).model.state_dict()
    assert all(torch.equal(left[name], value) for name, value in expected.items())
    assert not torch.equal(*(next(one.model.parameters()) for one in (best, last)))


def test_nothing_is_fitted_on_shuffled_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are a control of the evaluation alone."""
    seen = []

    def fitted(trained: object, backbone: object, dev: object, scoring: Scoring, *_: object):
        seen.append(scoring.shuffle_tokens)
        return {}

    monkeypatch.setattr(training, "fitted_sums", fitted)
    monkeypatch.setattr(training, "fitted_calibrations", fitted)
    scoring = Scoring(shuffle_tokens=True)
    choices: Any = SimpleNamespace(scoring=scoring, score="sum", seed=0)
    cache: Any = SimpleNamespace(storage=SimpleNamespace(compressed_codec="bf16"), devices=())
    training.fitted_on(cache, choices, tiny_checkpoint(), cache, cache)
    assert seen == [False, False] and scoring.shuffle_tokens
