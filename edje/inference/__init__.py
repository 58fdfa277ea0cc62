"""Rerank from Python: checkpoints, the scorer and the Reranker; no hydra, no lightning."""
