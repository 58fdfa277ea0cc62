"""The LightningDataModules, the batches that they give, and the processes that read them."""
