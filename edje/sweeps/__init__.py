"""Sweeps beyond every combination of values: studies that propose the next values to try."""
