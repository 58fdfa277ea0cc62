"""Continuing a training from its last checkpoint: what must be as before, and what is told."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from edje.errors import EdjeError
from edje.inference.checkpoint import PREFIX, Checkpoint
from edje.inference.run_choices import differing_identity
from edje.pipeline.preparation import Training

log = logging.getLogger(__name__)
SETTINGS = "edje_training"  # of a training's checkpoint: what it was given
PLAIN = (bool, int, float, str, tuple, type(None))


def check_continued(last: Path, training: Training, new: Checkpoint) -> None:
    """Refuse to continue with another backbone or model.

    Other settings are refused if the training is finished, else logged.

    Raises:
        EdjeError: something differs; the message says what.
    """
    content = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
    if differing := differing_identity(content["edje"]["backbone"], new.backbone):
        raise EdjeError(
            f"{last} was trained on another backbone's tokens ({'; '.join(differing)}). Resume it "
            "with the backbone of its run, or start a new run: start=checkpoint "
            f"start.path={last}."
        )
    made_for, here = content["edje"]["facts"], asdict(new.facts)
    if other := [
        f"{name} {made_for.get(name)}, here {value}"
        for name, value in here.items()
        if made_for.get(name) != value
    ]:
        raise EdjeError(
            f"{last} was trained with {'; '.join(other)}, as another version of edje or of its "
            f"backbone has it. Start a new run from it: start=checkpoint start.path={last}."
        )
    for name, tensor in new.model.state_dict().items():
        own = content["state_dict"].get(PREFIX + name)
        if own is None or own.shape != tensor.shape:
            there = "none" if own is None else tuple(own.shape)
            raise EdjeError(
                f"{last} is of another model: the shape of {name} is {there} there, here "
                f"{tuple(tensor.shape)}. Give the new training another folder."
            )
    before, now = content.get(SETTINGS, {}), settings_of(training)
    changed = [key for key in before | now if before.get(key) != now.get(key)]
    if not before or not changed:
        return
    key, more = changed[0], f" (and {len(changed) - 1} more)" if changed[1:] else ""
    difference = f"{key}={before.get(key)} where this training has {key}={now.get(key)}{more}"
    done, asked = content["global_step"], training.trainer["max_steps"]
    if 0 < asked <= done:
        raise EdjeError(
            f"{last} ends a training of {done} steps with {difference}, so nothing would be "
            f"trained. Give the new training another folder, or train on with max_steps above "
            f"{done}."
        )
    log.warning("%s is continued; it had %s", last, difference)


def settings_of(training: Training) -> dict[str, str]:
    """What a training was given for its loss and its optimiser, as texts by name."""
    parts = {
        **{f"objectives.{name}": term for name, term in training.objectives.items()},
        "optimisation": training.optimisation,
        "negatives": training.negatives,
    }
    found = {name: repr(getattr(training, name)) for name in ("seed", "score", "teacher")}
    for name, part in parts.items():
        found[name] = type(part).__name__
        found |= {f"{name}.{key}": repr(value) for key, value in _plain_values(part).items()}
    return found


def _plain_values(part: object) -> dict[str, Any]:
    """The attributes of a part that are plain values, without a module's own."""
    return {
        key: value
        for key, value in vars(part).items()
        if isinstance(value, PLAIN) and not key.startswith("_") and key != "training"
    }
