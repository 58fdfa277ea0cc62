"""Attention by two products against torch's own kernel."""

import pytest
import torch
from torch.nn import functional as F

from edje.inference.cpu import attention
from edje.inference.cpu.attention import (
    attend,
    attend_by_products,
    attend_short_by_products,
    attention_for,
    prefers_products,
)

CPU = torch.device("cpu")


def drawn(pairs: int, rows: int, spread: float) -> torch.Tensor:
    return (torch.randn(pairs, rows, 32) * spread).to(torch.bfloat16)


def exact(query, key, value, heads: int = 2) -> torch.Tensor:
    parts = [part.float().unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key, value)]
    return F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("rows", [1, 9])
def test_two_products_are_attention(rows):
    torch.manual_seed(0)
    key, value = drawn(11, 9, 1.0), drawn(11, 9, 1.0)
    query = key[:, :rows]
    found = attend_by_products(query, key, value, heads=2)
    assert found.shape == query.shape and found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact(query, key, value), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_scores_whose_exponential_overflows_or_vanishes_are_left_to_torch(sign):
    """e^±400 is beyond the number format; equal keys give the mean of the values."""
    torch.manual_seed(0)
    query, value = torch.full((3, 5, 32), 10.0).bfloat16(), drawn(3, 5, 1.0)
    found = attend_by_products(query, sign * query, value, heads=2)
    expected = value.float().mean(dim=1, keepdim=True).expand(-1, 5, -1)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


def test_only_bf16_on_a_cpu_takes_the_products():
    assert not prefers_products(CPU, torch.float32)
    assert not prefers_products(CPU, torch.float16)
    assert not prefers_products(torch.device("cuda"), torch.bfloat16)


@pytest.mark.parametrize(
    ("instructions", "tiles", "kernel"),
    [
        (False, False, attend),
        (True, False, attend_by_products),
        (True, True, attend_short_by_products),
    ],
)
def test_the_kernel_in_bf16_goes_by_the_processor_alone(instructions, tiles, kernel, monkeypatch):
    """Not by a measurement, by which two processes would round differently."""
    monkeypatch.setattr(attention, "has_bf16_instructions", lambda: instructions)
    monkeypatch.setattr(attention, "has_tiles", lambda: tiles)
    assert attention_for(CPU, torch.bfloat16) is kernel
    assert attention_for(CPU, torch.float32) is attend


def test_with_tiles_long_sequences_are_left_to_torch():
    torch.manual_seed(0)
    longest = attention.LONGEST_WITH_TILES
    for positions, kernel in ((longest, attend_by_products), (longest + 1, attend)):
        states = drawn(2, positions, 1.0)
        found = attend_short_by_products(states, states, states, heads=2)
        assert torch.equal(found, kernel(states, states, states, heads=2))
        assert not torch.equal(attend(states, states, states, 2), found) or kernel is attend


@pytest.mark.parametrize("limit", ["PAIRS_AT_ONCE", "BYTES_AT_ONCE"])
def test_how_many_pairs_go_at_once_changes_nothing(limit, monkeypatch):
    torch.manual_seed(0)
    states = drawn(30, 9, 1.0)
    expected = attend_by_products(states, states, states, heads=2)
    products = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *two: products.append(len(two[0])) or bmm(*two))
    for at_once in (1, 7, 40):  # pairs of 2 heads, 9 positions and 2 bytes a number
        given = at_once if limit == "PAIRS_AT_ONCE" else at_once * 2 * 9 * 9 * 2
        monkeypatch.setattr(attention, "PAIRS_AT_ONCE", 10**6)
        monkeypatch.setattr(attention, limit, given)
        products.clear()
        assert torch.equal(attend_by_products(states, states, states, heads=2), expected)
        assert sum(products) == 60 and products[0] == min(at_once * torch.get_num_threads(), 30) * 2
    monkeypatch.setattr(attention, "BYTES_AT_ONCE", 1)  # of a pair too long: it goes alone
    assert torch.equal(attend_by_products(states, states, states, heads=2), expected)
