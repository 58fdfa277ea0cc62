"""The disk, memory and time that a run needs: products of counted figures, each written out.

Nothing is estimated except what the notes say: the speed of a GPU, and the length of captions.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from edje.objectives.outputs import Part

Kind = Literal["disk", "memory", "compute"]
UNITS: dict[Kind, tuple[float, str]] = {
    "disk": (1e9, "GB"),
    "memory": (1e9, "GB"),
    "compute": (1e15, "PFLOP"),
}
FLOPS_PER_SECOND = 2e14  # of one GPU; assumed
TRAINED_BYTES = 16  # per weight in float32: itself, its gradient, two moments of AdamW
SAVED_BYTES = 12  # of these, what last.ckpt keeps: all but the gradient


@dataclass(frozen=True)
class Sizes:
    """Counted figures of the models: FLOPs per forward pass, bytes, numbers of weights."""

    image_flops: int  # vision tower, an image
    text_flops: int  # text tower, a caption
    adapter_flops: int  # an image
    pair_flops: int  # joint encoder, a caption with the visual tokens of an image
    alone_flops: int  # joint encoder, a caption without an image
    words_flops: int  # masked-language head, a caption
    teacher_flops: int  # joint encoder of the teacher, a pair
    teacher_adapter_flops: int  # an image
    raw_bytes: int  # a stored cell of vision tokens
    compressed_bytes: int  # a stored cell of visual tokens
    embedding_bytes: int  # of an image or caption in the first stage
    tokens_bytes: int  # vision tokens of an image in a batch
    kept_pair_bytes: int  # what a pair keeps for the backward pass
    kept_image_bytes: int  # what the adapter keeps of an image
    trained_weights: int
    tower_weights: int
    teacher_weights: int


@dataclass(frozen=True)
class Work:
    """The amount of work in a run.

    Args:
        train_images: images that are encoded once and stored; if training is streamed, those of
            dev.
        train_captions: likewise.
        evaluated_images: of the evaluated split.
        evaluated_captions: of the evaluated split.
        candidates: candidates reranked per query.
        steps: optimiser steps.
        pairs: pairs that a device reads in a step, over all accumulated batches.
        batch: pairs of a batch.
        devices: devices that train.
        negatives: negatives per pair and direction.
        parts: parts of a step that some objective reads.
        streamed: whether images and captions are encoded at every step.
        recomputed: whether the backward pass recomputes layers.
    """

    train_images: int
    train_captions: int
    evaluated_images: int
    evaluated_captions: int
    candidates: int
    steps: int
    pairs: int
    batch: int
    devices: int
    negatives: int
    parts: frozenset[Part]
    streamed: bool
    recomputed: bool


@dataclass(frozen=True)
class Line:
    """One thing that a run needs: the product of its factors, each with its name."""

    kind: Kind
    what: str
    factors: tuple[tuple[int, str], ...]

    @property
    def value(self) -> int:
        """In bytes or FLOPs."""
        return prod(number for number, _ in self.factors)

    @property
    def arithmetic(self) -> str:
        """The product written out, with its result."""
        terms = " × ".join(f"{number:,} {name}" for number, name in self.factors)
        return f"{terms} = {shown(self.kind, self.value)}"


@dataclass(frozen=True)
class Plan:
    """The lines of a run's needs, and their assumptions."""

    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    flops_per_second: float = FLOPS_PER_SECOND

    def total(self, kind: Kind) -> int:
        """The sum of a kind's lines, in bytes or FLOPs."""
        return sum(line.value for line in self.lines if line.kind == kind)

    @property
    def gpu_hours(self) -> float:
        """All arithmetic at the assumed speed of one GPU."""
        return self.total("compute") / self.flops_per_second / 3600

    def report(self) -> dict[str, Any]:
        """The content of plan.json."""
        lines = [
            {"kind": line.kind, "what": line.what, "value": line.value}
            | {"arithmetic": line.arithmetic}
            for line in self.lines
        ]
        return {
            "lines": lines,
            "disk_bytes": self.total("disk"),
            "memory_bytes_per_device": self.total("memory"),
            "flops": self.total("compute"),
            "flops_per_second": self.flops_per_second,
            "gpu_hours": self.gpu_hours,
            "notes": list(self.notes),
        }


def shown(kind: Kind, value: float) -> str:
    """An amount as text, in the unit of its kind."""
    size, unit = UNITS[kind]
    return f"{value / size:,.3g} {unit}" if value < 1000 * size else f"{value / size:,.0f} {unit}"


def plan(work: Work, sizes: Sizes, notes: Iterable[str] = ()) -> Plan:
    """The needs of caching, training and evaluating; lines with the value 0 are left out."""
    lines = (*_disk(work, sizes), *_memory(work, sizes), *_compute(work, sizes))
    return Plan(tuple(line for line in lines if line.value), tuple(notes))


def _splits(work: Work) -> Iterator[tuple[str, int, int]]:
    """Name, images and captions of each split that is encoded once."""
    yield "dev" if work.streamed else "train", work.train_images, work.train_captions
    yield "evaluated", work.evaluated_images, work.evaluated_captions


def _disk(work: Work, sizes: Sizes) -> Iterator[Line]:
    for split, images, captions in _splits(work):
        count = (images, f"{split} images")
        yield Line("disk", f"raw tokens, {split}", (count, (sizes.raw_bytes, "bytes")))
        yield Line("disk", f"embeddings, {split}", (count, (sizes.embedding_bytes, "bytes")))
        texts = (captions, f"{split} captions")
        yield Line("disk", f"caption features, {split}", (texts, (sizes.embedding_bytes, "bytes")))
    scored = (work.evaluated_images, "evaluated images")
    compressed = (sizes.compressed_bytes, "bytes")
    yield Line("disk", "compressed tokens, evaluated (task=compress)", (scored, compressed))
    weights = (sizes.trained_weights, "weights")
    yield Line("disk", "checkpoints/last.ckpt", (weights, (SAVED_BYTES, "bytes")))
    yield Line("disk", "checkpoints/model.ckpt", (weights, (4, "bytes")))


def _memory(work: Work, sizes: Sizes) -> Iterator[Line]:
    """The memory of each device while training."""
    weights = (sizes.trained_weights, "weights")
    yield Line("memory", "weights, gradients, AdamW", (weights, (TRAINED_BYTES, "bytes")))
    if "teacher" in work.parts:
        yield Line("memory", "teacher", ((sizes.teacher_weights, "weights"), (4, "bytes")))
    if work.streamed:
        yield Line("memory", "frozen towers", ((sizes.tower_weights, "weights"), (4, "bytes")))
    batch = (work.batch, "images of a batch")
    yield Line("memory", "vision tokens", (batch, (sizes.tokens_bytes, "bytes")))
    if not work.recomputed:
        pairs = (work.batch, "pairs of a batch")
        kept = (sizes.kept_pair_bytes, "bytes")
        through = (_passes(work), "passes")
        yield Line("memory", "kept for the backward pass, pairs", (pairs, through, kept))
        adapter = (sizes.kept_image_bytes, "bytes")
        yield Line("memory", "kept for the backward pass, adapter", (batch, adapter))


def _compute(work: Work, sizes: Sizes) -> Iterator[Line]:
    for split, images, captions in _splits(work):
        flops = (sizes.image_flops, "FLOPs")
        yield Line("compute", f"encode images, {split}", ((images, "images"), flops))
        flops = (sizes.text_flops, "FLOPs")
        yield Line("compute", f"encode captions, {split}", ((captions, "captions"), flops))
    steps, pairs = (work.steps, "steps"), (work.pairs, "pairs of a device")
    step = (steps, pairs, (work.devices, "devices"))
    trained = (3, "(forward, twice backward)")
    if work.recomputed:
        trained = (4, "(forward, again, twice backward)")
    both = (_passes(work), "passes")
    yield Line(
        "compute", "train: joint encoder", (*step, both, trained, (sizes.pair_flops, "FLOPs"))
    )
    yield Line("compute", "train: adapter", (*step, trained, (sizes.adapter_flops, "FLOPs")))
    if "masked" in work.parts:
        flops = (sizes.words_flops, "FLOPs")
        yield Line(
            "compute",
            "train: masked-language head",
            (*step, (3, "(forward, twice backward)"), flops),
        )
    if "text_only" in work.parts:
        flops = (sizes.alone_flops, "FLOPs")
        yield Line("compute", "train: text alone", (*step, trained, flops))
    if "teacher" in work.parts:
        mined, flops = (1 + 2 * work.negatives, "passes"), (sizes.teacher_flops, "FLOPs")
        yield Line("compute", "train: teacher's joint encoder", (*step, mined, flops))
        flops = (sizes.teacher_adapter_flops, "FLOPs")
        yield Line("compute", "train: teacher's adapter", (*step, flops))
    if work.streamed:
        yield Line("compute", "train: vision tower", (*step, (sizes.image_flops, "FLOPs")))
        yield Line("compute", "train: text tower", (*step, (sizes.text_flops, "FLOPs")))
    scored, flops = (work.evaluated_images, "images"), (sizes.adapter_flops, "FLOPs")
    yield Line("compute", "evaluate: adapter", (scored, flops))
    queries = (work.evaluated_images + work.evaluated_captions, "queries")
    pool, flops = (work.candidates, "candidates"), (sizes.pair_flops, "FLOPs")
    yield Line("compute", "evaluate: joint encoder", (queries, pool, flops))


def _passes(work: Work) -> int:
    """Passes of a pair through the joint encoder: with its negatives, and with masked words.

    The positive is used for both directions.
    """
    mined = 1 + 2 * work.negatives if {"pairs", "teacher"} & work.parts else 0
    return mined + ("masked" in work.parts)
