"""The rows of a captions table: CSV and similar formats, JSON lines, or a JSON list."""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from edje.data.sources.assembly import require_json
from edje.data.sources.text_file import not_utf8, open_text
from edje.errors import EdjeError

_DELIMITERS = (",", "\t", ";", "|")
_ENDING = re.compile(r"\.\w{1,5}$")  # a file name's extension
_LINE_END = re.compile(r"\r\n|\r|\n")

Row = tuple[str, Any]


def table_rows(path: Path, dataset: str) -> Iterator[Row]:
    """Each row of a table, with a description of its position.

    A `.jsonl` holds an object in each line, a `.json` a list of objects. Anything else is CSV with
    a header, separated by commas (`.tsv`: tabs), or by semicolons or bars if the header has no
    commas. A quoted field may span several lines. Rows without any content are skipped.

    Raises:
        EdjeError: the file can't be read in the format of its name; names the line or entry.
    """
    read = {".jsonl": _json_lines, ".json": _json_list}.get(path.suffix.lower(), _separated)
    try:
        yield from read(path, dataset)
    except UnicodeDecodeError as error:
        raise not_utf8(path, dataset) from error
    except OSError as error:
        raise EdjeError(f"{dataset}: {path} is not readable ({error}).") from error


def _json_list(path: Path, dataset: str) -> Iterator[Row]:
    content = require_json(path, dataset)
    if not isinstance(content, list):
        raise EdjeError(
            f"{dataset}: {path} holds a single {type(content).__name__}. Expected a list of "
            '{"image": …, "caption": …}.'
        )
    return ((f"entry {number}", row) for number, row in enumerate(content))


def _json_lines(path: Path, dataset: str) -> Iterator[Row]:
    with open_text(path, dataset) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                listed = line.lstrip().startswith("[")
                raise EdjeError(
                    f"{dataset}: {path}, at or after line {number}, is not readable ({error}). "
                    "Expected a JSON object in each line"
                    + ("; for a JSON list, name the file .json." if listed else ".")
                ) from error
            if isinstance(row, list) and row and isinstance(row[0], dict):
                raise EdjeError(
                    f"{dataset}: {path}, line {number}, holds a JSON list. Expected a JSON object "
                    "in each line; for a list, name the file .json."
                )
            yield f"line {number}", row


def _separated(path: Path, dataset: str) -> Iterator[Row]:
    with open_text(path, dataset) as file:
        records = _Records(path, dataset, file)
        columns: list[str] | None = None
        for line, cells, text in records:
            place = f"line {line}"
            if columns is None:
                columns = _columns(path, dataset, cells)
                continue
            if len(cells) != len(columns):
                many = len(cells) > len(columns)
                raise EdjeError(
                    f"{dataset}: {path}, {place}, has {'more' if many else 'fewer'} fields than "
                    f"the header has columns ({len(cells)}, {len(columns)}). Put captions that "
                    f"contain a {records.delimiter!r} in double quotes, and fill every column."
                )
            if (inner := _row_within(text, cells, records.delimiter)) is not None:
                raise EdjeError(
                    f"{dataset}: {path}, {place}: a quoted field includes line {line + inner}, "
                    f"which looks like a row of its own. Close the double quote of {place}, or "
                    "write the field in one line."
                )
            yield place, {name: cell for name, cell in zip(columns, cells, strict=True) if name}
        if columns is None:
            raise EdjeError(f"{dataset}: {path} is empty. Expected a header and a row per caption.")


def _columns(path: Path, dataset: str, cells: list[str]) -> list[str]:
    """The names in a header; one column may have none, as in pandas' output with an index."""
    names = [cell.strip() for cell in cells]
    twice = {name for name in names if name and names.count(name) > 1}
    if twice:
        raise EdjeError(
            f"{dataset}: {path}: the header has two columns {min(twice)!r}. Rename one."
        )
    return names


class _Records:
    """The non-empty records of a CSV file: first line, cells, and the raw lines."""

    def __init__(self, path: Path, dataset: str, lines: Iterator[str]):
        self.path = path
        self.dataset = dataset
        self._taken: list[str] = []  # lines of the current record
        self._read = 0  # number of lines before it
        start = []
        for line in lines:
            start.append(line)
            if line.strip():
                break
        self.delimiter = _delimiter("".join(start[-1:]), path)
        self._reader = csv.reader(
            self._noted(chain(start, lines)),
            delimiter=self.delimiter,
            skipinitialspace=self.delimiter != "\t",
            strict=True,
        )

    def __iter__(self) -> Iterator[tuple[int, list[str], Sequence[str]]]:
        while True:
            self._read += len(self._taken)
            self._taken.clear()
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                long = ", or is too long" if "field larger" in str(error) else ""
                raise EdjeError(
                    f"{self.dataset}: {self.path}, line {self._opened(error)}, is not readable: a "
                    f"field that starts with a double quote there doesn't end with one{long} "
                    f"({error}). Close it{long and ', or shorten it'}; a double quote within such "
                    'a field is written twice ("").'
                ) from error
            if any(cell.strip() for cell in cells):
                yield self._read + 1, cells, self._taken

    def _noted(self, lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            self._taken.append(line)
            yield line

    def _opened(self, error: csv.Error) -> int:
        """The line in which the broken field starts."""
        within = self._taken if "end of data" in str(error) else self._taken[:-1]
        if not within:
            return self._read + 1
        (cells,) = csv.reader(within, delimiter=self.delimiter, skipinitialspace=True)
        return self._read + 1 + len(within) - max(len(_LINE_END.findall(cells[-1])), 1)


def _delimiter(header: str, path: Path) -> str:
    """The separator of columns: the one of the file's extension, else the only other one found."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    found = [one for one in _DELIMITERS if len(_split(header, one)) > 1]
    return found[0] if len(found) == 1 else usual


def _row_within(lines: Sequence[str], cells: list[str], delimiter: str) -> int | None:
    """The line of a record, counted from 0, that looks like a row swallowed by an open quote.

    It has as many fields as a row. In a column where the record has a file's name, it has another
    name with the same extension.
    """
    for number, line in enumerate(lines[1:], start=1):
        others = _split(line, delimiter)
        if len(others) == len(cells):
            for own, other in zip(cells, others, strict=True):
                ending = None if _LINE_END.search(own) else _ENDING.search(own.strip())
                if ending and other.strip().lower().endswith(ending[0].lower()):
                    return number
    return None


def _split(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
