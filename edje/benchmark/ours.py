"""Our lane, in tiers: by where the tokens are, up to a whole query."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from edje.benchmark.entry import Entry, name_of_dtype
from edje.benchmark.files import StoredFile
from edje.benchmark.models import random_reranker, random_text, random_text_encoder
from edje.benchmark.pages import LEFT, share_kept
from edje.benchmark.settings import Benchmark, Tier
from edje.inference.scorer import ScoringSet, StoredTokenScorer
from edje.inference.transfer import VisualTokens
from edje.records import TextBatch

log = logging.getLogger(__name__)
STORED = torch.bfloat16  # two bytes per number, like the default codec


class OurLane:
    """One query with k candidates, by tier.

    `scorer`: its candidates' tokens are on the device in the number format that is used. The
    other tiers gather different candidates of `stored_images` every time. `host`: tokens in host
    memory in 16 bits. `warm`, `cold`: in a token store under `folder`. `query`: the dual encoder
    reads the text, an exact search over `corpus` embeddings on the device finds the candidates,
    and they are gathered, moved, scored and sorted. Texts are word pieces: no tier tokenizes.
    """

    def __init__(
        self,
        sizes: Benchmark,
        tokens: int,
        k: int,
        fusion_layer: int,
        device: torch.device,
        folder: Path,
        precision: torch.dtype | None = None,
    ):
        self.sizes, self.tokens, self.k, self.device = sizes, tokens, k, device
        self.folder = folder
        self.dtype = sizes.dtype(device)
        self.precision = self.dtype if precision is None else precision
        self.name = f"ours, fusion at {fusion_layer}" if fusion_layer else "ours"
        if precision is not None:
            self.name += f", {name_of_dtype(precision)}"
        self.model = random_reranker(sizes, tokens, fusion_layer).to(device)
        ids = random_text(sizes, sizes.text_tokens)
        self.text = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool))
        self.stored = torch.randn(sizes.stored_images, tokens, sizes.width).to(STORED)

    def entries(self) -> Iterator[Entry]:
        """The entries to measure; an unsupported tier is left out with a warning."""
        for tier in self.sizes.tiers:
            if tier == "cold" and (kept := share_kept(self.folder)) > LEFT:
                log.warning(
                    "tier cold is skipped: %.0f%% of the pages of a file in %s can't be dropped.",
                    100 * kept,
                    self.folder,
                )
            else:
                yield self.entry(tier)

    def entry(self, tier: Tier) -> Entry:
        """One tier."""
        visual = self.visual(tier)
        scorer = StoredTokenScorer(
            self.model,
            ScoringSet(self.text, visual),
            self.precision,
            self.sizes.batch_size,
            as_given=True,
        )
        call: Callable[[], Tensor]
        if tier == "query":
            call = WholeQuery(self.sizes, self.k, scorer, self.device)
        elif tier == "scorer":
            call = lambda: score_query(scorer, torch.arange(self.k))  # noqa: E731
        else:
            images = self.sizes.stored_images
            call = lambda: score_query(scorer, torch.randint(images, (self.k,)))  # noqa: E731
        moved = 0 if tier == "scorer" else self.k * self.tokens * self.sizes.width * STORED.itemsize
        return Entry(
            lane=self.name,
            tier=tier,
            tokens=self.tokens,
            k=self.k,
            call=call,
            batch=lambda: min(scorer.batch_size.chosen, self.k),
            dtype=self.precision,
            bytes_per_query=moved,
            prepare=visual.forget if isinstance(visual, StoredFile) and tier == "cold" else None,
        )

    def visual(self, tier: Tier) -> VisualTokens:
        """The tokens of a tier, where it keeps them."""
        if tier in ("host", "query"):
            return self.stored
        if tier == "scorer":
            near = self.stored[torch.randint(len(self.stored), (self.k,))]
            return near.to(self.device, self.dtype)
        folder = self.folder / f"{self.name} {tier}"  # a tier's maps would keep another's pages
        return StoredFile(folder, len(self.stored), self.tokens, self.sizes.width)


def score_query(scorer: StoredTokenScorer, images: Tensor) -> Tensor:
    """Scores of one query with each of the images."""
    queries = torch.zeros(len(images), dtype=torch.long)
    return scorer("t2i", queries, images, torch.zeros(len(images)))


class WholeQuery:
    """From word pieces to a ranking: both stages of a search."""

    def __init__(self, sizes: Benchmark, k: int, scorer: StoredTokenScorer, device: torch.device):
        self.k = k
        self.scorer = scorer
        self.images = sizes.stored_images
        dtype = sizes.dtype(device)
        self.text_encoder = random_text_encoder(sizes).to(device, dtype)
        self.ids = random_text(sizes, sizes.text_encoder_tokens)
        shape = (sizes.corpus, sizes.text_encoder_width)
        self.corpus = F.normalize(torch.randn(shape, device=device, dtype=dtype), dim=1)

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        """Candidates, best first."""
        embedding = self.text_encoder(self.ids.to(self.corpus.device)).pooler_output
        similarities = (F.normalize(embedding, dim=1) @ self.corpus.T).squeeze(0)
        candidates = similarities.topk(self.k).indices.cpu()
        scores = score_query(self.scorer, candidates % self.images)
        return candidates[scores.argsort(descending=True)]
