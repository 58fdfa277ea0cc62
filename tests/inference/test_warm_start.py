"""Starting from another reranker's weights: what is taken over, and what is this run's own."""

import pytest
import torch

from edje.inference.checkpoint import save_checkpoint, warm_start
from tests.tiny.rerankers import LOCAL, tiny_checkpoint, tiny_reranker


@pytest.fixture
def earlier(tmp_path):
    """A residual reranker with the first-stage statistics of its own data."""
    checkpoint = tiny_checkpoint(LOCAL, residual=True)
    checkpoint.model.set_first_stage_statistics("t2i", 0.3, 0.05)
    checkpoint.model.set_first_stage_statistics("i2t", 0.2, 0.04)
    save_checkpoint(checkpoint, tmp_path / "earlier.ckpt")
    return tmp_path / "earlier.ckpt"


def test_statistics_that_were_fixed_already_stay(earlier):
    model = tiny_reranker(LOCAL, residual=True)
    model.set_first_stage_statistics("t2i", 0.6, 0.1)
    model.set_first_stage_statistics("i2t", 0.5, 0.2)
    assert warm_start(model, earlier) == []
    torch.testing.assert_close(model.first_stage_mean, torch.tensor([0.6, 0.5]))
    torch.testing.assert_close(model.first_stage_deviation, torch.tensor([0.1, 0.2]))


def test_statistics_are_taken_over_where_there_are_none(earlier):
    """A mixture without a cached set to take them from goes on with those it starts from."""
    model = tiny_reranker(LOCAL, residual=True)
    assert not model.has_first_stage_statistics
    assert warm_start(model, earlier) == []
    torch.testing.assert_close(model.first_stage_mean, torch.tensor([0.3, 0.2]))
    assert model.has_first_stage_statistics


def test_all_weights_are_taken_over_either_way(earlier):
    given = torch.load(earlier, weights_only=True)["state_dict"]
    for fixed in (False, True):
        model = tiny_reranker(LOCAL, residual=True)
        if fixed:
            model.set_first_stage_statistics("t2i", 0.6, 0.1)
        warm_start(model, earlier)
        for name, weight in model.named_parameters():
            assert torch.equal(weight, given[f"model.{name}"]), name
