"""Mixtures of sources too large to cache: their pairs, and the pairs' order."""
