"""Adapters, the joint encoder and its heads: plain modules, tensors in and tensors out."""
