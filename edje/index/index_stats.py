"""How much an index holds, and which pictures it couldn't read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edje.index.given_pictures import read_path
from edje.index.image_table import ID, PATH, PROBLEM, READABLE, ImageTable


@dataclass(frozen=True)
class Problem:
    """A picture that can't be read, and why."""

    id: str
    path: str | None
    reason: str


@dataclass(frozen=True)
class IndexStats:
    """How much an index holds: pictures, unreadable pictures, and bytes on disk.

    `bytes_per_image` is a picture's cell and embedding. `fragments` is the number of pieces that
    additions have written; `optimize` merges them. `recall` is the share of the exact first
    stage's 100 candidates that an "approximate" `first_stage` finds; 1 if it is "exact".
    """

    images: int
    problems: int
    bytes: int
    bytes_per_image: int
    fragments: int
    version: int
    first_stage: str
    recall: float
    built_with: Mapping[str, Any]


def stats_of(table: ImageTable, first_stage: str, recall: float) -> IndexStats:
    """The figures of a table's version."""
    images = table.count(READABLE)
    widths = table.facts.embedding_width + table.facts.given_width
    return IndexStats(
        images=images,
        problems=table.count() - images,
        bytes=table.bytes,
        bytes_per_image=table.facts.cell_bytes + 4 * widths,
        fragments=table.fragments,
        version=table.version,
        first_stage=first_stage,
        recall=recall,
        built_with=table.facts.built_with,
    )


def problems_of(table: ImageTable) -> list[Problem]:
    """The rows of pictures that couldn't be read, sorted by id."""
    found = [
        Problem(row[ID], read_path(row[PATH]), row[PROBLEM])
        for batch in table.scan([ID, PATH, PROBLEM], f"NOT ({READABLE})")
        for row in batch.to_pylist()
    ]
    return sorted(found, key=lambda one: one.id)
