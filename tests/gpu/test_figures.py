"""Claims about the code of the figures: it runs where the figures are made."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from edje.benchmark import ceiling
from tests.gpu.sizes import DEVICE, IS_REAL, ON_GPU

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(IS_REAL, reason="the figures themselves are next"),
    pytest.mark.filterwarnings("ignore"),  # those of the libraries
]


@pytest.mark.parametrize(("part", "lanes"), [("scoring", 6), ("training", 4), ("encoding", 4)])
def test_every_part_has_its_figures(
    part: str, lanes: int, monkeypatch: pytest.MonkeyPatch, compiling: None
) -> None:
    """In tiny sizes; a GPU's queries are measured as graphs as well."""
    # Large enough that a call's overhead doesn't pass for the machine's limit.
    monkeypatch.setattr(ceiling, "SIDE", {DEVICE.type: 256})
    monkeypatch.setattr(ceiling, "COPIED_BYTES", {DEVICE.type: 2**22})
    monkeypatch.setattr(ceiling, "SENT_BYTES", 2**22)
    monkeypatch.setattr(sys, "path", [str(ROOT / "experiments/speed"), *sys.path])
    parts = importlib.import_module("gpu").PARTS
    torch.manual_seed(0)
    found = parts[part](DEVICE, tiny=True)
    assert len(found.figures) == lanes + (3 if part == "scoring" and ON_GPU else 0)
    assert all(figure.value > 0 and 0 < figure.share <= 1 for figure in found.figures)
    assert all(one.kernels and 0 < one.busy_ms < one.ms for one in found.profiles)
