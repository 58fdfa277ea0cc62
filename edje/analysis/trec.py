"""Ranked lists and relevance by id: those of our runs, and files in TREC's formats."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from edje.analysis.lists import StoredLists, read_text_lists, read_text_queries
from edje.durable import new_file, writing_to
from edje.errors import EdjeError
from edje.ranges import check_path

Stage = Literal["first_stage", "reranked"]
Columns = tuple[str, ...]
Numbers = dict[str, float]  # of pictures: their scores, or their grades
RUN: Columns = ("query", "Q0", "picture", "rank", "score", "tag")
QRELS: Columns = ("query", "0", "picture", "grade")


def write_trec(
    run_folder: str | Path, path: str | Path, *, stage: Stage = "reranked", tag: str = "edje"
) -> None:
    """Write a run's lists of its text queries as a TREC run file, which `judged` reads back.

    A line per candidate: `query Q0 picture rank score tag`, with the ids of the run's captions
    and images. trec_eval and its kin order by the scores and ignore the ranks.

    Args:
        run_folder: an evaluated run.
        path: the file; an existing one is replaced.
        stage: the scores that rank, "reranked" or "first_stage".
        tag: the run's name in the file.

    Raises:
        EdjeError: the run has no such lists, the tag or an id holds white space, which separates
            the columns of the format, or the file can't be written.
    """
    check_path("path", path)
    path = Path(path)
    lists = lists_of_run(run_folder, stage)
    with (
        writing_to(path),
        new_file(path) as temporary,
        temporary.open("w", encoding="utf-8") as file,
    ):
        for query, scores in lists:
            for name in (tag, query, *scores):
                if name.split() != [name]:
                    raise EdjeError(
                        f"A TREC file can't hold {name!r} of {run_folder}: white space separates "
                        "its columns. Rename it, or give `judged` the run folder itself."
                    )
            for rank, (picture, score) in enumerate(scores.items(), 1):
                file.write(f"{query} Q0 {picture} {rank} {score!r} {tag}\n")


def lists_of_run(run_folder: str | Path, stage: Stage) -> Iterator[tuple[str, Numbers]]:
    """A run's captions, each with the scores of its candidates by image, best first.

    Raises:
        EdjeError: the run has no lists of text queries with their text, or no such stage.
    """
    if stage not in ("first_stage", "reranked"):
        raise EdjeError(f"stage={stage!r}: expected 'reranked' or 'first_stage'.")
    return _lists(read_text_lists(run_folder), stage)


def _lists(stored: StoredLists, stage: Stage) -> Iterator[tuple[str, Numbers]]:
    first = stored.reranked.first
    scores = first.scores if stage == "first_stage" else stored.reranked.final
    best, order = scores.double().sort(dim=1, descending=True, stable=True)
    candidates = first.candidates.gather(1, order)
    for row, query in enumerate(stored.queries["query_id"]):
        pictures = (stored.candidate_ids[one] for one in candidates[row].tolist())
        yield query, dict(zip(pictures, best[row].tolist(), strict=True))


def qrels_of_run(run_folder: str | Path) -> Iterator[tuple[str, Numbers]]:
    """What a run itself counts as relevant for its captions: the image of each.

    Raises:
        EdjeError: the run has no text queries.
    """
    queries = read_text_queries(run_folder)
    for query, image in zip(queries["query_id"], queries["image_id"], strict=True):
        yield query, {image: 1.0}


def read_trec(path: str | Path, columns: Columns) -> dict[str, Numbers]:
    """The scores of a TREC run file (`RUN`), or the grades of a qrels file (`QRELS`).

    Raises:
        EdjeError: there is no such file, or a line isn't of this format or repeats a pair.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="\n") as file:
            return _parsed(file, path, columns)
    except (OSError, UnicodeDecodeError) as error:
        raise EdjeError(
            f"{path} can't be read ({error}). Give a text file with the columns "
            f"{' '.join(columns)}, or the folder of an evaluated run."
        ) from error


def _parsed(lines: Iterable[str], path: str | Path, columns: Columns) -> dict[str, Numbers]:
    place = columns.index("score" if "score" in columns else "grade")
    found: dict[str, Numbers] = {}
    for number, line in enumerate(lines, 1):
        if not (fields := line.split()):
            continue
        try:
            if len(fields) != len(columns):
                raise ValueError(f"{len(fields)} columns")
            value = float(fields[place])
        except ValueError as error:
            raise EdjeError(
                f"{path}, line {number}: {line.strip()[:80]!r} ({error}). Expected "
                f"{len(columns)} columns, {' '.join(columns)}, the {columns[place]} a number."
            ) from error
        if fields[2] in found.setdefault(fields[0], {}):
            raise EdjeError(
                f"{path}, line {number}: the query {fields[0]} has {fields[2]} twice. Leave one."
            )
        found[fields[0]][sys.intern(fields[2])] = value  # one text for all lists with a picture
    return found
