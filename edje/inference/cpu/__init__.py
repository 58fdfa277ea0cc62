"""Kernels for CPUs: attention, linear layers in float32 and bf16, linear layers in int8."""
