"""What may change when a run is resumed; changes without effect are refused, not recorded."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from edje.config.choices import TRAINING
from edje.config.defaults import fill_defaults
from edje.config.problems import shown
from edje.config.resolution import leaves, plain
from edje.config.saved import from_text
from edje.errors import EdjeError

# Keys, and beginnings of keys, that only training reads.
OF_TRAINING = (
    *("seed", "teacher", "start.", "miner", "storage.raw_codec", "compile_training"),
    *("objective.", "negatives.", "loader.", "optim."),
    *("scoring.dev_every", "scoring.patience"),
    *("trainer.precision", "trainer.gradient_clip_", "trainer.accumulate_grad_batches"),
    *("trainer.max_", "trainer.min_"),
)
OF_WEIGHTS = ("adapter.", "joint.", "trainer.accumulate_grad_batches")
OF_DEV = (".dev_images", ".dev_seed")  # ends of keys: which images training doesn't see
PLACES = ("pretrained", "tokenizer")  # paths of weights: the same weights may be elsewhere


def check_changes(cfg: DictConfig, folder: Path) -> None:
    """Refuse changes that a resumed run would record in its configuration but not apply.

    Raises:
        EdjeError: the weights don't fit a change, or it concerns training that is finished.
    """
    if cfg.task not in TRAINING:
        return
    text = (folder / "config.yaml").read_text("utf-8")
    stored = fill_defaults(from_text(text, f"{folder}/config.yaml"))
    before, after = (dict(leaves("", plain(tree, "", []))) for tree in (stored, cfg))
    changed = [key for key in after if key not in before or after[key] != before[key]]
    for key in changed:
        was = f"{key}{shown(before[key])}" if key in before else f"{key} at its default"
        if key.startswith(OF_WEIGHTS) and not key.endswith(PLACES):
            raise EdjeError(
                f"{key}{shown(after[key])}: this run's weights were made with {was}. Leave it out, "
                "or start a new run with it."
            )
        if key.endswith(OF_DEV):
            raise EdjeError(
                f"{key}{shown(after[key])}: this run trained with {was}, so it has seen images "
                "that dev would now hold, and its best score is of others. Leave it out, or start "
                "a new run with it."
            )
    _check_terms(before, after)
    done, asked = steps_trained(folder), after.get("trainer.max_steps")
    if done is None or not isinstance(asked, int):
        return
    if 0 < asked < done:
        raise EdjeError(
            f"trainer.max_steps={asked}: this run has already trained {done} steps, so nothing "
            "would be trained. Leave it out, or give a greater number to train on."
        )
    idle = [key for key in changed if key.startswith(OF_TRAINING)]
    stopped = asked != done and was_stopped(folder, after.get("scoring.patience"))
    if (asked == done or stopped) and idle and is_finished(folder):
        on = "another scoring.patience" if stopped else f"trainer.max_steps above {done}"
        raise EdjeError(
            f"{idle[0]}{shown(after[idle[0]])}: the training of this run is finished, so nothing "
            f"would be trained with it. Train on with {on}, or start a new run."
        )


def _check_terms(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse terms of the loss, or a residual, that come or go."""
    had, has = _terms(before), _terms(after)
    if other := sorted(had ^ has):
        raise EdjeError(
            f"{other[0]}: this run began {'with' if other[0] in had else 'without'} it, and its "
            "optimiser holds what it trains. Leave the change out, or start a new run from its "
            "weights: start=checkpoint start.path=<its folder>."
        )


def _terms(values: Mapping[str, Any]) -> set[str]:
    """The terms of the loss, and whether the first stage's score is one of the inputs."""
    terms = {".".join(key.split(".")[:2]) for key in values if key.startswith("objective.")}
    found = {term for term in terms if values.get(term, "") is not None}
    return found | ({"score=residual"} if values.get("score") == "residual" else set())


def is_finished(folder: Path) -> bool:
    """Whether a run's training is complete."""
    return (folder / "checkpoints" / "model.ckpt").is_file()


def steps_trained(folder: Path) -> int | None:
    """Optimiser steps done in a run folder's last checkpoint; None without a checkpoint."""
    return _last_checkpoint(folder).get("global_step")


def was_stopped(folder: Path, patience: int | None) -> bool:
    """Whether the last checkpoint follows at least `patience` scores on dev without a new best."""
    return patience is not None and _dev_scores(folder).get("since_best", 0) >= patience


def best_on_dev(folder: Path) -> float | None:
    """The best score on dev while a run trained, t2i R@1 in percent; None without scores on dev."""
    best = _dev_scores(folder).get("best", -math.inf)
    return None if best == -math.inf else float(best)


def _dev_scores(folder: Path) -> dict[str, Any]:
    """The state of a run's scores on dev in its last checkpoint; empty without any."""
    states = _last_checkpoint(folder).get("callbacks", {}).values()
    return next((one for one in states if isinstance(one, dict) and "best" in one), {})


def _last_checkpoint(folder: Path) -> dict[str, Any]:
    import torch

    last = folder / "checkpoints" / "last.ckpt"
    if not last.is_file():
        return {}
    found: dict[str, Any] = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
    return found
