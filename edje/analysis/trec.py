"""Ranked lists and relevance by id: those of our runs, and files in TREC's formats."""

from pathlib import Path
from typing import Literal

from edje.analysis.lists import read_text_lists
from edje.durable import new_file
from edje.errors import EdjeError

Stage = Literal["first_stage", "reranked"]
Columns = tuple[str, ...]
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
        EdjeError: the run has no such lists, or the tag or an id holds white space, which separates
            the columns of the format.
    """
    lists = lists_of_run(run_folder, stage)
    pictures = {picture for scores in lists.values() for picture in scores}
    for name in (tag, *lists, *sorted(pictures)):
        if name.split() != [name]:
            raise EdjeError(
                f"A TREC file can't hold {name!r} of {run_folder}: white space separates its "
                "columns. Rename it, or give `judged` the run folder itself."
            )
    with new_file(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
        for query, scores in lists.items():
            for rank, (picture, score) in enumerate(scores.items(), 1):
                file.write(f"{query} Q0 {picture} {rank} {score!r} {tag}\n")


def lists_of_run(run_folder: str | Path, stage: Stage) -> dict[str, dict[str, float]]:
    """The scores of a run's candidates by caption and image, best first.

    Raises:
        EdjeError: the run has no lists of text queries with their text, or no such stage.
    """
    if stage not in ("first_stage", "reranked"):
        raise EdjeError(f"stage={stage!r}: expected 'reranked' or 'first_stage'.")
    stored = read_text_lists(run_folder)
    first = stored.reranked.first
    scores = first.scores if stage == "first_stage" else stored.reranked.final
    best, order = scores.double().sort(dim=1, descending=True, stable=True)
    named = [stored.candidate_ids[one] for one in first.candidates.gather(1, order).flatten()]
    pool = best.shape[1]
    return {
        query: dict(zip(named[row * pool : (row + 1) * pool], of_query, strict=True))
        for row, (query, of_query) in enumerate(
            zip(stored.queries["query_id"], best.tolist(), strict=True)
        )
    }


def qrels_of_run(run_folder: str | Path) -> dict[str, dict[str, float]]:
    """What a run itself counts as relevant for its captions: the image of each.

    Raises:
        EdjeError: the run has no lists of text queries with their text.
    """
    queries = read_text_lists(run_folder).queries
    return {
        query: {image: 1.0}
        for query, image in zip(queries["query_id"], queries["image_id"], strict=True)
    }


def read_trec(path: str | Path, columns: Columns) -> dict[str, dict[str, float]]:
    """The scores of a TREC run file (`RUN`), or the grades of a qrels file (`QRELS`).

    Raises:
        EdjeError: there is no such file, or a line isn't of this format or repeats a pair.
    """
    path, place = Path(path), columns.index("score" if "score" in columns else "grade")
    found: dict[str, dict[str, float]] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EdjeError(
            f"{path} can't be read ({error}). Give a text file with the columns "
            f"{' '.join(columns)}, or the folder of an evaluated run."
        ) from error
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
        found[fields[0]][fields[2]] = value
    return found
