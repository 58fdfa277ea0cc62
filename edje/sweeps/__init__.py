"""Sweeps that don't try all combinations: studies that propose the next values."""
