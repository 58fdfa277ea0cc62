"""The LightningDataModules, their batches, and the worker processes that read them."""
