"""Real data that may be beside the checkout; tests that need it skip where it is absent."""

from pathlib import Path

SHARED = Path(__file__).parents[3] / "shared"
FLICKR8K = SHARED / "flickr8k"  # photographs with Karpathy's annotations
PARITY = SHARED / "parity"  # outputs of the reference implementation
