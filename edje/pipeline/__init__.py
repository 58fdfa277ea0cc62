"""Services with typed arguments: cache, mine, train, evaluate and compress from Python."""
