"""The tasks: the only place where objects are built and wired together."""
