"""Hydra's errors about a command line or a configuration file, in our words."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from edje.config.parts import signature_at
from edje.errors import EdjeError, first_line
from edje.part_kinds import KINDS
from edje.registry import names
from edje.renames import advice

PLUGINS = {  # launchers and sweepers that Hydra's own packages bring
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
    "ray": "hydra-ray-launcher",
    "rq": "hydra-rq-launcher",
    "ax": "hydra-ax-sweeper",
    "nevergrad": "hydra-nevergrad-sweeper",
}


# All that is matched in Hydra's messages; a test makes Hydra produce each.
KEY_OF_FAILURE = re.compile(r"full_key: (\S+)")
NO_OPTION = re.compile(r"group override must be")
SEVERAL_VALUES = re.compile(r"Ambiguous value for argument '(\w\S*?)=(\S*)'")
NO_SUCH_KEY = re.compile(r"Could not override '(\S+?)'\. To append")
NO_SUCH_GROUP = re.compile(r"Could not override '([\w/]+)'\. No match")
NO_INTERVALS = re.compile(r"does not support sweep type")
CHOSEN_TWICE = re.compile(r"appears more than once")


def own_words(error: Exception) -> Exception:
    """A constructor's error about its values, without Hydra's wrapper."""
    cause: BaseException | None = error
    while isinstance(cause, InstantiationException):
        key = KEY_OF_FAILURE.search(str(cause))
        cause = cause.__cause__
        if isinstance(cause, EdjeError):
            return cause
        if isinstance(cause, ValueError) and key:
            said = str(cause)
            return EdjeError(said if said.startswith(key[1]) else f"{key[1]}: {said}")
    return error


def is_of_composing(error: Exception) -> bool:
    """Whether an error is Hydra's about a command line or a file, rather than a launcher's."""
    return isinstance(error, OSError | HydraException | OmegaConfBaseException | yaml.YAMLError)


def explained(error: Exception, conf: Path) -> EdjeError:
    """A composition error as a user's error: what, where, and the nearest name."""
    if isinstance(error, EdjeError):  # raised by a sweeper, already explained
        return error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return unknown_option(str(error.missing_cfg_file), conf, error.options)
    if isinstance(error, OverrideParseException):
        return EdjeError(
            f"Can't read the override {error.override.removeprefix('++')!r}: expected key=value. "
            "Put a value with spaces or any of ,=[]{}() in quotes: \"key='a value'\"."
        )
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return EdjeError(f"{mark.name}, line {mark.line + 1}: not valid YAML: {error.problem}.")
    if isinstance(error, ValueError) and NO_OPTION.search(str(error)):
        return EdjeError("A group has no option: expected group=<option>, or leave the group out.")
    text = " ".join(str(error).replace("'++", "'").split())
    if isinstance(error.__cause__, OmegaConfBaseException):
        text += " " + first_line(error.__cause__)
    if ambiguous := SEVERAL_VALUES.search(text):
        key, value = ambiguous.groups()
        return EdjeError(
            f"{key}={value} gives several values: add -m to run a job for each, or write "
            f'"{key}=[{value}]" for a list, or \'{key}="{value}"\' for a text with a comma.'
        )
    if unknown := NO_SUCH_KEY.search(text):
        if said := advice(unknown[1]):
            return EdjeError(said)
        close = get_close_matches(unknown[1], known_keys(conf), n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        return EdjeError(f"{unknown[1]} is not a key of the configuration.{hint}")
    if override := NO_SUCH_GROUP.search(text):
        if said := advice(override[1].lstrip("/")):
            return EdjeError(f"{text} {said}")
        groups = [path.name for path in conf.iterdir() if path.is_dir()]
        close = get_close_matches(override[1].lstrip("/"), groups, n=1)
        text += f" Did you mean {close[0]}?" if close else f" The groups: {', '.join(groups)}."
    if NO_INTERVALS.search(text):
        text = "an interval has no list of values: optimise over it with hydra/sweeper=optuna."
    if CHOSEN_TWICE.search(text):
        text += ": give it once and without +, as group=option."
    if isinstance(error, OSError):
        return EdjeError(f"Can't write the run folder: {text}. Set another with hydra.run.dir=….")
    if not isinstance(error, HydraException | OmegaConfBaseException | yaml.YAMLError):
        text = f"{type(error).__name__}: {text} (EDJE_DEBUG=1 shows where)"
    return EdjeError(f"The configuration can't be composed: {text}")


def known_keys(conf: Path) -> list[str]:
    """Full keys of all values that the default configuration has or its constructors accept."""
    with initialize_config_dir(str(conf), version_base="1.3"):
        tree = OmegaConf.to_container(compose("run"), resolve=False)
    keys: set[str] = set()

    def collect(key: str, node: Any) -> None:
        if isinstance(node, dict):
            names = {str(name) for name in node}
            if isinstance(node.get("_target_"), str):
                names.update(signature_at(key, node["_target_"]).settable())
            for name in names:
                collect(f"{key}.{name}" if key else name, node.get(name))
        else:
            keys.add(key)

    collect("", tree)
    return sorted(keys)


def unknown_option(config: str, conf: Path, found: Sequence[str] | None = None) -> EdjeError:
    """The error for an option that a group lacks; `found` includes those in the user's folders."""
    of_hydra = config.startswith("hydra/")  # our options may be in folders: experiment=paper/…
    group, _, option = config.rpartition("/") if of_hydra else config.partition("/")
    if package := PLUGINS.get(option) if group in ("hydra/launcher", "hydra/sweeper") else None:
        return EdjeError(
            f"{group}={option}: this plugin of Hydra is not installed. pip install {package}."
        )
    if said := advice(group, option):
        return EdjeError(said)
    if any(group == kind and option in names(kind) for kind in KINDS):
        return EdjeError(
            f"{group}={option}: {option} is registered, but has no option file. Write "
            f"{group}/{option}.yaml, with _target_: {option} and its values, into a folder of your "
            "own, and pass that with --config-dir=<folder>."
        )
    files = (file.relative_to(conf / group) for file in (conf / group).rglob("*.yaml"))
    options = sorted({file.with_suffix("").as_posix() for file in files} | {*(found or ())})
    plugins = PLUGINS if group in ("hydra/launcher", "hydra/sweeper") else ()
    close = get_close_matches(option, [*options, *plugins], n=1, cutoff=0.5)
    hint = f" Did you mean {group}={close[0]}?" if close else ""
    known = ", ".join(options) or "none"
    return EdjeError(f"{group}={option}: no such option. The options of {group}: {known}.{hint}")
