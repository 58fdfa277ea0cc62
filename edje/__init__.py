"""EDJE: efficient vision-language rerankers, from images to a reranked recall table.

The names below are the public API. Each is imported on first use. So `import edje` is fast, and a
program that only scores never imports what training needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers, the same names as in the table below: a test compares them
    from edje.backbones.loading import load_backbone as load_backbone
    from edje.errors import EdjeError as EdjeError
    from edje.index.answers import Question as Question
    from edje.index.image_index import ImageIndex as ImageIndex
    from edje.inference.reference import load_reference_checkpoint as load_reference_checkpoint
    from edje.inference.reranker import Reranker as Reranker
    from edje.pipeline.evaluation import evaluate as evaluate
    from edje.registry import register_adapter as register_adapter
    from edje.registry import register_backbone as register_backbone
    from edje.registry import register_objective as register_objective
    from edje.tokens.store import TokenStore as TokenStore

__version__ = "0.2.0.dev0"  # the only place; the build reads it from here

_HOMES = {
    "EdjeError": "edje.errors",
    "ImageIndex": "edje.index.image_index",
    "Question": "edje.index.answers",
    "Reranker": "edje.inference.reranker",
    "TokenStore": "edje.tokens.store",
    "evaluate": "edje.pipeline.evaluation",
    "load_backbone": "edje.backbones.loading",
    "load_reference_checkpoint": "edje.inference.reference",
    "register_adapter": "edje.registry",
    "register_backbone": "edje.registry",
    "register_objective": "edje.registry",
}

_PACKAGES = ("analysis", "pipeline")  # also without an import of their own

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # so this runs once per name
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
