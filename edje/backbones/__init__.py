"""Frozen encoders: pixels to tokens and features, captions to features, both to embeddings."""
