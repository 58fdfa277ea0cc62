"""Claims about captions tables: what is unambiguous is read, all else is refused with its line."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from edje.data.mixture.listed_pairs import ListedPairs
from edje.data.sources.assembly import require_json
from edje.data.sources.folder import FolderSource
from edje.data.sources.tables import table_rows
from edje.errors import EdjeError
from tests.tiny.image_files import write_images

ROWS = [{"image": "a.png", "caption": "a dog"}, {"image": "b.png", "caption": "a cat"}]


def read(path: Path, content: str | bytes) -> list[tuple[str, Any]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(table_rows(path, "mine"))


def refused(path: Path, content: str | bytes) -> str:
    with pytest.raises(EdjeError) as raised:
        read(path, content)
    assert str(raised.value).startswith(f"mine: {path}")
    return str(raised.value)


SWALLOWING = {
    "no quote follows": ('a.png,"a dog\nb.png,a cat\nc.png,a cow\n', 2),
    "not the first row": ('a.png,"a dog"\nb.png,"a cat\nc.png,a cow\n', 3),
    "a later field is quoted": ('a.png,"a dog\nb.png,a cat\nc.png,"a cow"\n', 2),
    "a later field is another row's end": ('a.png,"a dog\nb.png,a cat\nc.png,a cow"\n', 2),
    "both are open": ('a.png,"a dog\nb.png,"a cat\nc.png,a cow\n', 2),
    "after a caption of two lines": ('a.png,"a\ndog"\nb.png,"a cat\nc.png,a cow\n', 4),
    "the last row": ('a.png,a dog\nb.png,"a cat\n', 3),
    "larger than a field may be": ('a.png,"a dog\n' + "b.png,a cat\n" * 20_000, 2),
}


@pytest.mark.parametrize("case", SWALLOWING)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_an_unclosed_quote_swallows_no_rows_and_the_line_that_opens_it_is_named(
    tmp_path: Path, case: str, end: str
) -> None:
    content, line = SWALLOWING[case]
    message = refused(tmp_path / "t.csv", ("image,caption\n" + content).replace("\n", end))
    assert f", line {line}" in message and "double quote" in message


def test_a_field_that_is_too_long_is_told_to_be_so(tmp_path: Path) -> None:
    message = refused(tmp_path / "t.csv", f"image,caption\na.png,dog\nb.png,{'x' * 140_000}\n")
    assert ", line 3, is not readable" in message and "or is too long" in message
    assert "shorten it" in message


def test_a_folder_s_images_are_never_fewer_than_its_table_s(tmp_path: Path) -> None:
    """Six images became two, without a word."""
    names = [f"{number}.png" for number in range(6)]
    write_images(tmp_path, names)
    lines = [f"{name},a dog,val" for name in names]
    lines[1] = '1.png,"a dog,val'
    lines[5] = '5.png,a dog,"val"'
    (tmp_path / "captions.csv").write_text("\n".join(["image,caption,split", *lines]) + "\n")
    with pytest.raises(EdjeError, match="line 3"):
        FolderSource(name="mine", root=str(tmp_path)).read("val")


@pytest.mark.parametrize(
    "line", ['a.png,"a" dog', 'a.png,"a \\"big\\" dog"', 'a.png,"a "big" dog"', '"a.png" ,dog']
)
def test_quotes_that_are_broken_within_a_line_are_refused(tmp_path: Path, line: str) -> None:
    message = refused(tmp_path / "t.csv", f"image,caption\nx.png,ok\n{line}\nb.png,a cat\n")
    assert ", line 3, is not readable" in message and 'written twice ("")' in message


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_quoted_caption_may_go_over_several_lines(tmp_path: Path, end: str) -> None:
    texts = ['a "big" dog\nand a cat, black', "see\n\na.png", "one\ntwo, b.png", 'no "quotes" here']
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(
            [("image", "caption"), *((f"{n}.png", text) for n, text in enumerate(texts))]
        )
    found = list(table_rows(tmp_path / "t.csv", "mine"))
    assert [row["caption"] for _, row in found] == texts
    assert [place for place, _ in found] == ["line 2", "line 4", "line 7", "line 9"]


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t", "| ", ", "])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".CSV"])
def test_the_delimiter_is_told_by_the_header(tmp_path: Path, delimiter: str, suffix: str) -> None:
    lines = ["image,caption", "a.png,a dog", 'b.png,"a cat"']
    content = "\n".join(line.replace(",", delimiter) for line in lines)
    assert [row for _, row in read(tmp_path / f"t{suffix}", content)] == ROWS


def test_a_header_of_several_delimiters_is_read_as_its_name_says(tmp_path: Path) -> None:
    ((_, row),) = read(tmp_path / "t.csv", "image,caption;text\na.png,dog\n")
    assert row == {"image": "a.png", "caption;text": "dog"}


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffimage,caption\na.png,a dog\nb.png,a cat",
        ' image , caption \na.png,a dog\nb.png, "a cat"\n',
        "\n\nimage,caption\n\na.png,a dog\n , \n,\nb.png,a cat\n\n",
        ",image,caption\n0,a.png,a dog\n1,b.png,a cat\n",
        "image,caption,,\na.png,a dog,,\nb.png,a cat,,\n",
        "image,caption\ra.png,a dog\rb.png,a cat\r",
    ],
    ids=["mark", "blanks", "blank rows", "pandas index", "empty columns", "old line ends"],
)
def test_what_spreadsheets_write_is_read(tmp_path: Path, content: str) -> None:
    assert [row for _, row in read(tmp_path / "t.csv", content)] == ROWS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("image,caption\na.png\n", "line 2, has fewer fields than the header has columns (1, 2)"),
        ("image,caption\na.png,a,b\n", "line 2, has more fields than the header has columns"),
        ("image,caption,caption\na.png,a,b\n", "the header has two columns 'caption'"),
        ("image,caption\na.png,caf\u00e9\n".encode("latin-1"), "not UTF-8 in line 2 (byte 0xe9)"),
        ("image,caption\ra.png,caf\u00e9".encode("latin-1"), "not UTF-8 in line 2 (byte 0xe9)"),
        ("image,caption\na.png,a dog\n".encode("utf-16"), "UTF-16 or UTF-32. Save it as UTF-8"),
        ("image,caption\na.png,a dog\n".encode("utf-16-le"), "UTF-16 or UTF-32"),
        ("image,caption\na.png,a dog\n".encode("utf-32"), "UTF-16 or UTF-32"),
        (b"image,caption\na.png,a dog\n" + bytes(512), "line 3, has fewer fields"),
    ],
)
def test_what_is_no_such_table_is_refused(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    assert message in refused(tmp_path / "t.csv", content)


def test_a_header_alone_holds_no_captions(tmp_path: Path) -> None:
    assert read(tmp_path / "t.csv", "image,caption\n") == []


def test_a_nul_within_a_caption_is_a_character_like_others(tmp_path: Path) -> None:
    ((_, row),) = read(tmp_path / "t.csv", "image,caption\na.png,a\0b\n")
    assert row["caption"] == "a\0b"


def test_a_json_list_is_read_as_the_same_table(tmp_path: Path) -> None:
    found = read(tmp_path / "t.json", "\ufeff" + json.dumps(ROWS, indent=1))
    assert found == [("entry 0", ROWS[0]), ("entry 1", ROWS[1])]
    write_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "captions.json").write_text(json.dumps([row | {"split": "val"} for row in ROWS]))
    split = FolderSource(name="mine", root=str(tmp_path)).read("val")
    assert [caption.text for caption in split.captions] == ["a dog", "a cat"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.json", '{"images": []}', "Expected a list of"),
        (
            "t.json",
            "\n".join(map(json.dumps, ROWS)),
            "For JSON lines, name the file .jsonl",
        ),
        ("t.json", json.dumps(ROWS).encode("utf-16"), "UTF-16 or UTF-32"),
        ("t.json", json.dumps(ROWS).encode("utf-16-be"), "UTF-16 or UTF-32"),
        ("t.json", '[{"image": "caf\u00e9"}]'.encode("latin-1"), "not UTF-8 in line 1"),
        ("t.jsonl", json.dumps(ROWS, indent=1), "for a JSON list, name the file .json"),
        ("t.jsonl", json.dumps(ROWS), "for a list, name the file .json"),
        ("t.jsonl", json.dumps(ROWS[0]) + "\n{", "line 2, is not readable"),
        ("t.jsonl", json.dumps(ROWS[0]).encode("utf-16"), "UTF-16 or UTF-32"),
    ],
)
def test_json_under_another_name_is_told_what_to_be_called(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    assert message in refused(tmp_path / name, content)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_json_lines_may_end_as_they_like_and_begin_with_a_mark(tmp_path: Path, end: str) -> None:
    content = "\ufeff" + end.join([*map(json.dumps, ROWS), ""])
    assert read(tmp_path / "t.jsonl", content) == [("line 1", ROWS[0]), ("line 2", ROWS[1])]


def test_annotations_with_a_mark_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('\ufeff{"images": ["caf\u00e9"]}', encoding="utf-8")
    assert require_json(tmp_path / "a.json", "mine") == {"images": ["caf\u00e9"]}


def test_pairs_of_a_mixture_are_read_as_strictly(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])

    def table(content: str) -> int:
        (tmp_path / "t.csv").write_text(content)
        source = ListedPairs(root=str(tmp_path), annotations="t.csv", images=["."])
        return len(source.table("tiny", tmp_path / "cache", "skip"))

    assert table('image; caption\na.png; dog\n"b.png ";cat\n') == 2
    with pytest.raises(EdjeError, match=r"data\.sources\.tiny: .*t\.csv, line 2"):
        table('image,caption\na.png,"a dog\nb.png,a cat\n')
