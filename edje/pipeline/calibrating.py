"""Calibrations: fitted on dev at the end of a training, and measured on the evaluated split."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edje.backbones.protocol import Backbone
from edje.inference.checkpoint import Checkpoint, each_budget
from edje.inference.run_choices import Score, calibrations_for
from edje.pipeline.collection import Collection
from edje.pipeline.sampled_searches import SMALLEST, sampled_searches
from edje.pipeline.scoring import Scoring
from edje.records import Direction
from edje.retrieval.calibration import Calibration, Searches, fit_calibration, joined
from edje.retrieval.metrics import best_first
from edje.retrieval.reliability import calibration_error, error_by_chance, reliability
from edje.tokens.codec import CodecName

log = logging.getLogger(__name__)


def fitted_calibrations(
    trained: Checkpoint,
    backbone: Backbone,
    dev: Collection,
    scoring: Scoring,
    codec: CodecName,
    score: Score,
    seed: int,
    devices: Sequence[torch.device],
) -> dict[int, dict[Direction, Calibration]]:
    """Calibrations of both directions, fitted on dev: with all tokens and with each nested budget.

    Empty if dev has too few images. The model is on the first device, and all devices share the
    pairs. For score=sum, its weights must already be fitted.
    """
    num_images = len(dev.split.images)
    if num_images < SMALLEST:
        log.info(
            "no calibration: dev has %d images, but needs %d. Set data.dev_images",
            num_images,
            SMALLEST,
        )
        return {}
    fitted: dict[int, dict[Direction, Calibration]] = {}
    for count, served in each_budget(trained):
        searches = sampled_searches(served, backbone, dev, scoring, codec, score, seed, devices)
        fitted[count] = {
            direction: fit_calibration(joined(of_sizes), score)
            for direction, of_sizes in searches.items()
        }
    return fitted


def measured_calibrations(
    checkpoint: Checkpoint,
    backbone: Backbone,
    collection: Collection,
    scoring: Scoring,
    codec: CodecName,
    score: Score,
    seed: int,
    devices: Sequence[torch.device],
) -> dict[str, Any]:
    """How reliable a checkpoint's calibrations are on a collection, by direction, for metrics.json.

    Empty if the checkpoint has none for this score, or the collection has too few images.
    """
    calibrations = calibrations_for(checkpoint, score)
    if not calibrations or len(collection.split.images) < SMALLEST:
        return {}
    searches = sampled_searches(
        checkpoint, backbone, collection, scoring, codec, score, seed, devices
    )
    return {
        direction: honesty(calibrations[direction], of_sizes)
        for direction, of_sizes in searches.items()
    }


def honesty(calibration: Calibration, of_sizes: Sequence[Searches]) -> dict[str, Any]:
    """How reliable the first hits' probabilities are: overall, by probability, by gallery size.

    `ece` is the expected calibration error, `ece_by_chance` that of perfect probabilities.
    `bins` are triples: mean probability, share that is right, number of searches. `galleries` are
    quadruples: size, the two errors, number of searches. `fitted_on` are the smallest and largest
    gallery of the fit.
    """
    whole = reliability(*first_hits(calibration, joined(of_sizes)))
    galleries = []
    for searches in of_sizes:
        size = round(searches.gallery_sizes.double().mean().item())
        bins = reliability(*first_hits(calibration, searches))
        errors = calibration_error(bins), error_by_chance(bins)
        galleries.append([size, *errors, len(searches.gallery_sizes)])
    return {
        "ece": calibration_error(whole),
        "ece_by_chance": error_by_chance(whole),
        "fitted_on": [calibration.smallest_gallery, calibration.largest_gallery],
        "galleries": galleries,
        "bins": [[round(one.probability, 4), round(one.right, 4), one.searches] for one in whole],
    }


def first_hits(calibration: Calibration, searches: Searches) -> tuple[Tensor, Tensor]:
    """Probability of each search's first hit, and whether it is right."""
    _, right = best_first(searches.scores, searches.right)
    return calibration.first_hits(searches), right[:, 0]
