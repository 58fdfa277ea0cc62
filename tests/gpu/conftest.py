"""One store for all checks of this folder."""

import pytest
import torch

from tests.gpu.sizes import RawTokens


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> RawTokens:
    return RawTokens.written(tmp_path_factory.mktemp("raw") / "store")


@pytest.fixture(autouse=True)
def from_one_seed() -> None:
    torch.manual_seed(0)
