"""EDJE: efficient vision-language rerankers, from images to a reranked recall table."""

__version__ = "0.1.0"
