"""Former names: how what earlier versions have saved is read, and what the command line is told.

One table, for good. A configuration in a run folder or a checkpoint that has former names is
brought to the present ones when it is read; on the command line, and in a user's own experiment,
a former name is an error that says the present one.
"""

import re
from collections.abc import Mapping
from typing import Any

MOVED_MODULES = {
    "edje.backbones.timm": "edje.backbones.timm_backbone",
    "edje.benchmark.store": "edje.benchmark.store_benchmark",
    "edje.data.datamodule": "edje.data.datamodules.cached_datamodule",
    "edje.data.folder": "edje.data.sources.folder",
    "edje.data.hub": "edje.data.sources.hub",
    "edje.data.karpathy": "edje.data.sources.karpathy",
    "edje.data.listed_pairs": "edje.data.mixture.listed_pairs",
    "edje.data.pixel_datamodule": "edje.data.datamodules.pixel_datamodule",
    "edje.data.pretrain": "edje.data.mixture.pretrain",
    "edje.data.shapes": "edje.data.shapes.shapes_source",
    "edje.data.stream_datamodule": "edje.data.datamodules.stream_datamodule",
    "edje.data.tar_pairs": "edje.data.mixture.tar_pairs",
}
CACHED_LOADING = "edje.data.datamodules.cached_datamodule.CachedLoading"
MOVED_CLASSES = {
    "edje.data.datamodule.CachedTokenDataModule": CACHED_LOADING,
    "edje.data.datamodules.cached_datamodule.CachedTokenDataModule": CACHED_LOADING,
    "edje.tasks.scoring.Evaluation": "edje.pipeline.scoring.Scoring",
    "edje.pipeline.scoring.Evaluation": "edje.pipeline.scoring.Scoring",
    "edje.tasks.writing.Writing": "edje.pipeline.storage.Storage",
    "edje.pipeline.writing.Writing": "edje.pipeline.storage.Storage",
}
KEYS = {  # full keys, and groups with all that is in them
    "compile": "compile_training",
    "evaluation": "scoring",
    "evaluation.codec": "storage.compressed_codec",
    "store_codec": "storage.raw_codec",
    "writing": "storage",
    "writing.precision": "storage.tower_precision",
}
ARGUMENTS = {  # of a component, by its class
    "edje.data.datamodules.stream_datamodule.StreamDataModule": {"precision": "tower_precision"},
}
INITIAL = "initial"  # a path or a magic word, where there is a group of components now
STARTS = {
    None: "edje.pipeline.start.FreshStart",
    "canonical": "edje.pipeline.start.CanonicalStart",
    "contrastive": "edje.pipeline.start.ContrastiveStart",
}
CHECKPOINT_START = "edje.pipeline.start.CheckpointStart"
COMPONENTS = {  # which a former root key may have become a part of
    "storage": "edje.pipeline.storage.Storage",
    "scoring": "edje.pipeline.scoring.Scoring",
}
REFERENCE = re.compile(r"\$\{([\w.]+)\}")  # an interpolation of a full key


def present_target(target: str) -> str:
    """The present dotted name of a component, given it or a former one."""
    module, _, name = target.rpartition(".")
    if target in MOVED_CLASSES:
        return MOVED_CLASSES[target]
    return f"{MOVED_MODULES[module]}.{name}" if module in MOVED_MODULES else target


def present_key(key: str) -> str:
    """The present full key, given it or a former one; those of components by their class aside."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        former = ".".join(parts[:length])
        if former in KEYS:
            return ".".join([KEYS[former], *parts[length:]])
    return "start.path" if key == INITIAL else key


def present_reference(text: str) -> str:
    """A text with present keys in its interpolations."""
    return REFERENCE.sub(lambda found: f"${{{present_key(found[1])}}}", text)


def present_configuration(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A saved configuration, as plain containers, with the present names in place of former ones.

    It may hold interpolations. What has present names already is given back as it is.
    """
    present: dict[str, Any] = {}
    for key, value in _present(tree).items():
        if key == INITIAL:
            present["start"] = _start(value, tree)
            continue
        values = {key: value}
        if key in KEYS and isinstance(value, Mapping):
            values = {f"{key}.{name}": inner for name, inner in value.items()}
        for former, inner in values.items():
            root, _, name = present_key(former).partition(".")
            if name:
                present.setdefault(root, {"_target_": COMPONENTS[root]})[name] = inner
            else:
                present[root] = inner
    return present


def _start(initial: Any, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The component that the former `initial` has become."""
    found = REFERENCE.fullmatch(str(initial))
    value = tree.get(found[1], initial) if found else initial
    if value in STARTS:
        return {"_target_": STARTS[value]}
    return {"_target_": CHECKPOINT_START, "path": initial}


def _present(value: Any) -> Any:
    """A value, and all within it, with present names of components, arguments and keys."""
    if isinstance(value, list):
        return [_present(inner) for inner in value]
    if isinstance(value, str):
        return present_reference(value)
    if not isinstance(value, Mapping):
        return value
    target = value.get("_target_")
    target = present_target(target) if isinstance(target, str) else target
    renamed = ARGUMENTS.get(target, {}) if isinstance(target, str) else {}
    present = {renamed.get(name, name): _present(inner) for name, inner in value.items()}
    return present if target is None else {**present, "_target_": target}


def advice(key: str, value: Any = None, *, target: str = "") -> str | None:
    """What to give in place of a former key, as a sentence; None where the key is no former one.

    Args:
        key: full key, or the group of an option.
        value: the text given to it, as on the command line, if one is known.
        target: class of the component that the key is an argument of.
    """
    if key == INITIAL or key.startswith(f"{INITIAL}."):
        return f"{key} is start now: give {_start_option(value)}."
    argument = key.rpartition(".")[2]
    if new := ARGUMENTS.get(target, {}).get(argument):
        present = f"{key.removesuffix(argument)}{new}"
    else:
        present = present_key(key)
    if present == key:
        return None
    given = "<value>" if value is None else value
    return f"{key} is {present} now: give {present}={given}."


def _start_option(value: Any) -> str:
    """The overrides that do what `initial=<value>` did; all of them where no value is known."""
    if value is None:
        return "start=fresh, canonical or contrastive, or start=checkpoint start.path=<path>"
    if value in ("null", "canonical", "contrastive"):
        return f"start={'fresh' if value == 'null' else value}"
    return f"start=checkpoint start.path={value}"
