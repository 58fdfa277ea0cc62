"""The kinds of parts that a name can stand for, and what a part of each kind must have.

The checks don't import torch: if the adapters' module isn't loaded, no class derives from it.
"""

import inspect
import sys
from typing import Any, Literal, get_args

Kind = Literal["adapter", "objective", "backbone"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Methods of edje.backbones.protocol, and its classes' attributes; a test compares them.
VISION = ("identity", "preprocess", "encode_images")
TEXT = ("text_identity", "encode_texts")
PROJECTIONS = ("project_images", "project_texts")
VISION_FACTS = ("num_tokens", "token_width", "feature_width", "num_heads", "layer_norm_eps")
TEXT_FACTS = ("text_width", "embedding_width")
OF_BACKBONE = (*VISION, *TEXT, *PROJECTIONS, *VISION_FACTS, *TEXT_FACTS)
OF_OBJECTIVE = ("needs", "weight")


def lacking(kind: Kind, part: Any) -> str | None:
    """What a class (or a function that builds a part) lacks to be of this kind; None if nothing."""
    if not callable(part):
        return "it is neither a class nor a function"
    match kind:
        case "adapter":
            return _adapter_lacks(part)
        case "objective":
            return _names_lacking(part, ("__call__",))
        case "backbone":
            text = _names_lacking(part, TEXT)
            return None if text is None else _names_lacking(part, VISION)


def lacking_when_built(kind: Kind, built: Any) -> str | None:
    """What an object built by a part lacks; None if nothing."""
    match kind:
        case "adapter":
            known = isinstance(getattr(built, "num_tokens", None), int)
            return None if known else "it has no num_tokens, the number of tokens that it returns"
        case "objective":
            return _listed(built, OF_OBJECTIVE) or _names_lacking(type(built), ("__call__",))
        case "backbone":
            return _listed(built, OF_BACKBONE)


def _adapter_lacks(part: Any) -> str | None:
    base = getattr(sys.modules.get("edje.models.adapters.adapter"), "Adapter", None)
    if not inspect.isclass(part):
        return "it is not a class"
    if base is None or not issubclass(part, base):
        return "it does not derive from edje.models.adapters.Adapter"
    if getattr(part, "forward", None) is base.forward:
        return "it has no forward(tokens)"
    parameters = list(inspect.signature(part).parameters.values())
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    ):
        return "its constructor takes no facts: __init__(self, facts, *, …)"
    return None


def _names_lacking(part: Any, names: tuple[str, ...]) -> str | None:
    if not inspect.isclass(part):
        return None  # a function: what it builds is checked later
    if names == ("__call__",):  # on a class itself, hasattr is always true for it
        defined = [vars(base)["__call__"] for base in part.__mro__ if "__call__" in vars(base)]
        has = defined and not _is_abstract(defined[0])
        return None if has else "it lacks __call__(outputs)"
    return _listed(part, names)


def _listed(part: Any, names: tuple[str, ...]) -> str | None:
    absent = [
        name for name in names if not hasattr(part, name) or _is_abstract(getattr(part, name))
    ]
    return f"it lacks {', '.join(absent)}" if absent else None


def _is_abstract(member: Any) -> bool:
    return getattr(member, "__isabstractmethod__", False) is True
