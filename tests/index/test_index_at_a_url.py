"""Claims about an index that is read by its URL; a file's stands for one of object storage."""

from pathlib import Path

import pytest

from edje import ImageIndex, Reranker
from edje.errors import EdjeError
from tests.index.indexed import contents
from tests.tiny.image_files import make_picture


def test_it_is_searched_as_in_its_folder(
    index: ImageIndex, ranker: Reranker, pictures: Path, tmp_path: Path
) -> None:
    index.add(pictures)
    there = ImageIndex.open(f"{index.folder.as_uri()}/", ranker)
    assert contents(there) == contents(index) and len(there) == 12
    assert there.search("red") == index.search("red")
    assert there.rerank("red", there.ids()[:3]) == index.rerank("red", there.ids()[:3])
    assert 0 < there.stats().bytes <= index.stats().bytes
    index.add(make_picture(tmp_path / "later.png", 1))
    assert len(there) == 12
    there.refresh()
    assert len(there) == 13 and contents(there) == contents(index)


def test_it_is_never_written(index: ImageIndex, ranker: Reranker, pictures: Path) -> None:
    index.add(pictures)
    there = ImageIndex.open(index.folder.as_uri(), ranker)
    for write in (
        lambda: there.add(pictures),
        lambda: there.sync(pictures),
        lambda: there.remove(there.ids()[:1]),
        there.optimize,
    ):
        with pytest.raises(EdjeError, match="at a URL, where it can only be read"):
            write()
    assert len(there) == 12


def test_where_there_is_none_it_says_so(ranker: Reranker, tmp_path: Path) -> None:
    index = ImageIndex.open((tmp_path / "none.edje").as_uri(), ranker)
    assert len(index) == 0
    with pytest.raises(EdjeError, match=r"to search at file:///.*none\.edje\. Check the sp"):
        index.search("red")
