"""A configuration as plain values, with every interpolation resolved."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from edje.config.problems import UNKNOWN, Problem
from edje.errors import first_line
from edje.renames import present_reference

LATER = "<later>"
NEEDED = re.compile(r"\$\{needed:\s*\}")


def plain(
    node: DictConfig | ListConfig, key: str, problems: list[Problem], unresolved: Any = None
) -> Any:
    """The tree as dicts and lists with interpolations resolved; failures become problems.

    `unresolved` are the node's own values, if known: to find them at each value takes long.
    """
    if unresolved is None:
        unresolved = OmegaConf.to_container(node, resolve=False)

    def value_at(name: Any) -> Any:
        at = f"{key}.{name}" if key else str(name)
        raw = unresolved[name]
        text = str(raw)
        if OmegaConf.is_missing(node, name) or NEEDED.fullmatch(text):
            what = f" has no value yet (???). Give it on the command line: {at}=<value>."
            problems.append(Problem(at, what))
            return UNKNOWN
        try:
            value = node[name]
        except InterpolationToMissingValueError:
            return UNKNOWN  # the missing value itself is reported
        except (OmegaConfBaseException, RecursionError) as error:
            present = present_reference(text)
            hint = "" if present == text else f" It is {present} now."
            problems.append(Problem(at, f"={text} can't be resolved: {first_line(error)}.{hint}"))
            return UNKNOWN
        if value == MISSING:
            return UNKNOWN  # copied from a missing value
        if not isinstance(value, DictConfig | ListConfig):
            return value
        of_another_place = isinstance(raw, str)
        return plain(value, at, problems, None if of_another_place else raw)

    if isinstance(node, DictConfig):
        return {name: value_at(name) for name in node}
    return [value_at(index) for index in range(len(node))]


def contains_unknown(value: Any) -> bool:
    """Whether a value or anything in it was already reported as unknown."""
    if isinstance(value, Mapping):
        return any(contains_unknown(inner) for inner in value.values())
    if isinstance(value, list):
        return any(contains_unknown(inner) for inner in value)
    return value is UNKNOWN


def fill_later(cfg: DictConfig) -> None:
    """Fill in, in place, what the user hasn't given yet and a plan doesn't need."""
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    if NEEDED.fullmatch(str(raw.get("teacher"))):
        cfg.teacher = LATER
    if (raw.get("start") or {}).get("path") == MISSING:
        cfg.start.path = LATER


def expand_home(cfg: DictConfig) -> None:
    """Replace `~` at the start of every text with the home folder, in place."""
    for key, text in texts("", OmegaConf.to_container(cfg, resolve=False)):
        if text == "~" or text.startswith("~/"):
            OmegaConf.update(cfg, key, str(Path(text).expanduser()))


def texts(key: str, node: Any) -> Iterator[tuple[str, str]]:
    """Full key and text of every text in a plain tree, also in its lists."""
    if isinstance(node, dict | list):
        for name, inner in node.items() if isinstance(node, dict) else enumerate(node):
            yield from texts(f"{key}.{name}" if key else str(name), inner)
    elif isinstance(node, str):
        yield key, node


def leaves(key: str, node: Any) -> Iterator[tuple[str, Any]]:
    """Full key and value of everything that is no mapping, or is an empty one."""
    if isinstance(node, dict) and node:
        for name, inner in node.items():
            yield from leaves(f"{key}.{name}" if key else str(name), inner)
    else:
        yield key, node
