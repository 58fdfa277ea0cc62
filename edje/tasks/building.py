"""Building backbones and objectives from configuration nodes, by short or dotted names."""

from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from edje.config.parts import part_kind
from edje.errors import EdjeError
from edje.part_kinds import lacking_when_built
from edje.registry import find, ours


def backbone_from(node: Any) -> Any:
    """The backbone of a node.

    Raises:
        EdjeError: a registered one can't be imported, or what it builds isn't a backbone.
    """
    return _checked("backbone", node)


def objectives_from(nodes: Mapping[str, Any]) -> dict[str, Any]:
    """The objectives by name, without those that are null.

    Raises:
        EdjeError: a registered one can't be imported, or what it builds isn't an objective.
    """
    given = {name: node for name, node in nodes.items() if node is not None}
    return {name: _checked(f"objective.{name}", node) for name, node in given.items()}


def part_from(key: str, node: DictConfig | Mapping[str, Any], *arguments: Any) -> Any:
    """The object that the node under a full key builds; `arguments` are passed on to it.

    Raises:
        EdjeError: a registered part can't be imported.
    """
    tree = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    loaded = _with_parts(key, tree)
    if loaded == tree:
        return instantiate(node, *arguments)
    # Hydra accepts classes and functions in place of names, and its errors name the key
    around = OmegaConf.create(flags={"allow_objects": True})
    OmegaConf.update(around, key, loaded, force_add=True)
    return instantiate(OmegaConf.select(around, key), *arguments)


def _checked(key: str, node: DictConfig | Mapping[str, Any]) -> Any:
    kind, target = part_kind(key), str(node.get("_target_"))
    assert kind is not None
    built = part_from(key, node)
    if ours(kind, target) is None and (reason := lacking_when_built(kind, built)) is not None:
        raise EdjeError(
            f"{key}._target_={target}: {type(built).__name__} is not a valid {kind}: {reason}."
        )
    return built


def _with_parts(key: str, node: Any) -> Any:
    """A plain tree in which classes replace registered names."""
    if not isinstance(node, Mapping):
        return node
    inner = {name: _with_parts(f"{key}.{name}", value) for name, value in node.items()}
    kind, target = part_kind(key), node.get("_target_")
    if kind is not None and isinstance(target, str) and not target.startswith("edje."):
        part = find(kind, target)
        if part is not None:
            inner["_target_"] = part.load()
    return inner
