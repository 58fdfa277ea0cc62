"""Keep freed memory in the process between an encoder's products."""

import torch

LARGEST_KEPT = 2**25 - 2**16  # bytes; glibc ignores blocks over 32 MiB


def keep_freed_memory() -> None:
    """Make glibc keep up to 64 MiB of freed memory for the next allocations.

    glibc adapts to what is freed. After a block of 32 MiB it serves smaller blocks from memory
    that it has, and returns memory to the system only beyond twice that size. Without this, each
    product's output may be new memory, whose pages fault one by one (thousands of times per
    query). The block is never written, so it takes no memory. Without glibc this does nothing.
    """
    torch.empty(LARGEST_KEPT, dtype=torch.uint8, device="cpu")
