"""Mixtures of sources too large to cache: which pairs there are, and in which order."""
