"""What reranking fixed and what it broke, by what the captions mention."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from edje.analysis.caption_facts import caption_facts
from edje.analysis.lists import image_rows, read_text_lists
from edje.analysis.runs import read_metrics
from edje.ranges import check_count
from edje.retrieval.intervals import interval_columns
from edje.retrieval.metrics import first_hit_ranks

# The groups of each fact: smallest count of the group → its name.
GROUPS: dict[str, dict[int, str]] = {
    "words": {0: "up to 5", 6: "6 to 10", 11: "11 to 15", 16: "16 to 20", 21: "21 and more"},
    "things": {0: "up to 1", 2: "2", 3: "3", 4: "4 and more"},
    "colours": {0: "none", 1: "1", 2: "2", 3: "3", 4: "4 and more"},
    "relations": {0: "none", 1: "1", 2: "2", 3: "3 and more"},
}


def failures(
    run_folder: str | Path, *, k: int = 1, seed: int | None = None, resamples: int = 1000
) -> pd.DataFrame:
    """Text queries that reranking fixed and broke, a row per group of captions.

    The first row is all captions. Then come groups by length (`words`), number of things
    mentioned (`things`), of colour words (`colours`) and of spatial relations (`relations`);
    empty groups are left out. The facts are looked up in lists of English words.

    Columns: `fact`, `group`, counts of `queries`, `fixed` (a hit among the first `k` after
    reranking, none before), `broken` (the reverse) and `missed` (no hit among the candidates, so
    reranking can't help); and, in percent of the group's queries with `.low` and `.high`,
    `fixed.share`, `broken.share` and `gain`, their difference in points.

    Args:
        k: a hit among the first `k` counts.
        seed: of the bootstrap over images; by default the run's.
        resamples: number of bootstrap resamples of the images.

    Raises:
        EdjeError: the run has no lists of text queries with their text, or `k` or `resamples` is
            below 1.
    """
    if seed is None:
        seed = int(read_metrics(run_folder)["seed"])
    queries = query_outcomes(run_folder, k=k)
    rows = [_row("all", "all", queries, seed, resamples)]
    for fact, groups in GROUPS.items():
        least = np.array(list(groups))
        place = np.searchsorted(least, queries[fact].to_numpy(), side="right") - 1
        rows += [
            _row(fact, name, queries[place == number], seed, resamples)
            for number, name in enumerate(groups.values())
            if (place == number).any()
        ]
    return pd.DataFrame(rows)


def query_outcomes(run_folder: str | Path, *, k: int = 1) -> pd.DataFrame:
    """What reranking did to each text query, a row per query in the run's order.

    Columns: `query_id`, `image_id`, `text`; the rank of the first hit `before` and `after`,
    infinite where no candidate is a hit; `outcome`: fixed, broken, right (among the first `k`
    both times), wrong or missed (not among the candidates); and the caption's `words`,
    `things`, `colours` and `relations`. `gallery(run, queries=…)` draws queries by their ids.

    Raises:
        EdjeError: the run has no lists of text queries with their text, or `k` is below 1.
    """
    check_count("k", k, 1)
    stored = read_text_lists(run_folder)
    relevant = stored.reranked.first.relevant
    before, after = (
        first_hit_ranks(scores, relevant).numpy()
        for scores in (stored.reranked.first.scores, stored.reranked.final)
    )
    table = stored.queries[["query_id", "image_id", "text"]].assign(before=before, after=after)
    table["outcome"] = np.select(
        [np.isinf(before), (before > k) & (after <= k), (before <= k) & (after > k), after <= k],
        ["missed", "fixed", "broken", "right"],
        default="wrong",
    )
    facts = pd.DataFrame([asdict(caption_facts(text)) for text in table["text"]], table.index)
    return pd.concat([table, facts], axis=1)


def _row(fact: str, group: str, queries: pd.DataFrame, seed: int, resamples: int) -> dict[str, Any]:
    outcomes = {name: queries["outcome"] == name for name in ("fixed", "broken", "missed")}
    row: dict[str, Any] = {"fact": fact, "group": group, "queries": len(queries)}
    row |= {name: int(chosen.sum()) for name, chosen in outcomes.items()}
    fixed, broken = (100.0 * outcomes[name].to_numpy() for name in ("fixed", "broken"))
    columns = torch.from_numpy(np.stack([fixed, broken, fixed - broken], axis=1))
    images = image_rows(queries["image_id"])
    estimates = interval_columns(columns, images, seed, resamples=resamples)
    for name, estimate in zip(("fixed.share", "broken.share", "gain"), estimates, strict=True):
        row |= {name: estimate.value, f"{name}.low": estimate.low, f"{name}.high": estimate.high}
    return row
