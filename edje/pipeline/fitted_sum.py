"""The weights of score=sum, fitted on dev at the end of a run, or later for another score's run."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from edje.backbones.protocol import Backbone
from edje.data.mixture.pretrain import DEV, PretrainSource, trained_on
from edje.data.sources.holdout import hold_out
from edje.data.sources.source import Source
from edje.errors import EdjeError
from edje.inference.checkpoint import Checkpoint, each_budget
from edje.inference.fitted_sums import FittedSums
from edje.inference.run_choices import configuration_of
from edje.pipeline.collection import Collection, collection_of, raw_fingerprints
from edje.pipeline.devices import similarity_device
from edje.pipeline.finding import find_store, open_store
from edje.pipeline.first_stage import first_stage_lists
from edje.pipeline.scoring import Scoring, fusion_weights, rerank_collection
from edje.pipeline.token_cache import Cache
from edje.records import Direction
from edje.retrieval.fusion import SumFusion
from edje.tokens.codec import CodecName
from edje.tokens.manifest import STORE_FILE

log = logging.getLogger(__name__)
HELD_BACK = ("dev_images", "dev_seed")


def fitted_sums(
    trained: Checkpoint,
    backbone: Backbone,
    dev: Collection,
    scoring: Scoring,
    codec: CodecName,
    devices: Sequence[torch.device],
    before: FittedSums = {},  # noqa: B006  # never changed
) -> FittedSums:
    """score=sum fitted on dev: with all tokens and with each of an adapter's nested budgets.

    The model is on the first device, and all devices share the pairs. Where the gain on dev could
    be chance, the weights of `before` are kept, those of the reranker that training started from.
    """
    first = first_stage_lists(
        backbone, dev, scoring.candidates, device=similarity_device(devices[0])
    )
    fitted: dict[int, Mapping[Direction, SumFusion]] = {}
    for count, served in each_budget(trained):
        lists, *_ = rerank_collection(
            served, backbone, dev, scoring, codec, first=first, devices=devices
        )
        fitted[count] = fusion_weights(lists, before.get(count, {}))
    if before:
        log.info("score=sum: where its gain on dev could be chance, the start's weights are kept")
    unused = [
        f"{direction} with {count} tokens"
        for count, sums in fitted.items()
        for direction, one in sums.items()
        if one.weight == 0
    ]
    if unused:
        log.warning(
            "score=sum: on the %d images held back, the reranker gains no more than chance over "
            "the first stage, which therefore ranks alone (weight 0): %s. Hold back more images "
            "(data.dev_images), train on more, or use score=joint",
            len(dev.split.images),
            ", ".join(unused),
        )
    return fitted


def dev_to_fit_on(
    cache: Cache, source: Source, backbone: Backbone, checkpoint: Checkpoint
) -> Collection:
    """The images that a checkpoint's run held back, if everything needed is in the cache.

    Raises:
        EdjeError: the run held none back, was trained on another data set than the source's, or
            doesn't say which, or their tokens aren't in the cache.
    """
    held_back = _held_back(checkpoint)
    has_its_data = checkpoint.label == f"{trained_on(source)} train"
    if has_its_data and not held_back:
        raise _not_fitted(checkpoint, "it doesn't say which images its run held back")
    if not has_its_data or held_back != {name: getattr(source, name) for name in HELD_BACK}:
        raise _not_fitted(checkpoint, "data, dev_images or dev_seed isn't its run's")
    if not source.dev_images:
        raise _not_fitted(checkpoint, "its run held back no images for fitting one")
    name = DEV if isinstance(source, PretrainSource) else "train"
    try:
        split = source.read(name)
    except EdjeError as error:
        raise _not_fitted(checkpoint, f"there is no split for fitting one ({error})") from error
    fingerprints = raw_fingerprints(split, backbone.identity(), cache.storage)
    folder, _ = find_store(cache.folder, source.name, name, "raw", fingerprints)
    if not (folder / STORE_FILE).is_file():
        raise _not_fitted(checkpoint, f"the tokens of its held-back images aren't in {folder}")
    log.info("score=sum: fitting its weights now, on the images that the run held back")
    found = collection_of(cache, source, split, backbone, open_store(folder, fingerprints))
    if name == DEV:
        return found
    return found.restricted(hold_out(found.split, source.dev_images, source.dev_seed)[1])


def _held_back(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """A run's dev_images and dev_seed, of an older one by its configuration; empty if unknown."""
    if checkpoint.held_back:
        return checkpoint.held_back
    data = configuration_of(checkpoint).get("data")
    evaluated = data.get("evaluated") or data if isinstance(data, Mapping) else {}  # of a mixture
    found = {name: evaluated.get(name) for name in HELD_BACK}
    return found if all(isinstance(value, int) for value in found.values()) else {}


def _not_fitted(checkpoint: Checkpoint, reason: str) -> EdjeError:
    tokens = checkpoint.model.adapter.num_tokens
    return EdjeError(
        f"score=sum: the checkpoint has no weight fitted with {tokens} tokens, and {reason}. Train "
        "with score=sum and data.dev_images > 0 (that fits one for each of an adapter's budgets), "
        "evaluate where its run's cache is, or use score=joint."
    )
