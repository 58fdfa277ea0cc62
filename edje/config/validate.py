"""Checks a composed configuration against the constructors' signatures, before anything is built.

Hydra accepts a misspelt root key of an experiment file silently. It finds a misspelt leaf only
at instantiation, perhaps after hours of work. Here the whole tree is checked at once.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, get_type_hints

from omegaconf import DictConfig

from edje.config.locations import conf_folder
from edje.config.parts import signature_at
from edje.config.problems import UNKNOWN, Problem, kind_of, listed, nearest, short, shown
from edje.config.resolution import contains_unknown, plain
from edje.config.root import Component, Loggers, RootConfig
from edje.config.signatures import Signature, UnknownTargetError
from edje.config.value_types import UNREAD, choices, describe, fits, is_plain
from edje.errors import EdjeError
from edje.renames import advice

HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}
MANY = 12  # with more names than this, a message shows only the nearest


def validate(cfg: DictConfig) -> None:
    """Check names, required values and simple types of the whole tree.

    First comes what sources show, in less than a second. Only if all of that is right, the
    constructors of values whose types the sources don't show are imported.

    Raises:
        EdjeError: something is wrong; lists every problem with its full key.
    """
    if problems := problems_of(cfg, imported=False) or problems_of(cfg):
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise EdjeError(f"The configuration has {count}:{lines}")


def problems_of(cfg: DictConfig, *, imported: bool = True) -> list[Problem]:
    """Every problem, in the tree's order; if not `imported`, only what sources show."""
    problems: list[Problem] = []
    tree = plain(cfg, "", problems)
    fields = get_type_hints(RootConfig, include_extras=True)
    for name, value in tree.items():
        if name in fields:
            problems += check_root_value(name, value, fields[name], imported)
        elif former := list(former_names(str(name), value)):
            problems += former
        else:
            close = nearest(str(name), fields)
            known = "" if close else f" It has {listed(fields)}."
            what = f"{shown(value)} is not a key of the configuration.{known}"
            problems.append(Problem(str(name), what, close))
    for name, annotation in fields.items():
        if name not in tree:
            what = f" is missing: expected {expected(annotation)}."
            problems.append(Problem(name, what))
    return problems


def former_names(key: str, value: Any) -> Iterable[Problem]:
    """A problem for every value at a former key of an earlier version; none for other keys."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from former_names(f"{key}.{name}", inner)
    elif said := advice(key, shown(value).removeprefix("=") or None):
        yield Problem(key, said.removeprefix(key))


def check_root_value(key: str, value: Any, annotation: Any, imported: bool) -> list[Problem]:
    """Problems of one root key: a component, a mapping of components, or a simple value."""
    if value is UNKNOWN:
        return []
    if annotation in (Component | None, Loggers) and value is None:
        return []
    if annotation in (Component, Component | None) or (
        annotation == Loggers and is_component(value)
    ):
        return check_component(key, value, imported)
    if annotation in (dict[str, Component], Loggers):
        if not isinstance(value, Mapping):
            return [Problem(key, f"{shown(value)}: expected {expected(annotation)}.")]
        return check_terms(key, value, imported)
    if key == "name" and isinstance(value, str) and not is_below(value):
        return [Problem(key, f"{shown(value)}: expected a folder's name, for runs/<name>/.")]
    return check_value(key, value, annotation)


def is_below(name: str) -> bool:
    """Whether a path leads from a folder to one in it."""
    path = PurePath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def check_terms(key: str, terms: Mapping[str, Any], imported: bool) -> list[Problem]:
    """Problems of a mapping of components, where null leaves a term out."""
    problems = []
    known = [name for name, node in terms.items() if is_component(node)]
    for name, node in terms.items():
        if node is UNKNOWN or node is None or is_component(node):
            problems += [] if node is None else check_component(f"{key}.{name}", node, imported)
        else:
            close = nearest(name, known)
            what = f"{shown(node)} is not a term: {key} has {listed(known)}."
            problems.append(Problem(f"{key}.{name}", what, close and f"{key}.{close}"))
    return problems


def check_component(key: str, node: Any, imported: bool) -> list[Problem]:
    """Problems of a node with `_target_`, and of the nodes within it."""
    if node is UNKNOWN:
        return []
    if not is_component(node):
        what = f"{shown(node)}: expected a component (`_target_` and its values)."
        return [Problem(key, what)]
    target = node["_target_"]
    if target is UNKNOWN:
        return []
    if not isinstance(target, str):
        return [Problem(f"{key}._target_", f"{shown(target)}: expected a dotted name.")]
    try:
        signature = signature_at(key, target)
        given = [signature.parameters[str(n)] for n in node if n in signature.parameters]
        if imported and any(parameter.annotation is UNREAD for parameter in given):
            signature = signature_at(key, target, imported=True)
    except UnknownTargetError as error:
        close = nearest(target, error.candidates)
        return [Problem(f"{key}._target_", f"={target}: {error}.", close)]
    problems = []
    for name, value in node.items():
        if name not in HYDRA_KEYS:
            problems += check_argument(f"{key}.{name}", str(name), value, signature, imported)
    for name, parameter in signature.parameters.items():
        if parameter.required and name not in node:
            typed = signature_at(key, target, imported=parameter.annotation is UNREAD)
            kind = describe(typed.parameters[name].annotation)
            what = f" is missing: {short(target)} needs it, expected {kind}."
            problems.append(Problem(f"{key}.{name}", what))
    return problems


def check_argument(
    key: str, name: str, value: Any, signature: Signature, imported: bool
) -> list[Problem]:
    """Problems of one argument of a component."""
    parameter = signature.parameters.get(name)
    if parameter is None and not signature.is_open:
        if said := advice(key, shown(value).removeprefix("=") or None):
            return [Problem(key, said.removeprefix(key))]
        names = signature.settable()
        close = nearest(name, names)
        taken = listed(names) if len(names) <= MANY or not close else "no such argument"
        others = options_with(key)
        hint = f" It goes with {' or '.join(others)}." if others and not close else ""
        if not close:
            hint += f" Where an experiment sets it, '~{key}' leaves it out."
        what = f"{shown(value)} is unknown: {short(signature.target)} takes {taken}.{hint}"
        where = key.removesuffix(name)
        return [Problem(key, what, f"{where}{close}" if close else None)]
    inner = list(components_in(key, value))
    if inner and parameter is not None and is_plain(parameter.annotation):
        what = f": got a component, expected {describe(parameter.annotation)}."
        return [Problem(key, what)]
    if inner:
        return [problem for at, node in inner for problem in check_component(at, node, imported)]
    if parameter is None or value is UNKNOWN:
        return []
    if parameter.wired:
        what = (
            f"{shown(value)} can't be set: the run itself supplies it to "
            f"{short(signature.target)}, which takes {listed(signature.settable())}."
        )
        return [Problem(key, what)]
    return check_value(key, value, parameter.annotation)


def options_with(key: str) -> list[str]:
    """The options of a group (`start=checkpoint`) that take an argument (`start.path`)."""
    group, _, name = key.partition(".")
    named = re.compile(r"^_target_: (edje\.\S+)", re.MULTILINE)
    files = sorted((conf_folder() / group).glob("*.yaml"))
    targets = {file.stem: named.search(file.read_text("utf-8")) for file in files}
    return [
        f"{group}={option}"
        for option, target in targets.items()
        if target and name in signature_at(group, target[1]).settable()
    ]


def check_value(key: str, value: Any, annotation: Any) -> list[Problem]:
    """A problem if a plain value has the wrong type."""
    if value is UNKNOWN or contains_unknown(value) or fits(value, annotation):
        return []
    what = f"{shown(value)} ({kind_of(value)}): expected {describe(annotation)}."
    return [Problem(key, what, nearest(str(value), choices(annotation)))]


def is_component(node: Any) -> bool:
    """Whether a value is a configuration node with a `_target_`."""
    return isinstance(node, Mapping) and "_target_" in node


def components_in(key: str, value: Any) -> Iterable[tuple[str, Any]]:
    """The nearest components within a value, itself included, each with its full key."""
    if is_component(value):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from components_in(f"{key}.{name}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from components_in(f"{key}.{index}", inner)


def expected(annotation: Any) -> str:
    """What a root key holds, in words."""
    if annotation in (dict[str, Component], Loggers):
        return "components by name (mapping)"
    if annotation in (Component, Component | None):
        return "a component (`_target_`)"
    return describe(annotation)
