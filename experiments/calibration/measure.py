"""How reliable a run's calibration is on its evaluated split, at chosen gallery sizes.

python experiments/calibration/measure.py <run folder> [--sizes 50,100,300,500]

The calibration is fitted on dev as at the end of the run, then again without the lead of the first
hit, and again on the smallest galleries only. Each cell is the expected calibration error,
followed by that of perfect probabilities (by chance).
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
import yaml
from hydra.utils import instantiate

import edje
from edje.data.sources.holdout import hold_out
from edje.inference.checkpoint import load_checkpoint
from edje.pipeline import sampled_searches
from edje.pipeline.collection import Collection, cached_collection
from edje.pipeline.first_stage import restore_first_stage
from edje.pipeline.token_cache import Cache
from edje.records import DIRECTIONS, Direction
from edje.retrieval import calibration
from edje.retrieval.calibration import Calibration, Searches, fit_calibration, joined
from edje.retrieval.metrics import best_first
from edje.retrieval.reliability import calibration_error, error_by_chance, reliability

LOWER = slice(1, 4)  # the second to the fourth hit


@contextmanager
def without_lead() -> Iterator[None]:
    """Set every hit's lead to 0 in the block."""
    given = calibration.features

    def features(*inputs: torch.Tensor) -> torch.Tensor:
        found = given(*inputs)
        found[..., 2] = 0.0
        return found

    with mock.patch.object(calibration, "features", features):
        yield


def rows(name: str, fitted: Calibration, checked: Sequence[Searches]) -> Iterator[str]:
    """One row for the first hits, and one for the lower ones."""
    first, lower = [], []
    for searches in checked:
        scores, right = best_first(searches.scores.double(), searches.right)
        probability = fitted.first_hits(searches)
        first.append(reliability(probability, right[:, 0]))
        size = int(searches.gallery_sizes.double().mean().round())
        listed = scores[:, LOWER] > -torch.inf
        all_hits = fitted.probability(scores, size)[:, LOWER]
        lower.append(reliability(all_hits[listed], right[:, LOWER][listed]))
    for hits, bins in (("first", first), ("2nd to 4th", lower)):
        cells = [f"{calibration_error(one):.3f} ({error_by_chance(one):.3f})" for one in bins]
        yield f"| {name} | {hits} | {' | '.join(cells)} |"


def table(
    direction: str, dev: Sequence[Searches], checked: Sequence[Searches], score: str, fewest: int
) -> Iterator[str]:
    """Lines of one direction; the last fit uses only dev's `fewest` smallest gallery sizes."""
    sizes = [f"{searches.gallery_sizes.double().mean():.0f}" for searches in checked]
    yield f"\n| {direction} | hits | {' | '.join(sizes)} |\n|{'---|' * (2 + len(sizes))}"
    fitted = fit_calibration(joined(dev), score)
    yield from rows("as fitted", fitted, checked)
    with without_lead():
        yield from rows("without the lead", fit_calibration(joined(dev), score), checked)
    few = fit_calibration(joined(dev[:fewest]), score)
    yield from rows(f"fitted up to {few.largest_gallery:,}", few, checked)
    for precision in (0.8, 0.9):
        yield f"{precision:.0%}: {reached(fitted, precision, joined(checked))}"


def reached(fitted: Calibration, precision: float, searches: Searches) -> str:
    """The precision and answered share of a threshold on searches outside the fit."""
    try:
        threshold = fitted.threshold(precision)
    except edje.EdjeError as error:
        return str(error)
    accepted = fitted.first_hits(searches) >= threshold
    right = best_first(searches.scores, searches.right)[1][:, 0]
    share, answered = right[accepted].double().mean(), accepted.double().mean()
    return f"from {threshold:.3f} on {share:.1%} right, {answered:.1%} answered"


def main() -> None:
    """Fit, measure, print a table per direction."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--sizes", default="50,100,300,500", help="images per gallery")
    parser.add_argument("--fewest", type=int, default=2, help="gallery sizes in the last fit")
    parser.add_argument("--queries", type=int, default=500, help="per size and seed")
    parser.add_argument("--seeds", type=int, default=4)
    given = parser.parse_args()
    cfg = yaml.safe_load((given.run / "config.yaml").read_text())
    checkpoint = load_checkpoint(given.run)
    source, scoring = instantiate(cfg["data"]), instantiate(cfg["scoring"])
    backbone = edje.load_backbone(cfg["backbone"])
    restore_first_stage(backbone, checkpoint.first_stage)
    cache = Cache(Path(cfg["cache_dir"]), instantiate(cfg["storage"]))

    def searches(collection: Collection, seed: int) -> dict[Direction, list[Searches]]:
        codec, cpu = cache.storage.compressed_codec, (torch.device("cpu"),)
        what = (checkpoint, backbone, collection, scoring, codec, cfg["score"], seed, cpu)
        return sampled_searches.sampled_searches(*what)

    train = cached_collection(cache, source, backbone, "train")
    held_back = hold_out(train.split, source.dev_images, source.dev_seed)[1]
    dev = searches(train.restricted(held_back), cfg["seed"])
    split = cached_collection(cache, source, backbone, source.split)
    sizes = [int(size) for size in given.sizes.split(",")]
    with (
        mock.patch.object(sampled_searches, "gallery_sizes", lambda _: sizes),
        mock.patch.object(sampled_searches, "QUERIES", given.queries),
    ):
        drawn = [searches(split, 100 + seed) for seed in range(given.seeds)]
    for direction in DIRECTIONS:
        parts = zip(*(one[direction] for one in drawn), strict=True)
        checked = [joined(part) for part in parts]
        for line in table(direction, dev[direction], checked, cfg["score"], given.fewest):
            print(line)  # noqa: T201  # the output of the script


if __name__ == "__main__":
    main()
