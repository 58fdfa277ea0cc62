"""The objectives: one small pure term per file, and the mining of hard negatives."""
