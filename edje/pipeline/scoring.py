"""Scoring a cached collection: compressed tokens, first-stage candidates, joint scores."""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from edje.backbones.protocol import Backbone
from edje.inference.checkpoint import Checkpoint
from edje.inference.precisions import precision_of
from edje.inference.scorer import ScoringSet
from edje.language_model import tokenize
from edje.pipeline.collection import Collection
from edje.pipeline.devices import similarity_device
from edje.pipeline.first_stage import first_stage_lists
from edje.pipeline.shares import ScoringWork, num_shares, score, scored_in_shares, settled
from edje.pipeline.visual_tokens import visual_tokens
from edje.ranges import NonNegativeInt, PositiveInt
from edje.records import DIRECTIONS, CandidateList, Direction
from edje.retrieval.fusion import SumFusion, fit_sum
from edje.retrieval.rerank import RerankedList
from edje.tokens.codec import Codec, CodecName, make_codec

WORTH_SHARING = 20_000  # pairs; with fewer, starting processes takes longer than scoring


class Scoring:
    """How candidate lists are made and scored.

    Args:
        candidates: pool size k of the first stage, per query and direction.
        batch_size: pairs handed to the scorer at a time; it may run the joint encoder on fewer.
        precision: of the joint encoder's matrix products; scores are float32. bf16 is fp32 if
            the device has no instructions for bf16, which then is several times slower. int8
            needs a CPU with exact int8 products (VNNI), and is only used if it is faster there.
        dev_every: optimiser steps between two scores on dev (0: never); the best are kept.
        patience: training ends after this many dev scores without a new best; null: never.
        shuffle_tokens: a control: every image gets another image's tokens, so that the joint
            encoder learns nothing from the images.
        num_tokens: use only this many of the first visual tokens, one of the adapter's budgets;
            null uses all.
        examples: number of example queries shown in the gallery.
        compile: the scorer's layers run under torch.compile, on CUDA as graphs. It takes seconds
            to minutes per text length, so it is for large evaluations on a GPU.
    """

    def __init__(
        self,
        *,
        candidates: PositiveInt = 20,
        batch_size: PositiveInt = 1024,
        precision: Literal["fp32", "bf16", "fp16", "int8"] = "bf16",
        dev_every: NonNegativeInt = 0,
        patience: PositiveInt | None = None,
        shuffle_tokens: bool = False,
        num_tokens: PositiveInt | None = None,
        examples: NonNegativeInt = 8,
        compile: bool = False,
    ):
        self.candidates = candidates
        self.batch_size = batch_size
        self.precision_name = precision
        self.dev_every = dev_every
        self.patience = patience
        self.shuffle_tokens = shuffle_tokens
        self.num_tokens = num_tokens
        self.examples = examples
        self.compile = compile

    def unshuffled(self) -> "Scoring":
        """The same options without the control."""
        other = copy(self)
        other.shuffle_tokens = False
        return other

    def precision_on(self, device: torch.device) -> torch.dtype:
        """The number format of the products on this device.

        Raises:
            EdjeError: the device doesn't support the requested one.
        """
        return precision_of(self.precision_name, torch.float32, device)


def visual_shape(checkpoint: Checkpoint) -> tuple[int, int]:
    """Number and width of the tokens that a reranker stores per image."""
    model = checkpoint.model
    return model.adapter.num_tokens, model.joint.width


def rerank_collection(
    checkpoint: Checkpoint,
    backbone: Backbone,
    collection: Collection,
    scoring: Scoring,
    codec_name: CodecName,
    *,
    directions: Sequence[Direction] = DIRECTIONS,
    first: Sequence[CandidateList] | None = None,
    queries: Mapping[Direction, Int[Tensor, "queries"]] | None = None,
    devices: Sequence[torch.device] = (),
) -> tuple[dict[Direction, RerankedList], Codec, float, torch.dtype]:
    """Candidates of both directions with their joint scores, codec, pairs per second, precision.

    `first` are the first stage's lists of the directions, if already known. `queries` are the rows
    of their queries, if these aren't all of the collection's in order. The speed is the scorer's
    alone, including its gathering of tokens. With several `devices` and enough pairs, each device
    scores its share of the queries; otherwise the model's own device scores all.
    """
    model = checkpoint.model
    codec = make_codec(codec_name, *visual_shape(checkpoint))
    device = next(model.parameters()).device
    precision = scoring.precision_on(device)  # it may log a line, so before any progress bar
    if first is None:
        first = first_stage_lists(
            backbone, collection, scoring.candidates, directions, device=similarity_device(device)
        )
    # Several processes share a file or a store, not memory.
    with visual_tokens(model, collection, codec, in_memory=num_shares(devices) < 2) as visual:
        if scoring.shuffle_tokens:
            generator = torch.Generator().manual_seed(0)
            visual = visual.permuted(torch.randperm(len(visual), generator=generator))
        asked = ScoringWork(
            model,
            ScoringSet(tokenize(checkpoint.language_model.tokenizer, collection.texts), visual),
            precision,
            scoring.batch_size,
            first,
            compiled=scoring.compile,
            queries=None if queries is None else [queries[one.direction] for one in first],
        )
        work = settled(asked)
        with tqdm(total=work.num_pairs, desc="rerank", unit="pair") as bar:
            if num_shares(devices) > 1 and work.num_pairs >= WORTH_SHARING:
                reranked, seconds = scored_in_shares(work, devices, bar.update)
            else:
                reranked, seconds = score(work, bar.update)
    by_direction = {one.first.direction: one for one in reranked}
    return by_direction, codec, work.num_pairs / seconds, work.precision


def fusion_weights(
    dev: Mapping[Direction, RerankedList], before: Mapping[Direction, SumFusion]
) -> dict[Direction, SumFusion]:
    """The weights of score=sum by direction, fitted on dev; where that is chance, `before`'s."""
    weights = {direction: one.weight for direction, one in before.items()}
    return {
        direction: fit_sum(lists, weights.get(direction, 0.0)) for direction, lists in dev.items()
    }


def fusion_of(checkpoint: Checkpoint, direction: Direction) -> SumFusion:
    """The fitted fusion of one direction, for the reranker's number of tokens."""
    return checkpoint.fusion[checkpoint.model.adapter.num_tokens][direction]
