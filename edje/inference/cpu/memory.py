"""Memory that stays with the process between the products of an encoder."""

import torch

LARGEST_KEPT = 2**25 - 2**16  # bytes; glibc learns nothing from more than 32 MiB


def keep_freed_memory() -> None:
    """Have glibc keep freed memory, up to 64 MiB, for what is allocated next.

    It learns from what is freed: after a block of 32 MiB it takes smaller ones from memory that
    it has, and gives memory back to the system only beyond twice that. Before, each product's
    output may be new memory, whose pages fault one by one (thousands of times a query). The block
    is never written, so it takes no memory. Elsewhere than with glibc this does nothing.
    """
    torch.empty(LARGEST_KEPT, dtype=torch.uint8, device="cpu")
