"""The weights of score=sum in a checkpoint: what is written comes back, of former versions too."""

from dataclasses import replace

import pytest
import torch

from edje.inference.checkpoint import (
    AdapterSpecification,
    keep_first_tokens,
    load_checkpoint,
    save_checkpoint,
)
from edje.inference.fitted_sums import plain_sums, sums_of
from edje.retrieval.fusion import Standardiser, SumFusion
from edje.training.gradient_checkpointing import checkpoint_layers
from tests.tiny.rerankers import COMPRESSION, tiny_checkpoint

NESTED = AdapterSpecification(COMPRESSION.target, {**COMPRESSION.choices, "budgets": [2, 4]})


def fusion(weight: float) -> SumFusion:
    return SumFusion(weight, Standardiser(weight + 1, 2.0), Standardiser(-weight, 0.5))


SUMS = {
    2: {"t2i": fusion(0.25), "i2t": fusion(0.5)},
    4: {"t2i": fusion(0.75), "i2t": fusion(1.0)},
}


def former(sums: dict, every: int) -> dict[str, float]:
    """As versions before wrote them."""
    return {
        f"{'' if count == every else f'{count} tokens: '}{direction}.{name}": value
        for count, of_count in sums.items()
        for direction, one in of_count.items()
        for name, value in (
            ("weight", one.weight),
            ("first.mean", one.first.mean),
            ("first.std", one.first.std),
            ("joint.mean", one.joint.mean),
            ("joint.std", one.joint.std),
        )
    }


def test_a_checkpoint_keeps_them_by_number_of_tokens_and_direction(tmp_path):
    given = replace(tiny_checkpoint(NESTED), fusion=SUMS)
    save_checkpoint(given, tmp_path / "model.ckpt")
    assert load_checkpoint(tmp_path / "model.ckpt").fusion == SUMS
    stored = torch.load(tmp_path / "model.ckpt", weights_only=True)["edje"]["fusion"]
    assert stored == plain_sums(SUMS)
    assert stored[2]["i2t"]["joint"] == {"mean": -0.5, "std": 0.5}


def test_the_names_of_former_versions_are_read():
    flat = former(SUMS, every=4)
    assert flat["2 tokens: i2t.joint.std"] == 0.5 and flat["t2i.weight"] == 0.75
    assert sums_of(flat, 4) == SUMS
    assert sums_of(former({4: SUMS[4]}, every=4), 4) == {4: SUMS[4]}
    assert sums_of({}, 4) == {}


@pytest.mark.parametrize(("count", "left"), [(2, {2: SUMS[2]}), (3, {}), (4, {4: SUMS[4]})])
def test_fewer_tokens_leave_their_own_weights_and_the_given_checkpoint_as_it_is(count, left):
    given = replace(tiny_checkpoint(NESTED), fusion=SUMS)
    tokens = torch.randn(2, 9, 16)
    everything = given.model.compress(tokens)
    few = keep_first_tokens(given, count, is_recorded=True)
    assert few.fusion == left and given.fusion == SUMS
    assert given.model.adapter.num_tokens == 4 and few.model.adapter.num_tokens == count
    assert torch.equal(given.model.compress(tokens), everything)
    torch.testing.assert_close(few.model.compress(tokens), everything[:, :count])
    own = dict(given.model.named_parameters())
    assert all(weight is own[name] for name, weight in few.model.named_parameters())
    assert list(few.model.state_dict()) == list(given.model.state_dict())


def test_fewer_tokens_are_given_after_training_with_gradient_checkpointing():
    """Which wraps the forward of the adapter that was trained, of all tokens."""
    given = tiny_checkpoint(NESTED)
    tokens = torch.randn(2, 9, 16)
    expected = given.model.compress(tokens)[:, :2]
    checkpoint_layers(given.model)
    assert given.model.compress(tokens).shape[1] == 4
    torch.testing.assert_close(keep_first_tokens(given, 2).model.compress(tokens), expected)
