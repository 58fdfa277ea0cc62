"""The tables of docs/scale.md: python experiments/scale/arithmetic.py.

FLOPs are counted on models without weights, bytes are the codecs'. The rest are the constants
below, each with its source.
"""

import sys

from edje.inference.checkpoint import AdapterSpecification
from edje.models.joint_options import JointOptions
from edje.pipeline.known_models import known_configuration
from edje.pipeline.model_sizes import Towers, counted_sizes
from edje.pipeline.plan import FLOPS_PER_SECOND
from edje.tokens.codec import CodecName, make_codec

TOWER, JOINT = "google/siglip2-large-patch16-384", "microsoft/MiniLM-L12-H384-uncased"
COMPRESSION = "edje.models.adapters.TokenCompressionAdapter"
WIDTH, EMBEDDING = 384, 1024  # MiniLM's token width, SigLIP2 L's embedding width
IMAGES = (10**6, 10**8, 10**9)
QUERIES, CANDIDATES = 1000, 100  # per second; reranked per query
PEAK = 989e12  # FLOP/s, H100 SXM, dense bf16: NVIDIA's data sheet (1,979e12 with sparsity)
BANDWIDTH = 3.35e12  # bytes/s of its memory: the same source
CARD = 80e9  # bytes of its memory: the same source
GOAL = 100_000  # pairs/s at 64 tokens, the goal in experiments/speed/README.md; not measured
PQ_BYTES = EMBEDDING // 16 + 8  # LanceDB's default codes, and a row id


def main() -> None:
    """Print the tables."""
    sizes = {
        tokens: counted_sizes(
            Towers(known_configuration(TOWER, "backbone.pretrained")),
            known_configuration(JOINT, "joint.pretrained"),
            AdapterSpecification(COMPRESSION, {"num_tokens": tokens, "hidden_width": 8192}),
            JointOptions(),
            "bf16",
            "bf16",
        )
        for tokens in (16, 64)
    }
    say("| | FLOPs, counted |", "|---|---|")
    say(f"| an image through the tower | {sizes[64].image_flops / 1e9:,.0f} G |")
    for tokens, one in sizes.items():
        say(f"| adapter, an image, {tokens} tokens | {one.adapter_flops / 1e9:,.2f} G |")
        say(f"| a pair, {tokens} tokens | {one.pair_flops / 1e9:,.2f} G |")
    say("", f"| bytes | an image | {' | '.join(f'{count:,}' for count in IMAGES)} |")
    say(f"|---|{'---|' * (1 + len(IMAGES))}")
    say(row("embedding, float32", 4 * EMBEDDING))
    names: tuple[CodecName, ...] = ("bf16", "int8", "int4")
    for tokens in (16, 64):
        for name in names:
            say(row(f"{tokens} tokens, {name}", make_codec(name, tokens, WIDTH).cell_bytes))
    say(row("IVF_PQ, in memory", PQ_BYTES), "")
    image = sizes[64].image_flops + sizes[64].adapter_flops
    say("| GPU-hours to encode | " + " | ".join(f"{count:,}" for count in IMAGES) + " |")
    say(f"|---|{'---|' * len(IMAGES)}")
    for name, speed in (("bound", PEAK), ("assumed", FLOPS_PER_SECOND)):
        hours = (f"{count * image / speed / 3600:,.2f}" for count in IMAGES)
        say(f"| {name}: {speed / 1e12:,.0f} TFLOP/s | {' | '.join(hours)} |")
    for speed in (PEAK, FLOPS_PER_SECOND):
        say(f"({speed / image:,.0f} images a second at {speed / 1e12:,.0f} TFLOP/s)")
    say(f"a query through the text tower: {sizes[64].text_flops / 1e9:,.1f} GFLOP")
    say("", f"pairs a second: {QUERIES:,} x {CANDIDATES} = {QUERIES * CANDIDATES:,}")
    for tokens, one in sizes.items():
        need = QUERIES * CANDIDATES * one.pair_flops
        say(f"{tokens} tokens: {need / 1e12:,.0f} TFLOP/s, {need / PEAK:.2f} H100 at the bound")
        cell = make_codec("int8", tokens, WIDTH).cell_bytes
        say(f"  cells in int8: {QUERIES * CANDIDATES * cell / 1e9:.2f} GB/s")
    for count in IMAGES:
        size = 4 * EMBEDDING * count
        say(
            f"exact, {count:,}: {size / 1e9:,.1f} GB, {-(-size // int(CARD)):,} cards for memory, "
            f"{1e3 * size / BANDWIDTH:,.2f} ms at the bandwidth of one"
        )


def row(name: str, size: int) -> str:
    """A row of the table of bytes."""
    return f"| {name} | {size:,} | {' | '.join(amount(size * count) for count in IMAGES)} |"


def amount(size: float) -> str:
    """Bytes in GB, or in TB from 1,000 GB on."""
    return f"{size / 1e9:,.1f} GB" if size < 1e12 else f"{size / 1e12:,.1f} TB"


def say(*lines: str) -> None:
    """Print lines."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
