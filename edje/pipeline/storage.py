"""How token stores are written: number formats, batches, processes."""

from dataclasses import dataclass
from typing import Literal

from edje.ranges import NonNegativeInt, PositiveInt
from edje.tokens.codec import CodecName

TowerPrecision = Literal["fp32", "tf32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How token stores are written.

    Args:
        raw_codec: number format of the backbone's tokens.
        compressed_codec: number format of an adapter's tokens, which are scored.
        batch_size: images encoded at once. Batches don't cross shards; another size may change
            the last bits of the tokens.
        num_workers: processes per device that read and decode images; null is one per core, up
            to 16 and as far as the shared memory allows, on an accelerator, and 1 on a CPU,
            because the tower needs its cores.
        join: help a run on another machine that writes the same store into a shared folder.
        tower_precision: of the tower's products. tf32 keeps 10 bits of a number on a GPU, more
            than a bf16 cell's 8; elsewhere it is float32. fp32 is float32 everywhere. bf16 is
            autocast, about twice as fast as tf32 on a GPU, and float32 if the device has no
            instructions for bf16; its stores count as other stores than those of tf32.
    """

    raw_codec: CodecName = "bf16"
    compressed_codec: CodecName = "bf16"
    batch_size: PositiveInt = 64
    num_workers: NonNegativeInt | None = None
    join: bool = False
    tower_precision: TowerPrecision = "tf32"
