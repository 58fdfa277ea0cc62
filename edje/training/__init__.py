"""Training: the LightningModule, the optimiser with its schedule, and callbacks."""
