"""Claims about the user's columns of an index: given, changed, found and shown."""

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from edje import ImageIndex, Reranker
from edje.errors import EdjeError
from edje.index.additions import Added
from edje.index.answers import Question
from edje.index.image_table import ImageTable
from tests.index.indexed import ODD, contents
from tests.tiny.image_files import make_picture


@pytest.fixture(params=["few", "many"])
def change(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any change is one of few rows, or of many."""
    few = 0 if request.param == "few" else 10**9
    monkeypatch.setattr("edje.index.image_table.FEW", few)


def columns_of(index: ImageIndex, **search: Any) -> dict[str, dict[str, Any]]:
    """The user's columns of all pictures that are found, by id."""
    found = index.search("red", k=50, top=50, **search)
    return {hit.id: dict(hit.columns) for hit in sorted(found, key=lambda hit: hit.id)}


@pytest.mark.usefixtures("unchecked")
def test_columns_are_kept_found_and_checked(index: ImageIndex, pictures: Path) -> None:
    index.add(pictures / "more", columns={"year": 1999, "place": {"008.png": "Rome"}})
    index.add(pictures, prefix="all", columns={"stars": 2.5})
    assert len(index.search("red", where="year = 1999 AND width = 32", top=50)) == 4
    assert [hit.id for hit in index.search("red", where="place = 'Rome'")] == ["008.png"]
    assert len(index.search("red", where="stars > 2", top=50)) == 12
    make_picture(pictures / "more" / "008.png", 5)
    index.add(pictures / "more")  # a changed file keeps its own
    assert [hit.id for hit in index.search("red", where="place = 'Rome'")] == ["008.png"]
    for columns, message in (
        ({"hash": 1}, "'hash' is a column of the index's own"),
        ({"my place": 1}, "'my place' can't be the name"),
        ({"empty": None}, "'empty' has no value"),
        ({"empty": {}}, "'empty' has no value"),
        ({"mixed": {"a": 1, "b": "x"}}, "'mixed' have no common type"),
        ({"year": "late"}, r"'year' has type int64 in the index \(Could not convert 'late'"),
        ({"large": 2**63 + 5}, "'large' have no common type"),
        ({"year": -(2**70)}, "'year' have no common type"),
        ({"odd": "\ud800"}, "'odd' have no common type"),
        ({"odd": {"\ud800": 1}}, r"'\\ud800' can't be an id of a picture"),
        ({"odd": {7: 1}}, "7 can't be an id of a picture: expected a text"),
    ):
        with pytest.raises(EdjeError, match=message):
            index.add(pictures, columns=columns)


def test_hits_show_the_columns(index: ImageIndex, pictures: Path) -> None:
    index.add(pictures / "more")
    assert set(map(str, columns_of(index).values())) == {"{}"}
    index.add(pictures, prefix="all", columns={"year": 1999, "tags": {"all/000.png": ["a", "b"]}})
    found = columns_of(index)
    assert found["008.png"] == {"year": None, "tags": None}
    assert found["all/000.png"] == {"year": 1999, "tags": ["a", "b"]}
    assert found["all/001.png"] == {"year": 1999, "tags": None}
    assert index.rerank("red", ["all/000.png"])[0].columns == found["all/000.png"]
    assert len(set(index.search("red"))) == 10  # hits stay hashable


@pytest.mark.usefixtures("change")
def test_columns_of_pictures_that_are_there_are_set(
    index: ImageIndex, pictures: Path, encoded: list[int]
) -> None:
    (pictures / "broken.png").write_bytes(b"broken")
    index.add(pictures, columns={"year": {"000.png": 1999, "001.png": 2000}})
    before, hits = contents(index), index.search("red")
    encoded.clear()
    assert index.set_columns({"album": "Rome"}) == 13  # with the one that can't be read
    assert index.set_columns({"year": {"001.png": 2001, "002.png": 2002}}) == 2
    assert index.set_columns({"album": "Oslo", "stars": {"003.png": 5}}, "id LIKE 'more/%'") == 4
    assert index.set_columns({"album": "none"}, "id = 'no such'") == 0
    found = columns_of(index)
    years = {"000.png": 1999, "001.png": 2001, "002.png": 2002}
    assert {name: one["year"] for name, one in found.items() if one["year"]} == years
    assert {one["album"] for name, one in found.items() if "more" in name} == {"Oslo"}
    assert {one["album"] for name, one in found.items() if "more" not in name} == {"Rome"}
    assert {one["stars"] for one in found.values()} == {None}  # 003.png isn't in more/
    assert contents(index) == before and encoded == []
    assert [(hit.id, hit.score) for hit in index.search("red")] == [
        (hit.id, hit.score) for hit in hits
    ]
    assert len(columns_of(index, where="album = 'Oslo' AND width > 10")) == 4
    make_picture(pictures / "broken.png", 1)
    assert index.add(pictures) == Added(changed=1, unchanged=12)
    assert columns_of(index)["broken.png"]["album"] == "Rome"


def test_what_columns_cannot_be_set_changes_nothing(index: ImageIndex, pictures: Path) -> None:
    with pytest.raises(EdjeError, match=r"no index to set columns of at .* yet"):
        index.set_columns({"year": 1999})
    index.add(pictures, columns={"year": 1999})
    version = index.stats().version
    for columns, where, message in (
        (
            {"new": {"000.png": 1, "x.png": 2}},
            None,
            r"set_columns: 1 of 2 ids .* 'x.png'; .* Nothing",
        ),
        ({"new": 1, "year": "late"}, None, "'year' has type int64 in the index"),
        ({"new": 1}, "yeer = 1999", "invalid filter of the index"),
        ({"new": 1, "width": 7}, None, "'width' is a column of the index's own"),
    ):
        with pytest.raises(EdjeError, match=message):
            index.set_columns(columns, where)
    index.refresh()
    assert index.stats().version == version


@pytest.mark.parametrize(
    ("there", "other"),
    [
        (3, 4.7),
        (3, Decimal("4.7")),
        (date(2026, 1, 1), datetime(2026, 1, 1, 5)),
        ([3], [4.7]),
        ([[3]], [[4.7]]),
    ],
)
def test_a_value_is_kept_whole_or_refused(
    index: ImageIndex, pictures: Path, there: Any, other: Any
) -> None:
    index.add(pictures / "000.png", columns={"mine": there})
    for give in (
        lambda: index.set_columns({"mine": {"000.png": other}}),
        lambda: index.add(pictures / "more", columns={"mine": other}),
    ):
        with pytest.raises(EdjeError, match=r"'mine' has type .* in the index"):
            give()
    assert columns_of(index) == {"000.png": {"mine": there}}


def test_a_change_of_few_pictures_reads_and_writes_only_these(
    index: ImageIndex, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(pictures, columns={"tags": {"001.png": ["a", "b"]}, "year": 1999})
    before = contents(index)
    monkeypatch.setattr("edje.index.image_table.FEW", 6)
    read: list[int] = []
    scan = ImageTable.scan

    def counting(self: ImageTable, columns: Sequence[str], where: str | None = None) -> Any:
        for batch in scan(self, columns, where):
            read.append(len(batch))
            yield batch

    monkeypatch.setattr(ImageTable, "scan", counting)
    assert index.set_columns({"year": {"001.png": 2001, "more/009.png": 2009}}) == 2
    assert sum(read) == 6  # to find them, their values, and the rest of them
    monkeypatch.undo()
    found = columns_of(index)
    assert found["001.png"] == {"tags": ["a", "b"], "year": 2001}
    assert [one["year"] for one in found.values()].count(1999) == 10
    assert contents(index) == before


@pytest.mark.usefixtures("change")
def test_a_value_of_another_kind_that_fits_is_taken(index: ImageIndex, pictures: Path) -> None:
    index.add(pictures / "000.png", columns={"stars": 2.5, "year": 2000, "price": Decimal("1.50")})
    assert index.set_columns({"stars": 3, "year": 2026.0, "price": 2}) == 1
    index.set_columns({"day": date(2026, 1, 1)})
    assert index.set_columns({"day": datetime(2026, 1, 2)}) == 1
    (found,) = columns_of(index).values()
    assert found == {"stars": 3, "year": 2026, "price": 2, "day": date(2026, 1, 2)}


@pytest.mark.usefixtures("change")
def test_a_column_is_cleared_with_none(index: ImageIndex, pictures: Path) -> None:
    index.add(pictures / "more", columns={"album": "Rome", "year": 1999})
    assert index.set_columns({"year": {"008.png": None}}) == 1
    assert index.set_columns({"album": None}, "year > 0") == 3
    found = columns_of(index)
    assert found["008.png"] == {"album": "Rome", "year": None}
    assert all(
        one == {"album": None, "year": 1999} for name, one in found.items() if "008" not in name
    )
    index.add(pictures / "000.png", columns={"album": None, "year": 2000})
    assert columns_of(index)["000.png"] == {"album": None, "year": 2000}


@pytest.mark.usefixtures("change")
def test_names_of_files_are_ids_as_the_disk_has_them(
    index: ImageIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for number, name in enumerate(ODD):
        make_picture(tmp_path / f"{number}.png", number).rename(folder / name)
    names = sorted(path.name for path in folder.iterdir())
    index.add(folder, columns={"place": dict.fromkeys(names, "Rome")})
    assert len(columns_of(index, where="place = 'Rome'")) == len(ODD) and not caplog.records
    assert index.set_columns({"place": dict.fromkeys(names, "Oslo")}) == len(ODD)
    assert len(columns_of(index, where="place = 'Oslo'")) == len(ODD)
    assert len(index.rerank("red", names)) == len(index.encoded(names)) == len(ODD)
    assert len(index.answers([Question("red", ids=names)])[0].hits) == len(ODD)
    assert index.remove(names) == len(ODD)


@pytest.mark.parametrize(
    "rest",
    [
        *(" year = 2026", ", year = 2026", "; year = 2026", ") year = (2026", ") garbage"),
        *(")) OR ((year = 2026", ") OR (year = 2026", " AND (year = 2026", " OR year = ?"),
        *(" OR year = $1", " OR year = :year"),
    ],
)
@pytest.mark.parametrize("exact_up_to", [0, 100])
def test_a_filter_is_read_to_its_end(
    ranker: Reranker, pictures: Path, tmp_path: Path, exact_up_to: int, rest: str
) -> None:
    index = ImageIndex.open(tmp_path / "photos.edje", ranker, exact_up_to=exact_up_to)
    index.add(pictures / "more", columns={"album": "Rome", "year": {"008.png": 2026}})
    for call in (index.search, lambda _, where: index.set_columns({"album": "Oslo"}, where)):
        with pytest.raises(EdjeError, match=r"invalid filter (of the index|['\"]album = )"):
            call("red", where=f"album = 'Rome'{rest}")
    index.refresh()
    assert {one["album"] for one in columns_of(index).values()} == {"Rome"}


def test_values_by_other_ids_than_those_of_the_pictures_are_told(
    index: ImageIndex, pictures: Path, caplog: pytest.LogCaptureFixture, unchecked: None
) -> None:
    place = {str(pictures / "000.png"): "Rome"}
    index.add(pictures, prefix="home", columns={"place": place})
    (record,) = caplog.records
    said = record.getMessage()
    assert "no picture has a value of 'place'" in said and "such as 'home/000.png'" in said
    with pytest.raises(EdjeError, match="columns: got \\['place'\\], expected names"):
        index.add(pictures, columns=["place"])
    index.remove(index.ids())
    index.add(pictures, prefix="all", columns={"place": {**place, "all/000.png": "Rome"}})
    assert len(columns_of(index, where="place = 'Rome'")) == 1
    assert len(caplog.records) == 1


def test_an_approximate_first_stage_finds_pictures_whose_columns_were_set(
    ranker, pictures: Path, tmp_path: Path
) -> None:
    index = ImageIndex.open(tmp_path / "photos.edje", ranker, exact_up_to=3)
    index.add(pictures)
    assert index.stats().first_stage == "approximate"
    before = columns_of(index)
    index.set_columns({"year": {"000.png": 1999, "more/008.png": 2000}})
    assert columns_of(index).keys() == before.keys()
    assert columns_of(index, where="year > 0").keys() == {"000.png", "more/008.png"}
