"""The scorer: match logits of many (caption, image) pairs from stored visual tokens."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edje.inference.cls_encoder import cls_encoder
from edje.models.edje import EDJE
from edje.models.evidence import Words
from edje.models.heads import word_positions
from edje.records import Direction, TextBatch

PAIRS_AT_ONCE = {"cpu": 32, "cuda": 1024}  # on a CPU, what its caches hold; not measured on CUDA


@dataclass(frozen=True)
class ScoringSet:
    """Tokenised captions and visual tokens of a collection, what pairs are made of by row."""

    text: TextBatch
    visual: Float[Tensor, "images tokens width"]


class StoredTokenScorer:
    """Scores pairs given by row; a `PairScorer` for reranking.

    Pairs of equal text length go together, so nothing is padded or masked; a text is read once
    per call, whatever the number of its pairs. Of the model only the joint encoder and the match
    head run, and of the last layer only what [CLS] needs (`edje.inference.cls_encoder`).

    A snapshot of the model's weights: make another scorer after a training step. Scores are
    float32 whatever the `precision` of the encoder: in float32 the model's own to 1e-5, in bf16
    and fp16 about as near to them as the model itself under autocast. Memory is bounded by
    `batch_size` pairs and the texts of a call.

    Args:
        batch_size: pairs per run of the encoder; by default `PAIRS_AT_ONCE` of the device.
    """

    def __init__(
        self,
        model: EDJE,
        collection: ScoringSet,
        precision: torch.dtype = torch.float32,
        batch_size: int | None = None,
    ):
        self.model = model.eval()
        self.collection = collection
        self.device = next(model.parameters()).device
        self.batch_size = batch_size or PAIRS_AT_ONCE.get(self.device.type, 256)
        self.text_lengths = collection.text.attention_mask.sum(dim=1)
        self.encoder = cls_encoder(model.joint, precision)

    def lengths(
        self, direction: Direction, queries: Int[Tensor, "pairs"], candidates: Int[Tensor, "pairs"]
    ) -> Int[Tensor, "pairs"]:
        """Word pieces of each pair's caption: calls in this order make the fewest batches."""
        captions = queries if direction == "t2i" else candidates
        return self.text_lengths[captions]

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
        first_stage = first_stage.to(self.device)
        scores = torch.empty(len(captions), device=self.device)
        for pairs, states, evidence in self._states(captions.cpu(), images.cpu()):
            here = pairs.to(self.device)
            scores[here] = self.model.match_logits(states, direction, first_stage[here], evidence)
        return scores.cpu()

    def _states(
        self, captions: Tensor, images: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Batches: places of their pairs in the call, the pairs' [CLS] states and evidence."""
        lengths = self.text_lengths[captions]
        for length in lengths.unique().tolist():
            group = (lengths == length).nonzero().squeeze(1)
            texts, rows = captions[group].unique(return_inverse=True)
            read = self._read(texts, length)
            words = self._words(read)
            for batch in torch.arange(len(group)).split(self.batch_size):
                visual, row = self._gather(images[group[batch]]), rows[batch].to(self.device)
                evidence = None
                if words is not None and self.model.evidence is not None:
                    evidence = self.model.evidence.logits(words, row, visual.float())
                yield group[batch], self.encoder.cls_states(read, row, visual), evidence

    def _read(self, texts: Tensor, length: int) -> Tensor:
        """What pairs share of these texts, all of one length."""
        ids = self.collection.text.input_ids[texts, :length]
        return torch.cat(
            [self.encoder.read_text(part.to(self.device)) for part in ids.split(self.batch_size)]
        )

    def _words(self, read: Tensor) -> Words | None:
        """What the evidence of these texts' pairs shares."""
        if self.model.evidence is None:
            return None
        unpadded = torch.ones(read.shape[:2], dtype=torch.bool, device=read.device)
        return self.model.evidence.words(read, word_positions(unpadded))

    def _gather(self, images: Tensor) -> Tensor:
        """Visual tokens of the images, on the device.

        To a GPU they go through pinned memory without waiting, so the next batch is gathered
        while this one is scored; the allocator keeps a pinned block until its copy has ended.
        """
        visual = self.collection.visual
        if self.device.type != "cuda" or visual.device.type != "cpu":
            return visual[images.to(visual.device)].to(self.device)
        pinned = torch.empty((len(images), *visual.shape[1:]), dtype=visual.dtype, pin_memory=True)
        torch.index_select(visual, 0, images, out=pinned)
        return pinned.to(self.device, non_blocking=True)
