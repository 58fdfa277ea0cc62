"""Search over a user's own images: first stage and reranker together."""
