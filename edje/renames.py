"""Former names: how files of earlier versions are read, and what the command line answers.

One permanent table. A configuration in a run folder or a checkpoint that has former names gets
the present ones when it is read. On the command line, and in a user's own experiment, a former
name is an error that states the present one.
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
    "edje.data.pretrain": "edje.data.mixture.pretrain",
    "edje.data.shapes": "edje.data.shapes.shapes_source",
    "edje.data.stream_datamodule": "edje.data.datamodules.stream_datamodule",
    "edje.data.tar_pairs": "edje.data.mixture.tar_pairs",
}
MOVED_CLASSES = {
    "edje.data.datamodule.CachedTokenDataModule": (
        "edje.data.datamodules.cached_datamodule.CachedLoading"
    ),
    "edje.tasks.evaluate.Evaluation": "edje.pipeline.scoring.Scoring",  # the shipped teacher's
    "edje.tasks.scoring.Evaluation": "edje.pipeline.scoring.Scoring",
    "edje.tasks.writing.Writing": "edje.pipeline.storage.Storage",
}
KEYS = {  # full keys, and components with everything in them
    "compile": "compile_training",
    "evaluation": "scoring",
    "evaluation.codec": "storage.compressed_codec",
    "loader.precision": "loader.tower_precision",
    "store_codec": "storage.raw_codec",
    "writing": "storage",
    "writing.precision": "storage.tower_precision",
}
LATER_KEYS: dict[str, Any] = {  # root keys added later, with the values of earlier runs
    "paper": None,
}
COMPONENTS = {  # that former root keys are now parts of
    "scoring": "edje.pipeline.scoring.Scoring",
    "storage": "edje.pipeline.storage.Storage",
}
INITIAL = "initial"  # was a path or a magic word, now a group of components
STARTS = {
    None: "edje.pipeline.start.FreshStart",
    "canonical": "edje.pipeline.start.CanonicalStart",
    "contrastive": "edje.pipeline.start.ContrastiveStart",
}
CHECKPOINT_START = "edje.pipeline.start.CheckpointStart"
REFERENCE = re.compile(r"\$\{([\w.]+)\}")  # an interpolation of a full key


def present_target(target: str) -> str:
    """The present dotted name of a component, from its present or a former name."""
    module, _, name = target.rpartition(".")
    if target in MOVED_CLASSES:
        return MOVED_CLASSES[target]
    return f"{MOVED_MODULES[module]}.{name}" if module in MOVED_MODULES else target


def present_key(key: str) -> str:
    """The present full key, from the present or a former one."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        former = ".".join(parts[:length])
        if former in KEYS:
            return ".".join([KEYS[former], *parts[length:]])
    return "start.path" if key == INITIAL else key


def present_override(override: str) -> str:
    """An override of the command line, under present keys; a start may become two overrides."""
    key, equals, value = override.partition("=")
    if key == INITIAL and equals:
        return _start_overrides(value)
    return f"{present_key(key)}{equals}{value}"


def present_reference(text: str) -> str:
    """A text with present keys in its interpolations."""
    return REFERENCE.sub(lambda found: f"${{{present_key(found[1])}}}", text)


def present_configuration(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """A saved configuration, as plain containers, with present names in place of former ones.

    It may hold interpolations. Present names stay as they are.
    """
    present: dict[str, Any] = {}
    renamed = {former.split(".")[0] for former in KEYS}
    for key, value in _present(tree).items():
        if key == INITIAL:
            present["start"] = _start(value, tree)
            continue
        values = {key: value}
        if value and isinstance(value, dict) and key in renamed:
            values = {f"{key}.{name}": inner for name, inner in value.items()}
        for former, inner in values.items():
            root, _, name = present_key(str(former)).partition(".")
            if name:
                fresh = {"_target_": COMPONENTS[root]} if root in COMPONENTS else {}
                present.setdefault(root, fresh)[name] = inner
            else:
                present[root] = inner
    return present


def advice(key: str, value: str | None = None) -> str | None:
    """The sentence that says what to give in place of a former key; None if the key isn't former.

    `value` is the key's value, as on the command line, if known.
    """
    if key == INITIAL:
        ways = "start=fresh, canonical or contrastive, or start=checkpoint start.path=<path>"
        return f"initial is start now: give {ways if value is None else _start_overrides(value)}."
    present = present_key(key)
    if present == key:
        return None
    return f"{key} is {present} now: give {present}={'<value>' if value is None else value}."


def _start(initial: Any, tree: Mapping[Any, Any]) -> dict[str, Any]:
    """The component that replaces the former `initial`, which may be an interpolation."""
    found = REFERENCE.fullmatch(str(initial))
    value = tree.get(found[1], initial) if found else initial
    if value in STARTS:
        return {"_target_": STARTS[value]}
    return {"_target_": CHECKPOINT_START, "path": initial}


def _start_overrides(initial: str) -> str:
    if initial in ("null", "canonical", "contrastive"):
        return f"start={'fresh' if initial == 'null' else initial}"
    return f"start=checkpoint start.path={initial}"


def _present(value: Any) -> Any:
    """A value with present names of components and in interpolations, at every depth."""
    if isinstance(value, list):
        return [_present(inner) for inner in value]
    if isinstance(value, Mapping):
        return {
            key: present_target(inner)
            if key == "_target_" and isinstance(inner, str)
            else _present(inner)
            for key, inner in value.items()
        }
    return present_reference(value) if isinstance(value, str) else value
