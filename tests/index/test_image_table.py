"""Claims about the table of an index: which of its rows are found how."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from edje import ImageIndex
from edje.index.image_table import HASH, ID, LOOKED_UP, PATH, ImageTable
from tests.tiny.image_files import make_picture


def plan(index: ImageIndex, column: str, text: str) -> str:
    """How the library finds the rows of which a column has a text."""
    assert index._table is not None
    query = index._table._table.search().where(f"(({column} IN ('{text}')\n))")
    return str(query.explain_plan(True))


def found(index: ImageIndex, column: str, texts: Sequence[str]) -> list[str]:
    """Ids of the rows of which a column has one of some texts."""
    assert index._table is not None
    batches = index._table.among(column, texts, [ID])
    return sorted(name for batch in batches for name in batch.column(ID).to_pylist())


def unindexed(index: ImageIndex) -> dict[str, int]:
    """Numbers of rows that are in no index, by its column."""
    assert index._table is not None
    indices = index._table._table.list_indices()
    return {one.columns[0]: one.num_unindexed_rows for one in indices}


def test_rows_of_a_large_table_are_looked_up(
    index: ImageIndex, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(pictures)
    assert unindexed(index) == {} and "ScalarIndexQuery" not in plan(index, ID, "000.png")
    monkeypatch.setattr("edje.index.image_table.INDEXED_FROM", 12)
    index.add(pictures)
    assert unindexed(index) == dict.fromkeys(LOOKED_UP, 0)
    for column in LOOKED_UP:
        assert "ScalarIndexQuery" in plan(index, column, "000.png")
    for where in ("id = '000.png'", "id IN ('000.png', '001.png') AND width > 3"):
        assert index._table is not None
        query = index._table._table.search().where(where)
        assert "ScalarIndexQuery" in query.explain_plan(True)


def test_rows_are_found_whether_they_are_in_the_indices_or_not(
    index: ImageIndex, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edje.index.image_table.INDEXED_FROM", 3)
    index.add(pictures)
    hits = {hit.id: hit.score for hit in index.rerank("red", index.ids())}
    index.add(make_picture(pictures / "later.png", 70))
    os.utime(pictures / "000.png", (1, 1))
    assert index.add(pictures).touched == 1
    assert unindexed(index) == dict.fromkeys(LOOKED_UP, 2)
    index.remove(["001.png"])

    def check() -> None:
        names = ["000.png", "001.png", "002.png", "later.png", "none"]
        left = ["000.png", "002.png", "later.png"]
        assert found(index, ID, names) == left
        assert found(index, PATH, [str(pictures / name) for name in names]) == left
        assert index._table is not None
        rows = index._table.named(names, [HASH])
        assert found(index, HASH, [row[HASH] for row in rows.values()]) == left
        again = {hit.id: hit.score for hit in index.rerank("red", ["000.png", "002.png"])}
        assert again == pytest.approx({name: hits[name] for name in again}, abs=1e-5)

    check()
    index.optimize()
    assert unindexed(index) == dict.fromkeys(LOOKED_UP, 0)
    check()
    assert index.set_columns({"year": 1999}) == 12
    check()


def test_the_indices_are_made_anew_once_many_rows_are_in_none(
    index: ImageIndex, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    make = ImageTable.index_look_ups

    def counting(self: ImageTable) -> None:
        before = self.version
        make(self)
        made.append(self.version - before)

    monkeypatch.setattr(ImageTable, "index_look_ups", counting)
    monkeypatch.setattr("edje.index.image_table.INDEXED_FROM", 3)
    for path in sorted(pictures.rglob("*.png"))[:7]:
        index.add(path)
    assert made == [0, 0, 3, 0, 0, 3, 0]
    assert unindexed(index) == dict.fromkeys(LOOKED_UP, 1)
