"""Several processes with one job: launching them, their communication, how they find each other."""
