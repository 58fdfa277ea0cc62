"""The objectives: one small pure term per file, and the hard negatives they contrast with."""
