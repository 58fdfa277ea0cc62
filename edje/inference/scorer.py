"""The scorer: match logits of many (caption, image) pairs from stored visual tokens."""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edje.errors import EdjeError
from edje.inference.batch_size import UNTRIED, BatchSize
from edje.inference.cls_encoder import BertClsEncoder, ClsEncoder, cls_encoder, is_like_bert
from edje.inference.cpu import prefers_products
from edje.inference.int8_encoder import int8_encoder, is_worth_it
from edje.inference.pinned import sent
from edje.inference.precisions import fast_bf16
from edje.inference.transfer import Transfer, VisualTokens
from edje.models.edje import EDJE
from edje.records import Direction, TextBatch

EXAMPLES = 64  # pairs for finding the ranges of int8


@dataclass(frozen=True)
class ScoringSet:
    """Tokenised captions and visual tokens of a collection; pairs refer to their rows.

    The tokens are a tensor (images, tokens, width) on any device, or a reader of tokens by row.
    """

    text: TextBatch
    visual: VisualTokens


class StoredTokenScorer:
    """Scores pairs given by row; a `PairScorer` for reranking.

    Pairs of equal text length run together, so nothing is padded or masked. A text is read once
    per call, whatever the number of its pairs. Only the model's joint encoder and match head run,
    and of the last layer only what [CLS] needs (`edje.inference.cls_encoder`).

    A snapshot of the model's weights: make another scorer after a training step. Scores are
    float32, whatever the encoder's `precision`. In float32 they are the model's own to 1e-5; in
    bf16 and fp16 about as close as the model's own under autocast. `torch.int8` is for CPUs
    with exact products in int8 (VNNI); its scales are found on pairs of the collection
    (`edje.inference.int8_encoder`). If a short measurement of a layer finds bf16 as fast (float32
    on a CPU without instructions for bf16), that is used instead; `precision` says which. Memory
    is bounded by `batch_size` pairs and the texts of a call.

    Args:
        batch_size: pairs per run of the encoder; by default the fastest size that fits in memory,
            found by a short calibration once a call is large enough.
            `batch_size.chosen` says which.
        compiled: the layers run under torch.compile, on CUDA as graphs, with a shape for each
            text length and a few batch sizes (`edje.inference.compiled`).
        as_given: int8 without the measurement, for benchmarks.

    Raises:
        EdjeError: the device or the language model doesn't support int8 or compiling, as
            requested.
    """

    def __init__(
        self,
        model: EDJE,
        collection: ScoringSet,
        precision: torch.dtype = torch.float32,
        batch_size: int | None = None,
        compiled: bool = False,
        as_given: bool = False,
    ):
        self.model = model.eval()
        self.collection = collection
        self.device = next(model.parameters()).device
        self.text_lengths = collection.text.attention_mask.sum(dim=1)
        self.transfer = Transfer(collection.visual, self.device)
        self.precision = precision
        self.encoder = self._encoder(compiled, as_given)
        self.batch_size = BatchSize(batch_size, self.encoder, self.device)

    def on(self, collection: ScoringSet) -> "StoredTokenScorer":
        """A scorer for another collection with the same weights and batch size."""
        other = copy(self)
        other.collection = collection
        other.text_lengths = collection.text.attention_mask.sum(dim=1)
        other.transfer = self.transfer.of(collection.visual)
        return other

    def _encoder(self, compiled: bool, as_given: bool) -> ClsEncoder:
        joint, precision = self.model.joint, self.precision
        in_int8 = precision == torch.int8
        asked = "precision int8" if in_int8 else "compile"
        if (in_int8 or compiled) and not is_like_bert(joint):
            raise EdjeError(
                f"{asked}: only supports BERT and similar models, not "
                f"{type(joint.language_model).__name__}. Use bf16, not compiled."
            )
        if compiled and (in_int8 or prefers_products(self.device, precision)):
            raise EdjeError(
                "compile: on this CPU, int8 and bf16 have faster kernels of their own. "
                "Leave it out here, or use fp32."
            )
        if not in_int8:
            return cls_encoder(joint, precision, compiled)
        small = int8_encoder(joint, self._read_examples)
        if as_given:
            return small
        plain = BertClsEncoder(joint, fast_bf16(self.device))
        positions = int(self.text_lengths.median()) + self.transfer.num_tokens + 1
        if is_worth_it(small, plain, max(UNTRIED // positions, 1), positions):
            return small
        self.precision = plain.precision
        return plain

    @torch.inference_mode()
    def _read_examples(self, encoder: ClsEncoder) -> None:
        """Let an encoder read pairs from all over the collection."""
        texts, images = len(self.text_lengths), len(self.collection.visual)
        pairs = min(EXAMPLES, texts * images)
        captions = torch.linspace(0, texts - 1, pairs).long()
        rows = torch.linspace(0, images - 1, pairs).long().roll(pairs // 3)
        for caption, image in zip(captions.split(1), rows.split(1), strict=True):
            ids = self.collection.text.input_ids[caption, : int(self.text_lengths[caption])]
            read = encoder.read_text(ids.to(self.device))
            encoder.cls_states(read, torch.zeros_like(caption), self.transfer.gather(image))

    def lengths(
        self, direction: Direction, queries: Int[Tensor, "pairs"], candidates: Int[Tensor, "pairs"]
    ) -> Int[Tensor, "pairs"]:
        """Word pieces of each pair's caption; calls in this order make the fewest batches."""
        captions = queries if direction == "t2i" else candidates
        return self.text_lengths[captions]

    def __call__(
        self,
        direction: Direction,
        queries: Int[Tensor, "pairs"],
        candidates: Int[Tensor, "pairs"],
        first_stage: Float[Tensor, "pairs"],
    ) -> Float[Tensor, "pairs"]:
        """Match logits of the pairs; only residual models read `first_stage`."""
        return self.launch(direction, queries, candidates, first_stage).cpu()

    def launch(
        self,
        direction: Direction,
        queries: Int[Tensor, "pairs"],
        candidates: Int[Tensor, "pairs"],
        first_stage: Float[Tensor, "pairs"],
    ) -> Float[Tensor, "pairs"]:
        """The same scores on the scorer's device; a GPU may still be computing them.

        Nothing waits for the GPU if the pairs are on the host: the next call's tokens are gathered
        while this call's are scored. Another `PairScorer` for reranking.
        """
        captions, images = (queries, candidates) if direction == "t2i" else (candidates, queries)
        captions, images = captions.cpu(), images.cpu()
        order = self.text_lengths[captions].argsort(stable=True)
        waiting = sent(first_stage[order.to(first_stage.device)], self.device)
        scores = [torch.empty(0, device=self.device)]
        with torch.inference_mode():
            for states, evidence in self._states(captions[order], images[order]):
                first, waiting = waiting[: len(states)], waiting[len(states) :]
                scores.append(self.model.match_logits(states, direction, first, evidence))
        # Outside: tensors of inference mode can't be changed in place or learned from.
        return torch.cat(scores)[sent(order.argsort(), self.device)]

    def _states(self, captions: Tensor, images: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """[CLS] states and evidence per batch; the pairs are in ascending order of text length."""
        lengths, counts = self.text_lengths[captions].unique_consecutive(return_counts=True)
        groups = zip(
            lengths.tolist(),
            captions.split(counts.tolist()),
            images.split(counts.tolist()),
            strict=True,
        )
        for length, group_captions, group_images in groups:
            sequence = length + self.transfer.num_tokens + 1
            batch_size = self.batch_size.of(len(group_images), sequence)
            texts, rows = group_captions.unique(return_inverse=True)
            read = self._read(texts, length, batch_size)
            unpadded = torch.ones(read.shape[:2], dtype=torch.bool, device=read.device)
            words = self.model.words(read, unpadded)
            batches = -(-len(rows) // batch_size)  # of about equal size: a small last batch is slow
            for batch, some in zip(
                sent(rows, self.device).chunk(batches), group_images.chunk(batches), strict=True
            ):
                visual = self.transfer.gather(some).float()
                evidence = None
                if words is not None:
                    evidence = self.model.word_evidence(words, batch, visual)
                states = self.encoder.cls_states(read, batch, visual)
                self.transfer.scored()
                yield states, evidence

    def _read(self, texts: Tensor, length: int, batch_size: int) -> Tensor:
        """The shared part of these texts, which all have the same length."""
        ids = self.collection.text.input_ids[texts, :length]
        return torch.cat(
            [self.encoder.read_text(sent(part, self.device)) for part in ids.split(batch_size)]
        )
