"""Several processes at one work: launching them, what they exchange, how they find each other."""
