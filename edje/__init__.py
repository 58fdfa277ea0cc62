"""EDJE: efficient vision-language rerankers, from images to a reranked recall table."""

from edje.registry import register_adapter, register_backbone, register_objective

__all__ = ["register_adapter", "register_backbone", "register_objective"]
__version__ = "0.1.0"
