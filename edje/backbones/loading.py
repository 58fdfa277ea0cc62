"""Frozen encoders by name: from an option of conf/backbone or from a saved configuration."""

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from torch import nn

import edje.backbones
from edje.backbones.option_values import option_values, resolved, with_given
from edje.backbones.protocol import Backbone
from edje.errors import EdjeError
from edje.quiet import quiet_transformers
from edje.registry import find
from edje.renames import present_target

HOME = "edje.backbones"
DUAL = ("encode_images", "encode_texts", "project_images", "project_texts")
_BUILT_FROM = "_built_from"  # attribute of a backbone


def load_backbone(choice: str | Mapping[str, Any], **given: Any) -> Backbone:
    """A frozen dual encoder on the CPU, in evaluation mode, as a run would build it.

    >>> load_backbone("shapes").num_tokens                                # doctest: +SKIP
    16
    >>> load_backbone("siglip2_b16_384", pretrained="<folder>")           # doctest: +SKIP
    >>> config = yaml.safe_load(reranker.checkpoint.config)               # doctest: +SKIP
    >>> load_backbone(config["backbone"])                                 # doctest: +SKIP

    Args:
        choice: an option of conf/backbone, or a mapping with `_target_`, such as the value of
            `backbone` in a run's config.yaml or a checkpoint's configuration. Former names work.
        given: values that replace the option's. Mappings are merged, so that
            `vision={"image_size": 384}` leaves the rest of the vision tower unchanged.

    An aligned pair of towers comes without its fitted projections.

    Raises:
        EdjeError: there is no such option; a value is missing, unknown or an unresolvable
            reference; a `_target_` is no backbone of edje; or the given name has nothing to load.
    """
    if not isinstance(choice, str | Mapping):
        raise EdjeError(f"load_backbone({choice!r}): expected an option's name or a mapping.")
    if isinstance(choice, str):
        where, values = f"load_backbone({choice!r})", option_values(choice)
    else:
        where, values = "load_backbone(<mapping>)", dict(choice)
        if "_target_" not in values:
            raise EdjeError(
                f"{where}: expected a key _target_, got {sorted(map(str, values)) or 'none'}. Give "
                "the value of `backbone` in a run's config.yaml, or the name of an option."
            )
    values = resolved(with_given(values, given), where)
    with quiet_transformers():
        backbone = _built(values, where)
    lacking = [name for name in DUAL if not hasattr(backbone, name)]
    if lacking:
        raise EdjeError(
            f"{where}: {type(backbone).__name__} is one tower of a dual encoder; it lacks "
            f"{', '.join(lacking)}. Put it beside the other one in an AlignedBackbone."
        )
    encoder: Backbone = backbone
    if isinstance(backbone, nn.Module):  # the protocol doesn't ask for one
        backbone.eval()
    if hasattr(backbone, "__dict__"):
        vars(backbone)[_BUILT_FROM] = values
    return encoder


def built_from(backbone: Backbone) -> dict[str, Any] | None:
    """The mapping from which `load_backbone` built a backbone; None if something else built it."""
    found: dict[str, Any] | None = getattr(backbone, "__dict__", {}).get(_BUILT_FROM)
    return found


def backbone_class(target: str, where: str) -> type[nn.Module]:
    """The class of a tower or dual encoder, by its name.

    That is a registered name, or the dotted name, present or former, of one of edje's classes. A
    name from a file never causes an import of other code: files are untrusted.

    Raises:
        EdjeError: the name is neither, or a registered class can't be imported.
    """
    part = None if target.startswith("edje.") else find("backbone", target)
    if part is not None and not part.is_ours:
        registered: type[nn.Module] = part.load()
        return registered
    target = target if part is None else part.target
    module, _, name = present_target(target).rpartition(".")
    modules = [f"{HOME}.{info.name}" for info in iter_modules(edje.backbones.__path__)]
    if module not in modules:
        close = get_close_matches(module, modules, n=1)
        hint = f" Did you mean {close[0]}.{name}?" if close else ""
        raise EdjeError(
            f"{where}: _target_={target} is not a backbone of edje; expected a class of a module "
            f"in {HOME}, such as {HOME}.huggingface.HuggingFaceBackbone.{hint}"
        )
    found = vars(import_module(module))
    classes = [
        key
        for key, value in found.items()
        if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == module
    ]
    if name not in classes:
        raise EdjeError(
            f"{where}: _target_={target} is not a frozen encoder; {module} has "
            f"{', '.join(classes) or 'none'}."
        )
    cls: type[nn.Module] = found[name]
    return cls


def _built(node: Any, where: str) -> Any:
    """Plain values unchanged; builds each mapping with a `_target_`, inner ones first."""
    if isinstance(node, list):
        return [_built(inner, where) for inner in node]
    if not isinstance(node, Mapping):
        return node
    values = {key: _built(inner, where) for key, inner in node.items() if key != "_target_"}
    if "_target_" not in node:
        return values
    cls = backbone_class(str(node["_target_"]), where)
    parameters = inspect.signature(cls).parameters
    required = {name for name, one in parameters.items() if one.default is one.empty}
    for problem, names in (
        ("has no", sorted(values.keys() - parameters.keys())),
        ("needs", sorted(required - values.keys())),
    ):
        if names:
            raise EdjeError(
                f"{where}: {cls.__name__} {problem} {', '.join(map(str, names))}. Its parameters: "
                f"{', '.join(parameters)}."
            )
    return cls(**values)
