"""Attention by two products against torch's own kernel."""

import pytest
import torch
from torch.nn import functional as F

from edje.inference.cpu import attention
from edje.inference.cpu.attention import (
    attend,
    attend_by_products,
    attention_for,
    faster_products,
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
    for at_once in (1, 4, 16):  # pairs per thread: in several batches, or in one
        found = attend_by_products(query, key, value, heads=2, at_once=at_once)
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
    ("few", "many", "at_once"),
    [(1.0, 1.1, 8), (1.1, 1.0, 16), (1.0, 1.0, 8), (1.05, 1.1, 0), (1.3, 1.05, 0)],
)
def test_the_kernel_in_bf16_is_the_one_that_was_measured_clearly_faster(
    few, many, at_once, monkeypatch, caplog
):
    monkeypatch.setattr(attention, "has_bf16_instructions", lambda: True)
    monkeypatch.setattr(attention, "seconds_in_one_thread", lambda *_, **__: [few, many, 1.2])
    faster_products.cache_clear()
    with caplog.at_level("DEBUG"):
        found = attention_for(CPU, torch.bfloat16)
    faster_products.cache_clear()
    if at_once:
        assert found.func is attend_by_products and found.keywords == {"at_once": at_once}
    else:
        assert found is attend
    assert f"{1000 * min(few, many):.2f} ms with two products, " in caplog.text
    assert "1200.00 with torch's kernel" in caplog.text
