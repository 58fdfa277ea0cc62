"""The parts that a configuration names: by which names, and which of them a file may name."""

import ast
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from edje.config.resolution import plain
from edje.config.signatures import UnknownTargetError, defined
from edje.errors import EdjeError
from edje.part_kinds import Kind
from edje.registry import find, how_to_register, ours, unknown

log = logging.getLogger(__name__)
# Classes of the library that runs are built on, which name no code of others.
OF_LIGHTNING = re.compile(r"lightning\.(Trainer|pytorch\.(loggers|strategies)\.[A-Z]\w*)")


def part_kind(key: str) -> Kind | None:
    """The kind of part that a full key of the configuration holds, if it holds one."""
    first, *within = key.split(".")
    if first == "backbone":  # its towers are named as it is
        return "backbone"
    if first == "objective" and len(within) == 1:
        return "objective"
    return "adapter" if key == "adapter" else None


def use_lasting_names(cfg: DictConfig) -> None:
    """Name every part, in place, as saved configurations do: ours by their dotted names.

    Others by their short ones, under which they are found again wherever their code lies.
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


def leave_out_missing_objectives(stored: DictConfig) -> None:
    """Drop the terms of a trained model's loss that aren't registered here: none is computed."""
    for name, node in (stored.get("objective") or {}).items():
        given = node.get("_target_") if isinstance(node, DictConfig) else None
        if isinstance(given, str) and "." not in given and find("objective", given) is None:
            log.info('objective.%s: "%s" is not registered here, and not needed now', name, given)
            stored.objective[name] = None


def check_named_by_file(
    cfg: DictConfig, present: DictConfig, source: str, packages: Callable[[], Mapping[str, str]]
) -> None:
    """Refuse code that a saved configuration names and the present command doesn't.

    A file may come from anywhere: it may name what is edje's own, what is registered, and the
    Trainer, loggers and strategies of Lightning. `present` is what the command line composed;
    `packages` gives those that brought the parts that aren't edje's own.

    Raises:
        EdjeError: it names something else; that is never imported. Or a part isn't registered.
    """
    given = [*_named("", plain(present, "", []))]
    for key, name, value in _named("", plain(cfg, "", [])):
        if (key, name, value) in given or (name == "_target_" and not isinstance(value, str)):
            continue
        kind = part_kind(key)
        if name == "_target_" and "." not in value:
            if kind is not None and not ours(kind, value) and find(kind, value) is None:
                raise unknown(kind, value, source, packages().get(value))
        elif name == "_args_" or not (_is_own(value) or OF_LIGHTNING.fullmatch(value)):
            if name == "_target_" and kind is not None and find(kind, value) is not None:
                continue
            own = how_to_register(kind) if kind else "If you trust it, give it there."
            raise EdjeError(
                f"{source}: {key}.{name}={value} is neither edje's nor given on the command line, "
                f"and a file can name no other code. {own}"
            )


def _is_own(target: str) -> bool:
    """Whether a dotted name stands for a class or function that is written in edje."""
    if not target.startswith("edje."):
        return False
    try:
        found = defined(target)
    except UnknownTargetError:
        return True  # there is nothing to import: the check of signatures says so
    return (
        found is not None
        and found.module.name.startswith("edje.")
        and isinstance(found.statement, ast.ClassDef | ast.FunctionDef)
    )


def _named(key: str, node: Any) -> Iterator[tuple[str, str, Any]]:
    """Key of the node, name and value of all that chooses code in a plain tree."""
    if isinstance(node, Mapping):
        yield from ((key, name, node[name]) for name in ("_target_", "_args_") if name in node)
        for name, inner in node.items():
            yield from _named(f"{key}.{name}" if key else str(name), inner)
    elif isinstance(node, list):
        for index, inner in enumerate(node):
            yield from _named(f"{key}.{index}", inner)
