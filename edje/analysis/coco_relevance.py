"""COCO's recall with all that is relevant: CxC and ECCV Caption, whose lists name more pairs.

COCO knows five captions of an image as relevant, though others describe it as well, so a better
ranking may have a smaller recall. CxC (Parekh et al., EACL 2021) and ECCV Caption (Chun et al.,
ECCV 2022) had people judge further pairs; the package eccv-caption has both lists.
"""

import io
import json
import re
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pandas as pd

from edje.analysis.lists import StoredLists, read_lists
from edje.captions import clean_caption
from edje.errors import EdjeError
from edje.records import DIRECTIONS

CUTOFFS = (1, 5, 10)
MEASURED = ("coco_5k_recalls", "cxc_recalls", "eccv_r1", "eccv_map_at_r", "eccv_rprecision")
NAMES = {
    **{f"coco_5k_r{k}": f"COCO R@{k}" for k in CUTOFFS},
    **{f"cxc_r{k}": f"CxC R@{k}" for k in CUTOFFS},
    **{"eccv_r1": "ECCV R@1", "eccv_map_at_r": "ECCV mAP@R", "eccv_rprecision": "ECCV R-Precision"},
}
MOST_RELEVANT = 48  # of one query in ECCV Caption: its R


def coco_relevance(run_folder: str | Path, annotations: str | Path) -> pd.DataFrame:
    """Recall of a run on COCO's test split by COCO's, CxC's and ECCV Caption's relevance.

    A row per figure, in percent: R@1, 5 and 10 by COCO and CxC, and R@1, mAP@R and R-Precision
    by ECCV Caption. Columns: `t2i.first_stage`, `t2i.reranked`, `i2t.first_stage` and
    `i2t.reranked`. R is a query's number of relevant items, up to 48. What isn't among a query's
    candidates counts as not found, so with fewer than R candidates the last two are lower
    bounds.

    Args:
        run_folder: a run that was evaluated on all 5,000 images of Karpathy's test split.
        annotations: Karpathy's dataset_coco.json, which has COCO's numbers of the captions.

    Raises:
        EdjeError: the package isn't installed, the run is of other images, or the annotations
            aren't its own.
    """
    measures = _measures()
    lists = read_lists(run_folder)
    numbers = _numbers(Path(annotations), lists, run_folder)
    found: dict[str, dict[str, float]] = {name: {} for name in NAMES.values()}
    for stage in ("first_stage", "reranked"):
        ranked = {way: _ranked(lists[way], stage, numbers) for way in DIRECTIONS}
        with redirect_stderr(io.StringIO()):  # its progress bars
            scores = measures.compute_all_metrics(
                ranked["i2t"], ranked["t2i"], target_metrics=MEASURED, Ks=CUTOFFS
            )
        for name, values in scores.items():
            for way in DIRECTIONS:
                found[NAMES[name]][f"{way}.{stage}"] = 100 * float(values[way])
    columns = [f"{way}.{stage}" for way in DIRECTIONS for stage in ("first_stage", "reranked")]
    return pd.DataFrame.from_dict(found, orient="index")[columns]


def _measures() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it would read JSON faster with another package
            from eccv_caption import Metrics
    except ImportError as error:
        raise EdjeError(
            f"CxC's and ECCV Caption's relevance need the package eccv-caption ({error}). Install "
            "it: pip install 'edje[coco]'."
        ) from error
    return Metrics()


def _numbers(
    annotations: Path, lists: Mapping[Any, StoredLists], run_folder: str | Path
) -> dict[str, int]:
    """COCO's number of every image and caption of a run, by the run's ids."""
    if set(lists) != set(DIRECTIONS) or len(lists["i2t"].queries) != 5000:
        raise EdjeError(
            f"{run_folder} was not evaluated on COCO's 5,000 test images in both directions, for "
            "which the relevance is known. Evaluate it with data=coco data.split=test."
        )
    try:
        entries = json.loads(annotations.read_text(encoding="utf-8"))["images"]
        images = {entry["filename"]: entry for entry in entries if entry["split"] == "test"}
        known = {
            name: (int(entry["cocoid"]), [(int(s["sentid"]), s["raw"]) for s in entry["sentences"]])
            for name, entry in images.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EdjeError(
            f"{annotations} can't be read as Karpathy's dataset_coco.json ({error!r}). Give the "
            "file that has COCO's cocoid and sentid."
        ) from error
    numbers: dict[str, int] = {}
    for query, image, text in lists["t2i"].queries[["query_id", "image_id", "text"]].to_numpy():
        coco, sentences = known.get(Path(image).name, (0, []))
        place = int(query.rpartition("#")[2])
        if place >= len(sentences) or _letters(sentences[place][1]) != _letters(text):
            raise EdjeError(
                f"{annotations} doesn't have the caption {query} of {run_folder} ({text!r}). Give "
                "the annotations that the run was evaluated on."
            )
        numbers[image], numbers[query] = coco, sentences[place][0]
    return numbers


def _ranked(stored: StoredLists, stage: str, numbers: Mapping[str, int]) -> dict[int, list[int]]:
    """COCO's numbers of each query's candidates, best first, then numbers that nothing has."""
    first = stored.reranked.first
    scores = first.scores if stage == "first_stage" else stored.reranked.final
    order = scores.argsort(dim=1, descending=True, stable=True)
    names = [numbers[name] for name in stored.candidate_ids]
    nothing = [-1 - place for place in range(MOST_RELEVANT)]
    return {
        numbers[query]: [names[one] for one in row] + nothing
        for query, row in zip(
            stored.queries["query_id"], first.candidates.gather(1, order).tolist(), strict=True
        )
    }


def _letters(text: str) -> str:
    """What the rules of cleaning captions leave alike."""
    return re.sub(r"\W", "", clean_caption(text))
