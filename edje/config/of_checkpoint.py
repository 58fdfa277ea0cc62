"""The configuration stored in a checkpoint."""

from functools import cache
from pathlib import Path

from omegaconf import DictConfig

from edje.config.saved import from_text


def lacks_configuration(checkpoint: str) -> bool:
    """Whether a checkpoint has no run's configuration: a published one, or one saved from it."""
    return "backbone" not in stored_config(checkpoint)


def packages_for(given: str) -> dict[str, str]:
    """The packages that provide a checkpoint's or run folder's parts from outside edje."""
    from edje.inference.checkpoint import read_checkpoint  # imports torch

    return dict(read_checkpoint(Path(given))["edje"].get("packages", {}))


def stored_config(checkpoint: str) -> DictConfig:
    """The configuration in a checkpoint."""
    return from_text(checkpoint_text(checkpoint), f"checkpoint={checkpoint}")


@cache
def checkpoint_text(checkpoint: str) -> str:
    """The same as YAML."""
    from edje.inference.reference import configuration_of  # imports torch

    return configuration_of(Path(checkpoint))
