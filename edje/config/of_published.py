"""Checkpoints without a configuration: theirs is composed, starting from one experiment."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from edje.config.of_checkpoint import lacks_configuration, stored_config
from edje.config.overrides import key_of, quoted, value_given
from edje.config.problems import short
from edje.errors import EdjeError

EXPERIMENT = "experiment=published"
PLAIN = {"num_layers": None, "fusion_layer": 0, "evidence": False}  # the published joint encoder


def composition_for(arguments: list[str]) -> list[str]:
    """Arguments that make the composition start from the given checkpoint.

    They add its name for the run folder. If it has no configuration, they add an experiment for
    such checkpoints instead, unless one is chosen; a sweep over several gets this too.

    Raises:
        EdjeError: a checkpoint can't be read, or a sweep mixes both kinds.
    """
    given = value_given(arguments, "checkpoint") or "null"
    several = [given] if Path(given).exists() else given.split(",")
    named = [one for one in several if is_there(one)]
    bare = [one for one in named if lacks_configuration(one)]
    if bare and bare != several:
        others = ", ".join(one for one in several if one not in bare)
        raise EdjeError(
            f"checkpoint={given}: {', '.join(bare)} carries no configuration, the others "
            f"({others}) do. Run one sweep for each kind."
        )
    if bare:
        return [] if value_given(arguments, "experiment") else [EXPERIMENT]
    if named and len(several) == 1 and value_given(arguments, "name") is None:
        name = stored_config(given).get("name")  # a training from Python may give none
        return [] if name is None else [f"++name={quoted(str(name))}"]
    return []


def is_there(checkpoint: str) -> bool:
    """Whether a path exists, comes with edje, or is a name that can be fetched from the hub."""
    if Path(checkpoint).exists():
        return True
    from edje.inference.location import hub_name, shipped_folder  # imports torch

    return shipped_folder(checkpoint) is not None or hub_name(checkpoint) is not None


def config_of_published(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The composed configuration, with the adapter that the checkpoint has.

    Raises:
        EdjeError: the command asks for an adapter or joint encoder that the checkpoint lacks.
    """
    from edje.inference.reference import adapter_of  # imports torch

    adapter = adapter_of(Path(cfg.checkpoint))
    where = f"the checkpoint {cfg.checkpoint}"
    for override in overrides:
        if key_of(override).split(".")[0] == "adapter":
            raise EdjeError(
                f"{override}: {where} has its own adapter, "
                f"{short(adapter.target)} with {dict(adapter.choices)}. Leave it out."
            )
    for name, value in PLAIN.items() if "pretrained" in cfg.joint else ():
        if cfg.joint.get(name, value) != value:
            raise EdjeError(
                f"joint.{name}={cfg.joint[name]}: {where} has all layers of its language model, "
                f"joined from the first on. Leave it out (joint=minilm has {name}={value})."
            )
    composed = cfg.copy()
    OmegaConf.set_struct(composed, False)
    composed.adapter = {"_target_": adapter.target, **adapter.choices}
    return composed
