"""Measures by relevance of your own: several relevant pictures per query, of several grades.

The measures have the names and definitions of ir-measures and trec_eval.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from edje.analysis.comparison import concluded
from edje.analysis.pooled import pooled_difference
from edje.analysis.trec import (
    QRELS,
    RUN,
    Columns,
    Numbers,
    Stage,
    lists_of_run,
    qrels_of_run,
    read_trec,
)
from edje.errors import EdjeError
from edje.ranges import check_path
from edje.retrieval.graded import Gains, measure_named
from edje.retrieval.intervals import interval_columns

log = logging.getLogger(__name__)
MEASURES = ("Success@1", "nDCG@10", "AP", "RR")

Given = str | Path | Mapping[str, Mapping[str, float]]  # query → picture → its score, or its grade
_ByQuery = Iterable[tuple[str, Mapping[str, float]]]
_Chosen = Mapping[str, Callable[[Gains, Gains], float]]  # measures by name


def judged(
    run: Given,
    qrels: Given,
    measures: str | Sequence[str] = MEASURES,
    *,
    stage: Stage = "reranked",
    seed: int = 0,
    resamples: int = 1000,
) -> pd.DataFrame:
    """A ranking of pictures for texts, measured by given relevance: a row per measure, in percent.

    Measures, with any `k`: `Success@k`, the share of queries with a relevant picture among the
    first k, which is what `recall@k` means everywhere else in edje; `R@k`, the share of a query's
    relevant pictures that are among the first k; `P@k`, the relevant share of the first k; `AP`,
    average precision; `RR`, the reciprocal rank of the first relevant picture; and `nDCG`, whose
    gain is the grade itself, discounted by log2(rank + 1). The last three may have a cutoff, as
    nDCG@10, or cover the whole list. For all but nDCG each grade above 0 is relevant. What a list
    lacks counts as not found. Among equal scores the less relevant picture comes first, so a
    constant score earns nothing (trec_eval orders them by id).

    Columns: `measure`; `value` with its 95% interval (`value.low`, `.high`), by bootstrap over
    queries, those with the same relevant pictures drawn together, as the captions of an image
    are; `queries`, how many were averaged; `missing`, how many of these the run lacks: they count
    as 0, as with trec_eval's -c; and `left_out`, how many others have nothing relevant in `qrels`,
    so that no list could earn anything (trec_eval counts them as 0). Queries without qrels are
    ignored.

    Args:
        run: a folder of an evaluated run, whose text queries are caption ids; a mapping
            `{query: {picture: score}}`; or the path of a TREC run file (`query Q0 picture rank
            score tag`). Lists may have any length.
        qrels: a mapping `{query: {picture: grade}}`; the path of a TREC qrels file (`query 0
            picture grade`); or a run's folder, for the one image of each of its captions.
        measures: their names.
        stage: of a run folder, which scores rank: "reranked" or "first_stage".
        seed: of the bootstrap.
        resamples: number of bootstrap resamples.

    Raises:
        EdjeError: no such measure, a file or folder can't be read, a score or grade is not a
            number, nothing is relevant, the run has none of the queries, or `resamples` is below 1.
    """
    chosen, relevance = _chosen(measures), _relevance(qrels)
    found = _measured(run, stage, relevance, chosen)
    estimates = interval_columns(found.values, relevance.groups, seed, resamples=resamples)
    rows = [
        {"measure": name, "value": one.value, "value.low": one.low, "value.high": one.high}
        for name, one in zip(chosen, estimates, strict=True)
    ]
    return pd.DataFrame(rows).assign(
        queries=len(relevance.grades), missing=found.missing, left_out=relevance.left_out
    )


def compare_judged(
    a: Given | Sequence[Given],
    b: Given | Sequence[Given],
    qrels: Given,
    measures: str | Sequence[str] = MEASURES,
    *,
    stage: Stage = "reranked",
) -> pd.DataFrame:
    """Two rankings by the same relevance, on the same queries: a row per measure, in percent.

    Columns: `measure`; `a.value` and `b.value`; `difference`, a − b in points, with its 95%
    interval (`difference.low`, `.high`); `p`, two-sided; `p.holm`, corrected for the measures of
    the table; `better`: "a", "b", or "" where `p.holm` is above 0.05; `queries`; and `a.missing`
    and `b.missing`. Intervals and tests are those of `compare`, over queries in place of images;
    queries with the same relevant pictures count together.

    Args:
        a: as the `run` of `judged`, or a list of several, such as the seeds of one choice, which
            are pooled as in `compare`.
        b: likewise.
        qrels: as in `judged`.
        measures: as in `judged`.
        stage: as in `judged`.

    Raises:
        EdjeError: as `judged`, or a side has no run.
    """
    chosen, relevance = _chosen(measures), _relevance(qrels)
    sides = [[_measured(run, stage, relevance, chosen) for run in _runs(given)] for given in (a, b)]
    rows: list[dict[str, Any]] = []
    for column, name in enumerate(chosen):
        first, second = (
            torch.stack([run.values[:, column] for run in side], dim=1) for side in sides
        )
        found = pooled_difference(first, second, relevance.groups)
        rows.append(
            {"measure": name, "a.value": first.mean().item(), "b.value": second.mean().item()}
            | found.named("difference")
            | {"p": found.p}
        )
    first_missing, second_missing = (max(run.missing for run in side) for side in sides)
    return concluded(pd.DataFrame(rows)).assign(
        queries=len(relevance.grades),
        **{"a.missing": first_missing, "b.missing": second_missing},
    )


@dataclass(frozen=True)
class _Relevance:
    """What is relevant for the queries that are measured."""

    grades: dict[str, Numbers]  # only those above 0, and queries that have some
    groups: Int[Tensor, "queries"]  # equal for queries with the same relevant pictures
    left_out: int  # queries that have none


@dataclass(frozen=True)
class _Measured:
    values: Float[Tensor, "queries measures"]  # in percent
    missing: int  # queries that the run lacks


def _relevance(qrels: Given) -> _Relevance:
    grades: dict[str, Numbers] = {}
    count = 0
    for query, judgements in _by_query("qrels", qrels, qrels_of_run, QRELS):
        count += 1
        numbers = _numbers(judgements, query, "grade")
        if above := {picture: grade for picture, grade in numbers.items() if grade > 0}:
            grades[query] = above
    if not grades:
        raise EdjeError(
            f"The qrels have no grade above 0 for any of their {count} queries, so nothing "
            "can be measured. Give a picture of each query a grade of 1 or more."
        )
    kinds = pd.Series([frozenset(above) for above in grades.values()], dtype=object)
    groups = torch.from_numpy(pd.factorize(kinds)[0].copy())
    return _Relevance(grades, groups, count - len(grades))


def _measured(run: Given, stage: Stage, relevance: _Relevance, chosen: _Chosen) -> _Measured:
    values = torch.zeros(len(relevance.grades), len(chosen), dtype=torch.double)
    rows = {query: row for row, query in enumerate(relevance.grades)}
    count, found = 0, False
    strangers: list[str] = []
    for query, listed in _by_query("run", run, partial(lists_of_run, stage=stage), RUN):
        if query not in rows:
            strangers = [*strangers, query][:2]
            continue
        count += 1
        row, grades, scores = rows[query], relevance.grades[query], _numbers(listed, query, "score")
        found = found or not scores.keys().isdisjoint(grades)
        gains = np.array([grades.get(picture, 0.0) for picture in scores])
        best_first = np.lexsort((gains, -np.array(list(scores.values()))))
        ideal = np.sort(list(grades.values()))[::-1]
        for column, measure in enumerate(chosen.values()):
            values[row, column] = 100 * measure(gains[best_first], ideal)
    if not count:
        theirs, ours = (", ".join(map(repr, list(one)[:2])) for one in (rows, strangers))
        raise EdjeError(
            f"The run has none of the judged queries: the qrels have {theirs}, the run "
            f"{ours or 'no query'}. Use the same ids in both."
        )
    if not found:
        log.warning(
            "No list of the run has any relevant picture. If it names pictures otherwise than the "
            "qrels do (such as %r), use the same ids in both.",
            next(iter(next(iter(relevance.grades.values())))),
        )
    return _Measured(values, len(rows) - count)


def _by_query(
    name: str, given: Given, of_run: Callable[[Path], _ByQuery], columns: Columns
) -> _ByQuery:
    """Each query with the numbers of its pictures; those of a run folder are made one by one."""
    if isinstance(given, str | Path):
        check_path(name, given)
        path = Path(given)
        return of_run(path) if path.is_dir() else read_trec(path, columns).items()
    if not isinstance(given, Mapping):
        raise EdjeError(
            f"Got a {type(given).__name__}, expected a mapping from queries to pictures with their "
            "numbers, a run folder or the path of a TREC file."
        )
    return given.items()


def _numbers(given: Any, query: str, what: str) -> Numbers:
    """The scores or grades of a query's pictures as floats."""
    if not isinstance(given, Mapping):
        raise EdjeError(
            f"The query {query!r} has a {type(given).__name__}, expected a mapping from pictures "
            f"to a {what} each."
        )
    numbers: Numbers = {}
    for picture, value in given.items():
        try:
            numbers[picture] = float(value)
        except (TypeError, ValueError):
            numbers[picture] = math.nan
        if not math.isfinite(numbers[picture]):
            raise EdjeError(
                f"The query {query!r} has the {what} {value!r} for {picture!r}, expected a finite "
                "number."
            )
    return numbers


def _runs(given: Any) -> list[Given]:
    alone = isinstance(given, str | Path | Mapping) or not isinstance(given, Iterable)
    runs = [given] if alone else list(given)
    if not runs:
        raise EdjeError("A side of the comparison has no run. Give one or several.")
    return runs


def _chosen(measures: Any) -> _Chosen:
    names = [measures] if isinstance(measures, str) else measures
    if not isinstance(names, Iterable) or not (names := list(names)):
        raise EdjeError(f"measures={measures!r}: expected one or several, such as nDCG@10.")
    for name in names:
        if not isinstance(name, str):
            raise EdjeError(f"measures: got {name!r}, expected names such as nDCG@10.")
    return {name: measure_named(name) for name in names}
