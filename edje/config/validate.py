"""Checks a composed configuration against the constructors' signatures, before anything is built.

Hydra accepts a misspelt root key of an experiment file silently, and finds a misspelt leaf only
when it is instantiated, perhaps after hours of work. Here the whole tree is checked at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from edje.config.root import Component, RootConfig
from edje.config.signatures import Signature, UnknownTargetError, signature_of
from edje.config.types import choices, describe, fits
from edje.errors import EdjeError

HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}
MANY = 12  # names, beyond which a message shows only the nearest
UNKNOWN = object()  # a value that is missing or can't be resolved, reported where it stands


@dataclass(frozen=True)
class Problem:
    """One mistake in a configuration: where, what, and the nearest valid name."""

    key: str
    what: str
    nearest: str | None = None

    def __str__(self) -> str:
        return f"{self.key}{self.what}" + (f" Did you mean {self.nearest}?" if self.nearest else "")


def validate(cfg: DictConfig, root: type = RootConfig) -> None:
    """Check names, required values and simple types of the whole tree.

    Raises:
        EdjeError: something is wrong; the message lists every problem with its full key.
    """
    problems = problems_of(cfg, root)
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise EdjeError(f"The configuration has {count}:{lines}")


def problems_of(cfg: DictConfig, root: type = RootConfig) -> list[Problem]:
    """Every mistake in the tree, in the tree's order."""
    problems: list[Problem] = []
    tree = plain(cfg, "", problems)
    fields = get_type_hints(root)
    for name, value in tree.items():
        if name in fields:
            problems += check_root_value(name, value, fields[name])
        else:
            close = nearest(str(name), fields)
            known = "" if close else f" It has {listed(fields)}."
            what = f"{shown(value)} is no key of the configuration.{known}"
            problems.append(Problem(str(name), what, close))
    for name, annotation in fields.items():
        if name not in tree:
            what = f" is missing: expected {expected(annotation)}."
            problems.append(Problem(name, what))
    return problems


def check_root_value(key: str, value: Any, annotation: Any) -> list[Problem]:
    """Problems of one root key: a component, a mapping of components, or a simple value."""
    if value is UNKNOWN:
        return []
    if annotation == Component | None and value is None:
        return []
    if annotation in (Component, Component | None):
        return check_component(key, value)
    if annotation == dict[str, Component]:
        if not isinstance(value, Mapping):
            return [Problem(key, f"{shown(value)}: expected {expected(annotation)}.")]
        return [
            p
            for name, node in value.items()
            if node is not None
            for p in check_component(f"{key}.{name}", node)
        ]
    return check_value(key, value, annotation)


def check_component(key: str, node: Any) -> list[Problem]:
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
        signature = signature_of(target)
    except UnknownTargetError as error:
        close = nearest(target, error.candidates)
        return [Problem(f"{key}._target_", f"={target}: {error}.", close)]
    problems = []
    for name, value in node.items():
        if name not in HYDRA_KEYS:
            problems += check_argument(f"{key}.{name}", str(name), value, signature)
    for name, parameter in signature.parameters.items():
        if parameter.required and name not in node:
            kind = describe(parameter.annotation)
            what = f" is missing: {short(target)} needs it, expected {kind}."
            problems.append(Problem(f"{key}.{name}", what))
    return problems


def check_argument(key: str, name: str, value: Any, signature: Signature) -> list[Problem]:
    """Problems of one value given to a component."""
    parameter = signature.parameters.get(name)
    if parameter is None and not signature.is_open:
        names = signature.settable()
        close = nearest(name, names)
        taken = listed(names) if len(names) <= MANY or not close else "no such argument"
        what = f"{shown(value)} is unknown: {short(signature.target)} takes {taken}."
        where = key.removesuffix(name)
        return [Problem(key, what, f"{where}{close}" if close else None)]
    inner = list(components_in(key, value))
    if inner:
        return [problem for at, node in inner for problem in check_component(at, node)]
    if parameter is None or value is UNKNOWN:
        return []
    if parameter.wired:
        what = (
            f"{shown(value)} can't be set: the run itself supplies it to "
            f"{short(signature.target)}, which takes {listed(signature.settable())}."
        )
        return [Problem(key, what)]
    return check_value(key, value, parameter.annotation)


def check_value(key: str, value: Any, annotation: Any) -> list[Problem]:
    """A problem where a plain value is not of its type."""
    if value is UNKNOWN or contains_unknown(value) or fits(value, annotation):
        return []
    what = f"{shown(value)} ({kind_of(value)}): expected {describe(annotation)}."
    return [Problem(key, what, nearest(str(value), choices(annotation)))]


def plain(node: DictConfig | ListConfig, key: str, problems: list[Problem]) -> Any:
    """The tree as dicts and lists with interpolations resolved; failures become problems."""

    def value_at(name: Any) -> Any:
        at = f"{key}.{name}" if key else str(name)
        if OmegaConf.is_missing(node, name):
            what = f" has no value yet (???). Give it on the command line: {at}=<value>."
            problems.append(Problem(at, what))
            return UNKNOWN
        try:
            value = node[name]
        except InterpolationToMissingValueError:
            return UNKNOWN  # the missing value itself is reported
        except (OmegaConfBaseException, RecursionError) as error:
            raw = OmegaConf.to_container(node, resolve=False)
            text = raw[name] if isinstance(raw, dict | list) else "?"
            reason = str(error).strip().split("\n")[0]
            problems.append(Problem(at, f"={text} can't be resolved: {reason}."))
            return UNKNOWN
        return plain(value, at, problems) if isinstance(value, DictConfig | ListConfig) else value

    if isinstance(node, DictConfig):
        return {name: value_at(name) for name in node}
    return [value_at(index) for index in range(len(node))]


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


def contains_unknown(value: Any) -> bool:
    """Whether a value or anything in it was already reported as unknown."""
    if isinstance(value, Mapping):
        return any(contains_unknown(inner) for inner in value.values())
    if isinstance(value, list):
        return any(contains_unknown(inner) for inner in value)
    return value is UNKNOWN


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The valid name most like the given one, if any is alike."""
    close = get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return close[0] if close else None


def listed(names: Iterable[str]) -> str:
    """Names in a row, `nothing` where there are none."""
    return ", ".join(names) or "nothing"


def short(target: str) -> str:
    """The last part of a dotted name."""
    return target.rpartition(".")[2]


def shown(value: Any) -> str:
    """`=value` as YAML would have it, cut to a line; nothing for nodes and unknown values."""
    if value is UNKNOWN or (isinstance(value, Mapping) and value):
        return ""
    text = {None: "null", True: "true", False: "false"}.get(value) if _is_flag(value) else None
    text = text or (repr(value) if value == "" else str(value))
    return "=" + (text if len(text) <= 60 else text[:57] + "...")


def _is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def kind_of(value: Any) -> str:
    """The type of a value, in the words of `describe`."""
    names = {str: "str", list: "list", dict: "mapping", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def expected(annotation: Any) -> str:
    """What a root key holds, in words."""
    if annotation == dict[str, Component]:
        return "components by name (mapping)"
    if annotation in (Component, Component | None):
        return "a component (`_target_`)"
    return describe(annotation)
