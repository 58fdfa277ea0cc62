"""Claims about the ends of a training: what it continues, and which weights it leaves."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edje.errors import EdjeError
from edje.inference.checkpoint import load_checkpoint, save_checkpoint
from edje.pipeline import training
from edje.pipeline.scoring import Scoring
from edje.pipeline.start import Start
from edje.training import one_training_set
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
    choices: Any = SimpleNamespace(scoring=scoring, score="sum", seed=0, start=Start())
    cache: Any = SimpleNamespace(storage=SimpleNamespace(compressed_codec="bf16"), devices=())
    training.fitted_on(cache, choices, tiny_checkpoint(), cache, cache)
    assert seen == [False, False] and scoring.shuffle_tokens


def test_a_training_asks_all_ranks_for_their_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unused: Any = SimpleNamespace()
    choices: Any = SimpleNamespace(
        trainer={},
        scoring=Scoring(),
        optimisation=SimpleNamespace(lr=1.0),
        checkpoint_every=1,
        resume_command="",
    )
    feed: Any = SimpleNamespace(dev=None, facts=lambda: "mine")
    monkeypatch.setattr(one_training_set, "num_ranks", lambda: 2)
    monkeypatch.setattr(one_training_set, "of_every_rank", lambda own: [own, "another's"])
    callbacks = training.callbacks_of(choices, tiny_checkpoint(), feed, unused, unused, tmp_path)
    (check,) = [one for one in callbacks if isinstance(one, one_training_set.OneTrainingSet)]
    with pytest.raises(EdjeError, match=r"mine on 1 of 2 ranks, such as 0; another's on 1"):
        check.on_fit_start(unused, unused)
