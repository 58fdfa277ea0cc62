"""What conf/ and the constructors say: options, their components, keys and their meanings."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from docstrings import description_and_arguments
from hydra import compose
from omegaconf import OmegaConf

from edje.config.defaults import fill_defaults
from edje.config.locations import conf_folder
from edje.config.parts import mappings, signature_at
from edje.config.signatures import UNREAD, Parameter, UnknownTargetError, defined
from edje.config.source_code import Definition, find

CONF = conf_folder()
HEAD = re.compile(r"(?:#.*\n)*")
KEY = re.compile(r"^( *)([\w.+]+):.*?(?: # (.*))?$")  # with the comment behind it
ROLE = re.compile(r":\w+:(?=`)")  # of reStructuredText


@dataclass(frozen=True)
class Component:
    """A node with a `_target_`, its values with the constructor's defaults filled in."""

    key: str  # the full one
    within: str  # the part of it below the option's own node, or nothing
    target: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Option:
    """An option's file: what it begins with, its components, and the comments behind its keys."""

    comment: str
    components: tuple[Component, ...]
    comments: dict[str, str]


@cache
def help_of(head: str) -> dict[str, str]:
    """Names and what `python run.py --help` says of them, below a heading of it."""
    file = OmegaConf.to_container(OmegaConf.load(CONF / "hydra/help/edje.yaml"), resolve=False)
    found: dict[str, str] = {}
    lines = file["template"].partition(f"\n{head}")[2].partition("\n\n")[0].splitlines()
    for line in lines[1:]:
        if entry := re.match(r"  (\w+) +(.*)", line):
            name, found[name] = entry[1], entry[2]
        else:
            found[name] += f" {line.strip()}"
    return found


@cache
def root_values() -> dict[str, Any]:
    """The keys of conf/run.yaml; `defaults` among them as a mapping of groups to options."""
    root = OmegaConf.to_container(OmegaConf.load(CONF / "run.yaml"), resolve=False)
    root["defaults"] = {
        name: option for one in root["defaults"] if one != "_self_" for name, option in one.items()
    }
    return root


def files_of(group: str) -> dict[str, Path]:
    """The file of each option of a group, by name."""
    files = sorted((CONF / group).rglob("*.yaml"))
    return {path.relative_to(CONF / group).with_suffix("").as_posix(): path for path in files}


def comment_of(path: Path) -> str:
    """The comment that a file begins with, without the commands in it."""
    head = HEAD.match(path.read_text("utf-8"))
    lines = [] if head is None else [line[2:] for line in head[0].splitlines()]
    return " ".join(line for line in lines if line and not line.startswith((" ", "@package")))


def option_of(group: str, name: str, path: Path) -> Option:
    """An option as it is when nothing else changes it."""
    if group.startswith("hydra/"):  # which has a schema of its own
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        tree: Mapping[str, Any] = {"hydra": {group.removeprefix("hydra/"): loaded}}
    else:
        filled = fill_defaults(compose(f"{group}/{name}"))
        tree = OmegaConf.to_container(filled, resolve=False)
    nodes = [(key, node) for key, node in mappings("", tree) if "_target_" in node]
    top = nodes[0][0] if nodes else group
    components = tuple(
        Component(
            key,
            key.removeprefix(top).lstrip("."),
            node["_target_"],
            {name: value for name, value in node.items() if name != "_target_"},
        )
        for key, node in nodes
    )
    return Option(comment_of(path), components, comments_behind(path))


def comments_behind(path: Path) -> dict[str, str]:
    """The comment behind each key of a file, by the key within it."""
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for entry in map(KEY.match, path.read_text("utf-8").splitlines()):
        if entry is not None:
            depth = len(entry[1])
            above = [*(one for one in above if one[0] < depth), (depth, entry[2])]
            if entry[3]:
                found[".".join(key for _, key in above)] = entry[3]
    return found


def parameters(component: Component) -> Mapping[str, Parameter]:
    """The parameters of a component's constructor; nothing of what can't be read here."""
    try:
        signature = signature_at(component.key, component.target)
        kinds = [signature.parameters.get(name) for name in component.values]
        if signature.own and any(kind and kind.annotation is UNREAD for kind in kinds):
            signature = signature_at(component.key, component.target, imported=True)
    except UnknownTargetError:
        return {}
    return signature.parameters


@cache
def description(target: str) -> str:
    """What the docstring of one of our own parts says before its arguments."""
    found = _definition(target) if target.startswith("edje.") else None
    return "" if found is None else description_and_arguments(_docstring(found.statement))[0]


@cache
def meanings(target: str) -> dict[str, str]:
    """What docstrings say of a constructor's arguments; of others' code the first sentence."""
    found: dict[str, str] = {}
    definition = _definition(target)
    for statement in [] if definition is None else _with_bases(definition):
        found = description_and_arguments(_docstring(statement))[1] | found
    if target.startswith("edje."):
        return found
    return {name: ROLE.sub("", text).split(". ")[0] for name, text in found.items()}


def _definition(target: str) -> Definition | None:
    try:
        return defined(target)
    except UnknownTargetError:
        return None


def _with_bases(definition: Definition) -> Iterator[ast.stmt]:
    """The statements that define a class and those that it is derived from."""
    yield definition.statement
    for base in getattr(definition.statement, "bases", []):
        found = find(definition.module, base.id) if isinstance(base, ast.Name) else None
        if found is not None:
            yield from _with_bases(found)


def _docstring(statement: ast.stmt) -> str:
    """The docstring of a function or class, with that of the constructor."""
    if not isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return ""
    of_class = statement.body if isinstance(statement, ast.ClassDef) else []
    made = [one for one in of_class if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
    return "\n\n".join(text for one in (statement, *made) if (text := ast.get_docstring(one)))
