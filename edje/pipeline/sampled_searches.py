"""Searches in parts of a collection, each with and without its target in the gallery."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edje.backbones.protocol import Backbone
from edje.data.sources.holdout import hold_out
from edje.inference.checkpoint import Checkpoint
from edje.inference.run_choices import Score
from edje.pipeline.collection import Collection
from edje.pipeline.devices import similarity_device
from edje.pipeline.first_stage import embeddings
from edje.pipeline.scoring import Scoring, fusion_of, rerank_collection
from edje.records import DIRECTIONS, CandidateList, Direction
from edje.retrieval.calibration import Searches
from edje.retrieval.candidates import first_stage_candidates
from edje.tokens.codec import CodecName

SMALLEST = 50  # images of a gallery
LARGEST = 5000  # so that only a part of a large collection is compressed for this
NUM_SIZES = 4  # from the smallest to all images, in equal ratios
QUERIES = 400  # per size, each with a different image


@dataclass(frozen=True)
class Sample:
    """Queries of one direction, with candidates from random galleries of one size.

    The lists are deep enough to hold the requested number of candidates without the relevant ones.
    """

    queries: Int[Tensor, "queries"]  # rows of the collection
    first: CandidateList  # also in rows of the collection
    listed: Bool[Tensor, "queries pool"]  # a small gallery doesn't fill all places
    gallery_sizes: Int[Tensor, "queries"]  # images (t2i) or captions (i2t)


@dataclass(frozen=True)
class Gallery:
    """Images, those of them that are queries, and one caption of each query; all as rows."""

    images: Int[Tensor, "images"]
    asked: Int[Tensor, "queries"]
    captions: Int[Tensor, "queries"]


def gallery_sizes(num_images: int) -> list[int]:
    """Numbers of images from `SMALLEST` to all; none if there are fewer.

    >>> gallery_sizes(1000), gallery_sizes(50), gallery_sizes(49)
    ([50, 136, 368, 1000], [50], [])
    """
    if num_images < SMALLEST:
        return []
    ratio = num_images / SMALLEST
    steps = (step / (NUM_SIZES - 1) for step in range(NUM_SIZES))
    return sorted({round(SMALLEST * ratio**step) for step in steps})


def sampled_searches(
    checkpoint: Checkpoint,
    backbone: Backbone,
    collection: Collection,
    scoring: Scoring,
    codec: CodecName,
    score: Score,
    seed: int,
    devices: Sequence[torch.device],
) -> dict[Direction, list[Searches]]:
    """Searches in random galleries with final scores: by direction, one entry per size.

    Each query searches twice: in its gallery, and in the same gallery without the items relevant
    to it. For score=sum the checkpoint's weights must be fitted. All random choices depend on the
    seed. Of a collection with more than `LARGEST` images only that many are used.
    """
    if len(collection.split.images) > LARGEST:
        collection = collection.restricted(hold_out(collection.split, LARGEST, seed)[1])
    device = similarity_device(next(checkpoint.model.parameters()).device)
    drawn = drawn_samples(backbone, collection, scoring.candidates, seed, device)
    whole = {direction: joined(samples) for direction, samples in drawn.items()}
    reranked, *_ = rerank_collection(
        checkpoint,
        backbone,
        collection,
        scoring,
        codec,
        first=[sample.first for sample in whole.values()],
        queries={direction: sample.queries for direction, sample in whole.items()},
        devices=devices,
    )
    searches: dict[Direction, list[Searches]] = {}
    for direction, lists in reranked.items():
        fused = fusion_of(checkpoint, direction)(lists) if score == "sum" else lists
        final = fused.final.cpu()
        scores = final.split([len(sample.queries) for sample in drawn[direction]])
        searches[direction] = [
            with_and_without(sample, own, scoring.candidates)
            for sample, own in zip(drawn[direction], scores, strict=True)
        ]
    return searches


def drawn_samples(
    backbone: Backbone, collection: Collection, candidates: int, seed: int, device: torch.device
) -> dict[Direction, list[Sample]]:
    """One sample per gallery size, by direction."""
    images, captions = (one.to(device) for one in embeddings(backbone, collection))
    owner = collection.image_of_caption
    generator = torch.Generator().manual_seed(seed)
    samples: dict[Direction, list[Sample]] = {direction: [] for direction in DIRECTIONS}
    for size in gallery_sizes(len(collection.split.images)):
        galleries = list(drawn_galleries(owner, size, generator))
        for direction in DIRECTIONS:
            parts = [
                candidates_in(one, images, captions, owner, direction, candidates)
                for one in galleries
            ]
            samples[direction].append(joined(parts))
    return samples


def drawn_galleries(
    owner: Int[Tensor, "captions"], size: int, generator: torch.Generator
) -> Iterator[Gallery]:
    """Disjoint galleries of `size` images, with `QUERIES` queries in total if possible.

    `owner` is the row of each caption's image.
    """
    num_images = int(owner.max()) + 1
    order = torch.randperm(num_images, generator=generator)
    count = min(num_images // size, -(-QUERIES // size))
    for images in order[: count * size].split(size):
        asked = images[: -(-QUERIES // count)]
        captions = [(owner == image).nonzero()[:, 0] for image in asked]
        picks = [own[torch.randint(len(own), (), generator=generator)] for own in captions]
        yield Gallery(images, asked, torch.stack(picks))


def candidates_in(
    gallery: Gallery,
    images: Float[Tensor, "images embedding"],
    captions: Float[Tensor, "captions embedding"],
    owner: Int[Tensor, "captions"],
    direction: Direction,
    candidates: int,
) -> Sample:
    """The first stage's lists in one gallery, from the embeddings of the whole collection."""
    if direction == "t2i":
        sides, queries, there = (captions, images), gallery.captions, gallery.images
        owners, deeper = (owner[queries], there), 1
    else:
        sides, queries = (images, captions), gallery.asked
        there = torch.isin(owner, gallery.images).nonzero()[:, 0]
        owners, deeper = (queries, owner[there]), int(torch.bincount(owner).max())
    device = images.device
    lists = first_stage_candidates(
        sides[0][queries.to(device)],
        sides[1][there.to(device)],
        owners[0].to(device),
        owners[1].to(device),
        direction,
        candidates + deeper,
    )
    pool = lists.candidates.shape[1]
    filled = torch.arange(candidates + deeper)
    places = filled.clamp(max=pool - 1)  # the same width for all galleries
    first = CandidateList(
        direction,
        there[lists.candidates.cpu()][:, places],
        lists.scores.cpu()[:, places],
        lists.relevant.cpu()[:, places],
        lists.num_relevant.cpu(),
    )
    listed = (filled < pool).expand(len(queries), -1)
    return Sample(queries, first, listed, torch.full((len(queries),), len(there)))


def joined(samples: Sequence[Sample]) -> Sample:
    """Several samples of one direction as one."""
    names = ("candidates", "scores", "relevant", "num_relevant")
    lists = [sample.first for sample in samples]
    tensors = [torch.cat([getattr(one, name) for one in lists]) for name in names]
    return Sample(
        torch.cat([sample.queries for sample in samples]),
        CandidateList(lists[0].direction, *tensors),
        torch.cat([sample.listed for sample in samples]),
        torch.cat([sample.gallery_sizes for sample in samples]),
    )


def with_and_without(sample: Sample, final: Tensor, candidates: int) -> Searches:
    """Each query's list of `candidates`, then the same lists without relevant items."""
    scores = final.double().masked_fill(~sample.listed, -torch.inf)
    relevant = sample.first.relevant & sample.listed
    others = relevant.long().argsort(dim=1, stable=True)[:, :candidates]
    without = scores.masked_fill(relevant, -torch.inf).gather(1, others)
    return Searches(
        torch.cat([scores[:, :candidates], without]),
        torch.cat([relevant[:, :candidates], torch.zeros_like(without, dtype=torch.bool)]),
        sample.gallery_sizes.repeat(2),
    )
