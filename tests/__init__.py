"""The tests: a package of this checkout alone, also for the programs that they start."""
