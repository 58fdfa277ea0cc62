"""Kernels for CPUs: attention, linear layers in float32 and bf16, linear layers in int8.

Code outside this folder uses only these names. On other devices, or if torch lacks the operators
that they need (`operators`), `Dense` and `attention_for` are torch's own.
"""

from edje.inference.cpu.attention import (
    attend,
    attend_by_products,
    attention_for,
    prefers_products,
)
from edje.inference.cpu.dense import Dense
from edje.inference.cpu.int8 import Int8Dense, Recorder, int8_product
from edje.inference.cpu.memory import keep_freed_memory
from edje.inference.cpu.operators import (
    has_bf16_instructions,
    has_int8_products,
    packed_products,
    stay_in_place,
)

__all__ = [
    "Dense",
    "Int8Dense",
    "Recorder",
    "attend",
    "attend_by_products",
    "attention_for",
    "has_bf16_instructions",
    "has_int8_products",
    "int8_product",
    "keep_freed_memory",
    "packed_products",
    "prefers_products",
    "stay_in_place",
]
