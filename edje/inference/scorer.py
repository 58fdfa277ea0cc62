"""The scorer: match logits of many (caption, image) pairs from stored visual tokens."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edje.models.edje import EDJE
from edje.records import Direction, TextBatch


@dataclass(frozen=True)
class ScoringSet:
    """Tokenised captions and visual tokens of a collection, what pairs are made of by row."""

    text: TextBatch
    visual: Float[Tensor, "images tokens width"]


class StoredTokenScorer:
    """Scores pairs given by row; a `PairScorer` for reranking.

    Text is cut to the longest caption of each batch: sort pairs by `lengths` to save padding.
    Scores are float32 whatever the `precision` of the encoder's matrix products.
    """

    def __init__(self, model: EDJE, collection: ScoringSet, precision: torch.dtype = torch.float32):
        self.model = model.eval()
        self.collection = collection
        self.precision = precision
        self.device = next(model.parameters()).device

    def lengths(
        self, direction: Direction, queries: Int[Tensor, "pairs"], candidates: Int[Tensor, "pairs"]
    ) -> Int[Tensor, "pairs"]:
        """Word pieces of each pair's caption."""
        captions = queries if direction == "t2i" else candidates
        return self.collection.text.attention_mask.sum(dim=1)[captions]

    @torch.inference_mode()
    def __call__(
        self,
        direction: Direction,
        queries: Int[Tensor, "pairs"],
        candidates: Int[Tensor, "pairs"],
        first_stage: Float[Tensor, "pairs"],
    ) -> Float[Tensor, "pairs"]:
        """Match logits of the pairs; `first_stage` is read by residual models only."""
        captions, images = (queries, candidates) if direction == "t2i" else (candidates, queries)
        text = self.collection.text
        texts, rows = captions.unique(return_inverse=True)
        mask = text.attention_mask[texts]
        longest = int(mask.sum(dim=1).max())
        part = TextBatch(
            text.input_ids[texts, :longest].to(self.device), mask[:, :longest].to(self.device)
        )
        visual = self.collection.visual[images].to(self.device)
        half = self.precision != torch.float32
        with torch.autocast(self.device.type, dtype=self.precision, enabled=half):
            scores = self.model.score(
                part, visual, direction, first_stage.to(self.device), rows.to(self.device)
            )
        return scores.float().cpu()
