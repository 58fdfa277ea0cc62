"""Training: LightningModules that glue, the optimiser with its schedule, and callbacks."""
