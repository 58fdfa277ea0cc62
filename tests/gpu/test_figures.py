"""Claims about the code of the figures: it runs where the figures are made."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from edje.benchmark import ceiling
from tests.gpu.sizes import DEVICE, IS_REAL, ON_GPU, needs_gpu

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(IS_REAL, reason="the figures themselves are next"),
    pytest.mark.filterwarnings("ignore"),  # those of the libraries
]


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large enough that a call's overhead doesn't pass for the machine's limit."""
    monkeypatch.setattr(ceiling, "SIDE", {DEVICE.type: 256})
    monkeypatch.setattr(ceiling, "COPIED_BYTES", {DEVICE.type: 2**22})
    monkeypatch.setattr(ceiling, "SENT_BYTES", 2**22)
    monkeypatch.setattr(sys, "path", [str(ROOT / "experiments/speed"), *sys.path])


@pytest.mark.parametrize(("part", "lanes"), [("scoring", 6), ("training", 4), ("encoding", 5)])
def test_every_part_has_its_figures(
    part: str, lanes: int, monkeypatch: pytest.MonkeyPatch, compiling: None
) -> None:
    """In tiny sizes; a GPU's queries are measured as graphs as well."""
    parts = importlib.import_module("gpu").PARTS
    torch.manual_seed(0)
    found = parts[part](DEVICE, tiny=True)
    assert len(found.figures) == lanes + (3 if part == "scoring" and ON_GPU else 0)
    assert all(figure.value > 0 and 0 < figure.share <= 1 for figure in found.figures)
    assert all(one.kernels and 0 < one.busy_ms < one.ms for one in found.profiles)


@needs_gpu
def test_filling_a_store_is_compared_with_products_of_its_own_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoding = importlib.import_module("gpu_encoding")
    in_turns, of_a_run = encoding.in_turns, encoding.of_a_run
    measured, used = {}, []

    def measuring(*given: Any) -> Any:
        figures, ceilings = in_turns(*given)
        measured[torch.backends.cuda.matmul.fp32_precision] = ceilings
        return figures, ceilings

    def compared(name: str, lane: Any, seconds: Any, ceilings: Any) -> Any:
        used.append(ceilings)
        return of_a_run(name, lane, seconds, ceilings)

    monkeypatch.setattr(encoding, "in_turns", measuring)
    monkeypatch.setattr(encoding, "of_a_run", compared)
    found = encoding.encoding_figures(DEVICE, tiny=True)
    assert "vision tower in TF32" in [figure.name for figure in found.figures]
    assert len(used) == 1 and used[0] is measured["tf32"] and len(measured) == 2
