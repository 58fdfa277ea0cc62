"""The values of a backbone's option, read from conf/backbone as for a run.

A run's configuration is composed by Hydra. A backbone alone needs only a mapping, replacements
for some of its keys, and the two interpolations that the options use: `${backbone.<key>}` and
`${asset:<path>}`.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from os import PathLike, fspath
from typing import Any

import yaml

from edje.errors import EdjeError
from edje.installed import asset, conf_folder

MISSING = "???"
_NOTHING = object()
INTERPOLATION = re.compile(r"\$\{([^${}]*)\}")


class _Loader(yaml.SafeLoader):
    """YAML in which 5e-4 is a number, as Hydra reads it and YAML 1.1 doesn't."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def option_values(name: str) -> dict[str, Any]:
    """The content of an option's file, interpolations unresolved.

    Raises:
        EdjeError: conf/backbone has no such option, or its file is not a plain mapping.
    """
    folder = conf_folder() / "backbone"
    options = sorted(file.stem for file in folder.glob("*.yaml"))
    if name not in options:
        close = get_close_matches(name, options, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise EdjeError(
            f"load_backbone({name!r}): no such option of conf/backbone, which has "
            f"{', '.join(options)}.{hint} You can also pass, as a mapping, the value of "
            "`backbone` in a saved configuration."
        )
    file = folder / f"{name}.yaml"
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise EdjeError(f"load_backbone({name!r}): {file} is not valid YAML: {error}.") from error
    if not isinstance(values, dict) or "defaults" in values:
        raise EdjeError(
            f"load_backbone({name!r}): expected {file} to be one mapping without a defaults list, "
            "which only the command line can compose. Write its values out."
        )
    return values


def with_given(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values, replaced by the given ones; mappings without a `_target_` are merged."""
    merged = dict(values)
    for key, value in given.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and "_target_" not in value:
            value = with_given(before, value)
        merged[key] = value
    return merged


def resolved(
    values: Mapping[str, Any], where: str, rest: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The values with every interpolation resolved.

    `rest` is the configuration around the backbone, if there is one.

    Raises:
        EdjeError: a required value is missing, or an interpolation names neither a key of the
            backbone or the rest nor a shipped asset.
    """
    whole_tree = {**(rest or {}), "backbone": values}

    def value_of(node: Any, path: tuple[str, ...], asked: tuple[str, ...]) -> Any:
        if isinstance(node, Mapping):
            return {key: value_of(inner, (*path, str(key)), asked) for key, inner in node.items()}
        if isinstance(node, list | tuple):
            return [value_of(inner, (*path, str(row)), asked) for row, inner in enumerate(node)]
        if isinstance(node, PathLike):
            return fspath(node)
        if node == MISSING:
            raise EdjeError(f"{where}: {'.'.join(path)} has no value. Set it: {path[0]}=….")
        if not isinstance(node, str):
            return node
        if whole := INTERPOLATION.fullmatch(node):
            return meant(whole[1], path, asked)
        return INTERPOLATION.sub(lambda found: str(meant(found[1], path, asked)), node)

    def meant(text: str, path: tuple[str, ...], asked: tuple[str, ...]) -> Any:
        """The value of an interpolation at `path`; `asked` are the interpolations around it."""
        if text.startswith("asset:"):
            return asset(text.removeprefix("asset:"))
        keys = text.split(".")
        known = keys != ["backbone"] and text not in asked
        node = _at(whole_tree, keys) if known else _NOTHING
        if node is _NOTHING:
            raise EdjeError(
                f"{where}: {'.'.join(path)} is ${{{text}}}, which can't be resolved; "
                "expected ${backbone.<another key>} or ${asset:<path>}. Set the value itself: "
                f"{path[0]}=…."
            )
        return value_of(node, tuple(keys[1:] or keys), (*asked, text))

    return {key: value_of(node, (str(key),), ()) for key, node in values.items()}


def _at(node: Any, keys: list[str]) -> Any:
    for key in keys:
        if not (isinstance(node, Mapping) and key in node):
            return _NOTHING
        node = node[key]
    return node
