"""Offline, on the CPU, with the shapes of public tensor signatures checked at run time."""

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jaxtyping

# Shapes are types: checked here, in the tests only.
jaxtyping.install_import_hook(
    [
        "edje.models",
        "edje.objectives",
        "edje.retrieval",
        "edje.inference",
        "edje.index",
        "edje.records",
    ],
    "beartype.beartype",
)

from edje.garbage import collect_rarely

collect_rarely()

import pytest
import torch

from edje.language_model import LanguageModel
from edje.models.edje import EDJE
from edje.records import PairBatch
from tests.tiny.encoders import tiny_language_model
from tests.tiny.rerankers import tiny_pairs, tiny_reranker

SLOW = (
    "kills",
    "clusters",
    "slurm",
    "compilers",
    "packaging",
    "assets",
    "serving",
    "browser",
    "notebooks",
    "sweeps",
    "ray",
    "docs",
)

LONGEST = ("assets", "notebooks", "ray")

# The models are tiny: threads would only wait for each other. Others, to see that no test that
# trains hangs on their number: EDJE_TEST_THREADS=4.
torch.set_num_threads(int(os.environ.get("EDJE_TEST_THREADS", "1")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is slow by nature waits for `-m <its marker>`, as `make test-all` gives it.

    There the longest come first, so that no core waits for another at the end.
    """
    if config.option.markexpr:
        items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in LONGEST])
        return
    for item in items:
        for marker in item.iter_markers():
            if marker.name in SLOW:
                reason = f"{marker.name}: slow by nature, run by `make test-{marker.name}`"
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """Libraries and tests stay: no collection of garbage need look through them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Calls as a user's program makes them: nothing checks their types first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Torch's threads during a test; `parametrize("threads", […], indirect=True)` for others."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the checks of shapes, which are no part of what is compiled, nor torch's tracing log.

    torch 2.11 follows the checks on Python 3.12 and finds every shape wrong.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)  # much, and slowly


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which can't be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def language_model() -> LanguageModel:
    return tiny_language_model()


@pytest.fixture
def reranker() -> EDJE:
    torch.manual_seed(0)
    return tiny_reranker()


@pytest.fixture
def pairs() -> PairBatch:
    return tiny_pairs()
