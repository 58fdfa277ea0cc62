"""A torch without its private operators, or with others of their names: slower, not wrong."""

import logging
from types import SimpleNamespace

import pytest
import torch

from edje.errors import EdjeError
from edje.inference.cpu import Dense, operators
from edje.inference.scorer import StoredTokenScorer
from tests.tiny.scoring import all_pairs, collection, reranker_of

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="a torch without oneDNN"
)
PROBES = (
    operators.can_pack,
    operators.has_int8_products,
    operators.has_bf16_instructions,
    operators.has_tiles,
)


class Without:
    """A namespace of operators in which one is gone, or another stands in its place."""

    def __init__(self, namespace, name: str, other=None):
        self.namespace, self.name, self.other = namespace, name, other

    def __getattr__(self, name: str):
        if name != self.name:
            return getattr(self.namespace, name)
        if self.other is None:
            raise AttributeError(f"no operator {name}")
        return self.other


def takes_another(*, states):
    """An operator whose arguments are others."""
    return states


def gives_zeros(states, weight, *_):
    return torch.zeros(*states.shape[:-1], weight.shape[0], dtype=states.dtype)


def forget() -> None:
    for probe in PROBES:
        probe.cache_clear()


@pytest.fixture
def change(monkeypatch):
    """Put another operator in the place of one, or none."""

    def changed(space: str, name: str, other=None) -> None:
        if space == "cpu":
            if other is None:
                monkeypatch.delattr(torch.cpu, name)
            else:
                monkeypatch.setattr(torch.cpu, name, other)
        else:
            changing = Without(getattr(torch.ops, space), name, other)
            monkeypatch.setattr(torch.ops, space, changing)
        forget()

    yield changed
    forget()


def scores(precision: torch.dtype) -> torch.Tensor:
    torch.manual_seed(0)
    model, stored = reranker_of(), collection()
    pairs = all_pairs("t2i", stored)
    first = torch.zeros(len(pairs[0]))
    return StoredTokenScorer(model, stored, precision)("t2i", *pairs, first)


PACKING = [("mkldnn", "_reorder_linear_weight"), ("mkldnn", "_linear_pointwise")]
IN_INT8 = [("onednn", "qlinear_prepack"), ("onednn", "qlinear_pointwise")]
ASKED = [
    ("mkldnn", "_is_mkldnn_bf16_supported"),
    ("cpu", "_is_avx512_bf16_supported"),
    ("cpu", "_is_amx_tile_supported"),
]


@pytest.mark.parametrize("other", [None, takes_another])
@pytest.mark.parametrize(("space", "name"), PACKING)
def test_without_a_packing_operator_scores_are_those_of_torchs_linear(
    space, name, other, change, caplog
):
    expected = scores(torch.float32)
    change(space, name, other)
    torch.testing.assert_close(scores(torch.float32), expected, rtol=1e-5, atol=1e-5)
    assert not Dense([torch.nn.Linear(8, 8)], torch.float32).is_packed
    (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "no packed linear layers in torch.float32 as edje knows them" in line.message


@pytest.mark.parametrize("other", [None, takes_another])
@pytest.mark.parametrize(("space", "name"), [*PACKING, *ASKED])
def test_without_any_of_them_scores_in_bf16_stay_near(space, name, other, change):
    """The way of the products moves the rounding alone: tests of the scorer bound it by 0.15."""
    exact = scores(torch.float32)
    change(space, name, other)
    errors = (scores(torch.bfloat16) - exact) / exact.std()
    assert 0 < errors.abs().max() < 0.15


def test_an_operator_that_gives_other_results_is_not_used(change, caplog):
    expected = scores(torch.float32)
    change("mkldnn", "_linear_pointwise", gives_zeros)
    torch.testing.assert_close(scores(torch.float32), expected, rtol=1e-5, atol=1e-5)
    assert "(they give other results): the slower plain version" in caplog.text


@pytest.mark.parametrize("other", [None, takes_another])
@pytest.mark.parametrize(("space", "name"), IN_INT8)
def test_without_an_operator_of_int8_it_is_refused_and_bf16_is_named(
    space, name, other, change, caplog
):
    change(space, name, other)
    for _ in range(2):
        with pytest.raises(EdjeError, match="Use bf16 here"):
            scores(torch.int8)
    assert caplog.text.count("no linear layers in int8 as edje knows them") == 1


def test_a_counter_of_arithmetic_knows_the_operators_that_are_there(monkeypatch):
    assert len(operators.packed_products()) == 2
    monkeypatch.setattr(torch, "ops", SimpleNamespace(mkldnn=object(), onednn=object()))
    assert operators.packed_products() == []
