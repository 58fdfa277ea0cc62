"""Offline, on the CPU, with the shapes of public tensor signatures checked at run time."""

import os
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

# Shapes are types: checked here, in the tests only.
install_import_hook(
    ["edje.models", "edje.objectives", "edje.retrieval", "edje.inference", "edje.records"],
    "beartype.beartype",
)

import pytest
import torch
from tiny import tiny_language_model, tiny_pairs, tiny_reranker

from edje.language_model import LanguageModel
from edje.models.edje import EDJE
from edje.records import PairBatch

# The models are tiny: threads would only wait for each other. Others, to see that no test that
# trains hangs on their number: EDJE_TEST_THREADS=4.
torch.set_num_threads(int(os.environ.get("EDJE_TEST_THREADS", "1")))


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Torch's threads during a test; `parametrize("threads", […], indirect=True)` for others."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


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
