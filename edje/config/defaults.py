"""Writes the constructors' defaults into a configuration that leaves them out."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from omegaconf import DictConfig, OmegaConf

from edje.config.parts import mappings, signature_at
from edje.config.signatures import UNREAD, UnknownTargetError


def fill_defaults(cfg: DictConfig) -> DictConfig:
    """Add, in place, the default of every value that YAML may set in edje's classes and in parts.

    So a run's config.yaml shows all values that the run used, even if no option file does.
    Nothing is added for Lightning's classes and other code.
    """
    for key, node in mappings("", OmegaConf.to_container(cfg, resolve=False)):
        if not isinstance(target := node.get("_target_"), str) or "${" in target:
            continue
        with suppress(UnknownTargetError):  # such as one of an earlier version's run
            for name, default in _left_out(key, node).items():
                OmegaConf.update(cfg, f"{key}.{name}", default, force_add=True)
    return cfg


def is_left_out(cfg: DictConfig, key: str) -> bool:
    """Whether a component uses its default at a full key and the tree doesn't show it."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else None
    if not isinstance(node, DictConfig) or name in node or "_target_" not in node:
        return False
    with suppress(UnknownTargetError):
        return name in signature_at(parent, node["_target_"]).settable()
    return False


def _left_out(key: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that a node uses, as far as YAML can hold them."""
    signature = signature_at(key, node["_target_"])
    absent = [name for name in signature.settable() if name not in node] if signature.own else []
    if any(signature.parameters[name].default is UNREAD for name in absent):
        signature = signature_at(key, node["_target_"], imported=True)
    found = {name: signature.parameters[name].default for name in absent}
    return {name: default for name, default in found.items() if default is not UNREAD}
