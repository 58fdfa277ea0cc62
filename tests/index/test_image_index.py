from pathlib import Path

import pytest

from edje.errors import EdjeError
from edje.index.image_index import ImageIndex


@pytest.mark.parametrize("path", ["photos/index", Path("photos/index")])
def test_opening_one_says_what_is_missing_and_what_does_its_work_now(path: str | Path) -> None:
    with pytest.raises(EdjeError, match=r"'photos/index'\): this version.*no image index") as said:
        ImageIndex.open(path)
    assert "TokenStore.open" in str(said.value) and "Reranker.from_pretrained" in str(said.value)
