"""Our lane: the scorer alone, with tokens in host memory, and within a whole query."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from edje.benchmark.models import random_reranker, random_text, random_text_encoder
from edje.benchmark.settings import Benchmark
from edje.inference.scorer import ScoringSet, StoredTokenScorer
from edje.models.edje import EDJE
from edje.records import TextBatch

STORED = torch.bfloat16  # two bytes per number, as the default codec

Call = Callable[[], Tensor]


def our_calls(
    sizes: Benchmark, tokens: int, k: int, fusion_layer: int, device: torch.device
) -> Mapping[str, Call]:
    """One query with k candidates, by tier.

    `scorer`: its candidates' tokens lie on the device in the number format of use. `host`: the
    tokens of `stored_images` images lie in host memory in 16 bits; other candidates every time.
    `query`: the dual encoder reads the text, an exact search over `corpus` embeddings on the
    device finds the candidates, they are gathered, moved, scored and sorted. Word pieces are
    given: no tier splits a string.
    """
    dtype = sizes.dtype(device)
    model = random_reranker(sizes, tokens, fusion_layer).to(device)
    ids = random_text(sizes, sizes.text_tokens)
    text = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool))
    stored = torch.randn(sizes.stored_images, tokens, sizes.width).to(STORED)
    near = stored[torch.randint(len(stored), (k,))].to(device, dtype)
    on_device = _scorer(model, text, near, sizes, dtype)
    from_host = _scorer(model, text, stored, sizes, dtype)
    whole_query = WholeQuery(sizes, k, from_host, device)
    return {
        "scorer": lambda: score_query(on_device, torch.arange(k)),
        "host": lambda: score_query(from_host, torch.randint(len(stored), (k,))),
        "query": whole_query,
    }


def _scorer(
    model: EDJE, text: TextBatch, visual: Tensor, sizes: Benchmark, dtype: torch.dtype
) -> StoredTokenScorer:
    return StoredTokenScorer(model, ScoringSet(text, visual), dtype, sizes.batch_size)


def score_query(scorer: StoredTokenScorer, images: Tensor) -> Tensor:
    """Scores of the one query with each of the images."""
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
        corpus = torch.randn(sizes.corpus, sizes.text_encoder_width, device=device)
        self.corpus = F.normalize(corpus, dim=1).to(dtype)

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        """Candidates, best first."""
        embedding = self.text_encoder(self.ids.to(self.corpus.device)).pooler_output
        similarities = (F.normalize(embedding, dim=1) @ self.corpus.T).squeeze(0)
        candidates = similarities.topk(self.k).indices.cpu()
        scores = score_query(self.scorer, candidates % self.images)
        return candidates[scores.argsort(descending=True)]
