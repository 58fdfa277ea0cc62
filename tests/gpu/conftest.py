"""One store for all checks of this folder, on a GPU, a CPU, or a pretended GPU.

EDJE_PRETENDED_GPU=1 lets the whole process pretend (tests/gpu/pretended.py).
"""

import pytest
import torch

from tests.gpu.pretended import PRETENDED, pretended_gpu

if PRETENDED:
    PRETENCE = pretended_gpu()
    PRETENCE.__enter__()  # before anything asks what there is

from tests.gpu.sizes import RawTokens


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> RawTokens:
    return RawTokens.written(tmp_path_factory.mktemp("raw") / "store")


@pytest.fixture(autouse=True)
def from_one_seed() -> None:
    torch.manual_seed(0)
