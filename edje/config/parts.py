"""The parts that a configuration names: how they are named, and which a file may name."""

import ast
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from edje.config.resolution import plain
from edje.config.signatures import (
    Parameter,
    Signature,
    UnknownTargetError,
    defined,
    parameters_of,
    parameters_of_object,
    signature_of,
)
from edje.errors import EdjeError
from edje.part_kinds import Kind
from edje.registry import Part, find, how_to_register, names, ours, unknown

log = logging.getLogger(__name__)
SUPPLIED: dict[Kind, int] = {"adapter": 1, "objective": 0, "backbone": 0}  # positional, by the run
# Classes of Lightning, which runs are built on; they don't name other code to run.
OF_LIGHTNING = re.compile(r"lightning\.(Trainer|pytorch\.(loggers|strategies)\.[A-Z]\w*)")


def part_kind(key: str) -> Kind | None:
    """The kind of part that a full key of the configuration holds, if it holds one."""
    first, *within = key.split(".")
    if first == "backbone":  # its towers are named like it
        return "backbone"
    if first == "objective" and len(within) == 1:
        return "objective"
    return "adapter" if key == "adapter" else None


def signature_at(key: str, target: str, *, imported: bool = False) -> Signature:
    """The signature of what a full key's `_target_` names, including registered parts.

    In a registered part, positional parameters may be set too, except those that its kind
    supplies when it is built. Types are complete if `imported`.

    Raises:
        UnknownTargetError: there is no such module, class, function or registered part.
    """
    kind = part_kind(key)
    try:
        part = None if kind is None else _registered(kind, target)
        if part is None or part.is_ours:
            return signature_of(target if part is None else part.target, imported=imported)
        parameters, is_open = _parameters(part, imported)
    except EdjeError as error:
        raise UnknownTargetError(str(error).rstrip("."), []) from error
    for place, (name, parameter) in enumerate(parameters.items()):
        if parameter.wired and place >= SUPPLIED[part.kind]:
            parameters[name] = replace(parameter, wired=False, required=parameter.bare)
    return Signature(part.name, parameters, is_open)


def _registered(kind: Kind, target: str) -> Part | None:
    """The registered part that a target names; None if the target is a dotted name for Hydra."""
    part = find(kind, target)
    if part is None and "." not in target:
        what = f"no {kind} is registered under this name. {how_to_register(kind).rstrip('.')}"
        raise UnknownTargetError(what, names(kind))
    if part is None and kind == "adapter" and not target.startswith("edje."):
        what = "a checkpoint names its adapter, so it needs a registered name. "
        raise UnknownTargetError(what + how_to_register(kind).rstrip("."), [])
    return part


def _parameters(part: Part, imported: bool) -> tuple[dict[str, Parameter], bool]:
    """Parameters of a package's part; imports it only if requested or its source can't be read."""
    can_be_read = isinstance(part.found, EntryPoint) and not imported
    definition = defined(part.target) if can_be_read else None
    read = None if definition is None else parameters_of(definition, own=True)
    return read or parameters_of_object(part.load(), own=True)


def use_lasting_names(cfg: DictConfig) -> None:
    """Name every part, in place, as saved configurations do.

    Ours get their dotted names. Others get their short ones, which work wherever their code is.
    """
    for key, name, given in _named("", OmegaConf.to_container(cfg, resolve=False)):
        kind = part_kind(key)
        if kind is None or name != "_target_" or not isinstance(given, str) or "${" in given:
            continue
        part = ours(kind, given) if "." not in given else None
        if part is not None:
            OmegaConf.update(cfg, f"{key}._target_", part.target)
        elif "." in given and (part := find(kind, given)) is not None and not part.is_ours:
            OmegaConf.update(cfg, f"{key}._target_", part.name)


def leave_out_losses(stored: DictConfig, given: Sequence[str]) -> None:
    """Drop loss terms and negatives of a trained model whose code is missing or may not be named.

    No loss will be computed. Those with `given` keys, of the command line, stay.
    """
    nodes = {f"objective.{name}": node for name, node in (stored.get("objective") or {}).items()}
    for key, node in {**nodes, "negatives": stored.get("negatives")}.items():
        target = node.get("_target_") if isinstance(node, DictConfig) else None
        if not isinstance(target, str) or any(f"{one}.".startswith(f"{key}.") for one in given):
            continue
        if not (_may_be_named(key, target) if "." in target else find("objective", target)):
            log.info('%s: "%s" is not registered here, and not needed now', key, target)
            OmegaConf.update(stored, key, None)


def check_named_by_file(
    cfg: DictConfig, present: DictConfig, source: str, packages: Callable[[], Mapping[str, str]]
) -> None:
    """Refuse code that a saved configuration names and the present command doesn't.

    Files are untrusted: they may name only edje's own code, registered parts, and the Trainer,
    loggers and strategies of Lightning. `present` is the configuration composed from the command
    line; `packages` maps parts from outside edje to the packages that provide them.

    Raises:
        EdjeError: it names something else, which is never imported; or a part isn't registered.
    """
    given = [*_named("", plain(present, "", []))]
    refused: list[tuple[str, str]] = []  # full key of a node, and what it names
    missing: list[tuple[Kind, str]] = []
    for key, name, value in _named("", plain(cfg, "", [])):
        if (key, name, value) in given or (name == "_target_" and not isinstance(value, str)):
            continue
        kind = part_kind(key)
        if name == "_args_" or not _may_be_named(key, value):
            refused.append((key, f"{key}.{name}={value}"))
        elif kind is not None and "." not in value and not ours(kind, value):
            missing += [] if find(kind, value) else [(kind, value)]
    if refused:
        raise EdjeError(_refusal(source, refused))
    for kind, value in missing:
        raise unknown(kind, value, source, packages().get(value))


def _refusal(source: str, refused: list[tuple[str, str]]) -> str:
    """What is said of code that a file may not name, with all that the next command can name."""
    addable = [named for key, named in refused if part_kind(key) != "adapter"]
    kinds = dict.fromkeys(kind for key, _ in refused if (kind := part_kind(key)) is not None)
    them, are = ("them", "are") if len(refused) > 1 else ("it", "is")
    trust = f" If you trust {them}, add {' '.join(addable)}." if addable else ""
    register = "".join(f" {how_to_register(kind)}" for kind in kinds)
    return (
        f"{source}: {', '.join(named for _, named in refused)} {are} neither edje's nor given on "
        f"the command line. A file must not name other code.{trust}{register}"
    )


def resume_command(cfg: DictConfig, folder: Path) -> str:
    """The command that continues a run; it names the code that a run folder must not name."""
    given = [
        f"{key}.{name}={value}"
        for key, name, value in _named("", OmegaConf.to_container(cfg, resolve=True))
        if name == "_target_" and not _may_be_named(key, str(value))
    ]
    began = "python run.py" if Path(sys.argv[0]).name == "run.py" else "edje"
    return " ".join([f"{began} resume={folder}", *given])


def _may_be_named(key: str, target: str) -> bool:
    """Whether a file may have this target, dotted or registered, at a key."""
    if "." not in target or _is_own(target) or OF_LIGHTNING.fullmatch(target):
        return True
    kind = part_kind(key)
    return kind is not None and find(kind, target) is not None


def _is_own(target: str) -> bool:
    """Whether a dotted name is a class or function defined in edje."""
    if not target.startswith("edje."):
        return False
    try:
        found = defined(target)
    except UnknownTargetError:
        return True  # nothing to import: the check of signatures reports it
    return (
        found is not None
        and found.module.name.startswith("edje.")
        and isinstance(found.statement, ast.ClassDef | ast.FunctionDef)
    )


def _named(key: str, node: Any) -> Iterator[tuple[str, str, Any]]:
    """Key of the node, name and value of everything that chooses code in a plain tree."""
    for at, inner in mappings(key, node):
        yield from ((at, name, inner[name]) for name in ("_target_", "_args_") if name in inner)


def mappings(key: str, node: Any) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Full key and content of every mapping in a plain tree, outer ones first."""
    if isinstance(node, Mapping):
        yield key, node
        for name, inner in node.items():
            yield from mappings(f"{key}.{name}" if key else str(name), inner)
    elif isinstance(node, list):
        for index, inner in enumerate(node):
            yield from mappings(f"{key}.{index}", inner)
