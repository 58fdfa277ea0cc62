"""The Reranker: what people put behind their own image search."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from edje.captions import clean_caption
from edje.errors import EdjeError
from edje.inference.checkpoint import Checkpoint, keep_first_tokens, load_checkpoint
from edje.inference.scorer import ScoringSet, StoredTokenScorer
from edje.language_model import tokenize
from edje.records import Direction


class Reranker:
    """A trained reranker for use from Python; needs torch and transformers only.

    >>> reranker = Reranker.load("runs/shapes/…")                        # doctest: +SKIP
    >>> visual = reranker.compress(vision_tokens)    # once per image    # doctest: +SKIP
    >>> reranker.score(["a red star"] * 10, visual)  # once per pair     # doctest: +SKIP
    """

    def __init__(self, checkpoint: Checkpoint, precision: torch.dtype = torch.float32):
        self.checkpoint = checkpoint
        self.model = checkpoint.model.eval()
        self.precision = precision
        self._scorers: dict[torch.device, StoredTokenScorer] = {}

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        num_tokens: int | None = None,
        precision: torch.dtype = torch.float32,
    ) -> "Reranker":
        """From a run folder or a .ckpt file; `num_tokens` takes fewer of nested visual tokens.

        `precision` is the number format of the joint encoder: bf16 is several times as fast
        where the hardware has it. Scores are float32 whatever it is.

        Raises:
            EdjeError: there is no readable checkpoint of ours at the path, or `num_tokens` is
                given for an adapter that was trained without budgets, or beyond its tokens.
        """
        checkpoint = load_checkpoint(Path(path))
        if num_tokens is not None:
            checkpoint = keep_first_tokens(checkpoint, num_tokens)
        return cls(checkpoint, precision)

    @torch.inference_mode()
    def compress(
        self, tokens: Float[Tensor, "images vision_tokens token_width"]
    ) -> Float[Tensor, "images tokens width"]:
        """Visual tokens to store, from the backbone's tokens of each image.

        Raises:
            EdjeError: the tokens are of another width than the model was trained on.
        """
        self._check_width(tokens, "compress")
        return self.model.compress(tokens.float())

    @torch.inference_mode()
    def attention_maps(
        self, tokens: Float[Tensor, "images vision_tokens token_width"]
    ) -> Float[Tensor, "images heads tokens vision_tokens"]:
        """Where `compress` looks: how much of each of the backbone's tokens a visual token reads.

        The softmax weights of the adapter's attention, head by head; each row sums to 1.

        Raises:
            EdjeError: as `compress`, or the adapter has no attention of learned queries.
        """
        self._check_width(tokens, "attention_maps")
        maps = self.model.adapter.attention_maps(tokens.float())
        if maps is None:
            raise EdjeError(
                f"attention_maps: {type(self.model.adapter).__name__} weighs no vision tokens by "
                "learned queries. Take a run of adapter=compression."
            )
        return maps

    @torch.inference_mode()
    def score(
        self,
        captions: Sequence[str],
        visual: Float[Tensor, "pairs tokens width"],
        first_stage: Float[Tensor, "pairs"] | None = None,
        direction: Direction = "t2i",
    ) -> Float[Tensor, "pairs"]:
        """Match logits in float32 of caption i with image i; captions are cleaned here, once.

        Raises:
            EdjeError: the numbers of captions and images differ, or the model was trained with
                the first-stage score (score=residual) and none is given.
        """
        if len(captions) != len(visual):
            raise EdjeError(
                f"score: got {len(captions)} captions and {len(visual)} images, expected pairs. "
                "Repeat the query for each of its candidates."
            )
        if self.model.residual is not None and first_stage is None:
            raise EdjeError(
                "score: this model was trained with score=residual and reads the first-stage "
                "score: pass first_stage, the cosine similarities of the pairs."
            )
        if not captions:
            return torch.empty(0)
        different = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
        text = tokenize(
            self.checkpoint.language_model.tokenizer, [clean_caption(text) for text in different]
        )
        texts = torch.tensor([different[caption] for caption in captions])
        images = torch.arange(len(visual))
        queries, candidates = (texts, images) if direction == "t2i" else (images, texts)
        if first_stage is None:
            first_stage = torch.zeros(len(captions))
        scorer = self._scorer(ScoringSet(text, visual))
        return scorer(direction, queries, candidates, first_stage)

    def _scorer(self, collection: ScoringSet) -> StoredTokenScorer:
        """The scorer on the model's device, whose weights are laid out when it is first used."""
        device = next(self.model.parameters()).device
        if device not in self._scorers:
            self._scorers[device] = StoredTokenScorer(self.model, collection, self.precision)
        return self._scorers[device].on(collection)

    def _check_width(self, tokens: Tensor, caller: str) -> None:
        width = self.checkpoint.facts.token_width
        if tokens.ndim != 3 or tokens.shape[2] != width:
            raise EdjeError(
                f"{caller}: got tokens of shape {tuple(tokens.shape)}, this model reads "
                f"(images, tokens, {width}). Encode the images with the backbone it was trained on."
            )
