"""The rows of a captions table, CSV or JSON lines."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edje.errors import EdjeError


def table_rows(path: Path, dataset: str) -> Iterator[tuple[str, Any]]:
    """Each row of a `.csv`, `.tsv` or `.jsonl` with the words that say where it stands.

    Raises:
        EdjeError: the file can't be read as what its name says.
    """
    place = "the header"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".jsonl":
                for number, line in enumerate(file, start=1):
                    place = f"line {number}"
                    if line.strip():
                        yield place, json.loads(line)
            else:
                table = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
                for row in table:
                    place = f"line {table.line_num}"
                    yield place, row
    except (OSError, ValueError, csv.Error) as error:
        raise EdjeError(
            f"{dataset}: {path}, at or after {place}, is not readable ({error}). "
            "Expected UTF-8 CSV with a header, or JSON lines (.jsonl)."
        ) from error
