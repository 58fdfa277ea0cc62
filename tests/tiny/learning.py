"""Whether a reranker learns which caption belongs to which image, and what keeps one from it.

The task is one that a sound learner masters whatever it starts from: eight captions of one word
each, eight images whose tokens lie about one point each. The adapter starts mute, its last map at
zero, so that all images are one to the joint encoder until the adapter has learned.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from edje.language_model import tokenize
from edje.models.edje import EDJE
from edje.objectives.matching import Matching
from edje.objectives.negatives import Negatives
from edje.objectives.outputs import Objective
from edje.records import PairBatch
from edje.training.optimisation import Optimisation
from edje.training.step import forward_step, masked_positions
from tests.tiny.rerankers import FACTS, tiny_pairs
from tests.tiny.words import WORDS, tiny_tokenizer

Broken = Literal["frozen adapter", "shuffled pairs"]
BROKEN: list[Broken] = ["frozen adapter", "shuffled pairs"]
BY_HEART = 0.5  # a probability above it ranks the own partner first; chance is 1/8

COUNT = 8
EVERYONE = Negatives(*[(torch.arange(COUNT)[:, None] + torch.arange(1, COUNT)) % COUNT] * 2)


def eight_pairs() -> PairBatch:
    """Each caption a word of its own, each image's tokens about a point of its own."""
    generator = torch.Generator().manual_seed(2)
    points = torch.randn(COUNT, 1, FACTS.token_width, generator=generator)
    around = torch.randn(COUNT, FACTS.num_tokens, FACTS.token_width, generator=generator)
    text = tokenize(tiny_tokenizer(), WORDS[:COUNT])
    return replace(tiny_pairs(COUNT), tokens=points + 0.5 * around, text=text)


def learned(
    model: EDJE,
    *,
    steps: int,
    lr: float,
    terms: Sequence[Objective] = (Matching(),),
    broken: Broken | None = None,
) -> Tensor:
    """Train on the eight pairs; what probability each then gives its own partner of the eight.

    Captions first, then images. Chance is 1/8. With a frozen adapter all images look the same.
    Shuffled pairs meet at random in every step, so there is nothing to learn.
    """
    batch, order = eight_pairs(), torch.Generator().manual_seed(3)
    nn.init.zeros_(model.adapter.project.weight)
    model.adapter.requires_grad_(broken != "frozen adapter")
    optimizer, schedule = Optimisation(lr=lr, warmup_steps=5).build(model.train(), steps, 1)
    needs = frozenset().union(*(term.needs for term in terms))
    mask = None
    if "masked" in needs:
        mask = masked_positions(batch.text, batch.sample_ids, 0.5, 0, 0)
    seen = batch
    for _ in range(steps):
        if broken == "shuffled pairs":
            seen = replace(batch, tokens=batch.tokens[torch.randperm(COUNT, generator=order)])
        outputs = forward_step(model, seen, EVERYONE, needs, mask, 4, None)
        optimizer.zero_grad()
        torch.stack([term(outputs) for term in terms]).sum().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        outputs = forward_step(model.eval(), batch, EVERYONE, Matching.needs, None, 4, None)
    logits = torch.cat([outputs.pairs.t2i, outputs.pairs.i2t])
    return logits.softmax(dim=1)[:, 0]
