"""Former names: how what earlier versions have saved is read, and what the command line is told.

One table, for good. A configuration in a run folder or a checkpoint that has former names is
brought to the present ones when it is read; on the command line a former name is an error that
says the present one.
"""

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
    "edje.tasks.scoring": "edje.pipeline.scoring",
    "edje.tasks.writing": "edje.pipeline.writing",
}


def present_target(target: str) -> str:
    """The present dotted name of a component, given it or a former one."""
    module, _, name = target.rpartition(".")
    return f"{MOVED_MODULES[module]}.{name}" if module in MOVED_MODULES else target


def with_present_targets(tree: Any) -> Any:
    """A configuration as plain containers, with the present name in every `_target_`."""
    if isinstance(tree, list):
        return [with_present_targets(inner) for inner in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        key: present_target(value)
        if key == "_target_" and isinstance(value, str)
        else with_present_targets(value)
        for key, value in tree.items()
    }
