"""Configurations as YAML: a training's in its checkpoints, an evaluation's in its run folder."""

from collections.abc import Mapping
from typing import Any

import yaml

from edje.backbones.loading import built_from
from edje.backbones.pretrained import weights_digest
from edje.backbones.protocol import Backbone
from edje.data.sources.source import Source, split_digest
from edje.inference.checkpoint import Checkpoint
from edje.inference.run_choices import CODECS, Score, configuration_of
from edje.inference.saved_folder import with_assets
from edje.pipeline.preparation import Training
from edje.pipeline.scoring import Scoring
from edje.pipeline.storage import Storage
from edje.registry import lasting_name


def recorded(
    checkpoint: Checkpoint, training: Training, backbone: Backbone, storage: Storage
) -> str:
    """The checkpoint's configuration as YAML, with the choices that the training was given.

    Those are its score, its number formats and number of tokens, and how its backbone is built if
    `load_backbone` built it. A configuration that says all this already stays as it is.
    """
    config, scoring = configuration_of(checkpoint), training.scoring
    of_scoring = {"precision": scoring.precision_name, "num_tokens": scoring.num_tokens}
    of_storage = {name: getattr(storage, name) for name in (*CODECS, "tower_precision")}
    full = {
        **config,
        "score": training.score,
        "scoring": _completed(config.get("scoring"), Scoring, of_scoring),
        "storage": _completed(config.get("storage"), Storage, of_storage),
    }
    if "backbone" not in config and (values := _plain(built_from(backbone))):
        full["backbone"] = values
    if full == config:
        return checkpoint.config
    return _text(full)


def of_evaluation(checkpoint: Checkpoint, scoring: Scoring, score: Score, source: Source) -> str:
    """The config.yaml of an evaluation: its reranker's configuration, and how it is scored.

    `evaluated` says what: the data, with the digest of the whole split, and the digest of the
    reranker's weights, by which seeds differ. The data of the training is left out.

    Raises:
        EdjeError: the source's split can't be read.
    """
    config = configuration_of(checkpoint)
    config.pop("data", None)
    chosen = {
        "candidates": scoring.candidates,
        "precision": scoring.precision_name,
        "num_tokens": scoring.num_tokens,
        "shuffle_tokens": scoring.shuffle_tokens,
    }
    own = {
        "task": "evaluate",
        "score": score,
        "scoring": _completed(config.get("scoring"), Scoring, chosen),
        "evaluated": {
            "dataset": source.name,
            "split": source.split,
            "split_digest": split_digest(source.read(source.split)),
            "weights": weights_digest(checkpoint.model),
        },
    }
    target = lasting_name("adapter", checkpoint.adapter.target)
    adapter = {"_target_": target, **checkpoint.adapter.choices}
    return _text({"adapter": adapter, **config, **own})


def _text(config: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    return text


def _completed(node: Any, cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    before = node if isinstance(node, Mapping) else {}
    return {"_target_": f"{cls.__module__}.{cls.__qualname__}", **before, **values}


def _plain(values: dict[str, Any] | None) -> Any:
    """The values if a file can hold them, wherever edje is installed; None for objects."""
    try:
        yaml.safe_dump(values)
    except yaml.YAMLError:
        return None
    return with_assets(values)
