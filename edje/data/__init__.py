"""Image-caption data sets and the datamodules over cached tokens."""
