"""The reranker: adapter, joint encoder and heads in one module."""

import copy

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from edje.models.adapters.adapter import Adapter
from edje.models.evidence import AlignmentEvidence, Words
from edje.models.heads import (
    FirstStageResidual,
    MaskedLanguageHead,
    MatchHead,
    late_interaction,
    word_positions,
)
from edje.models.joint_encoder import JointEncoder
from edje.records import DIRECTIONS, Direction, TextBatch


class EDJE(nn.Module):
    """An efficient discriminative joint encoder (EDJE, arXiv 2510.06820).

    `compress` runs once per image, offline; `score` runs once per (text, candidate) pair.

    Args:
        adapter: maps vision tokens to visual tokens of the joint encoder's width.
        joint: the joint encoder.
        embedding_width: width of the first stage's embeddings, the target of text recovery.
        residual: whether the match logit includes the first-stage score (score=residual). Its mean
            and deviation per direction are buffers, so a score never depends on its neighbours.
        evidence: compares words and visual tokens before the joint layers; its result is added
            to the match logit. With it, the match head starts at zero.
    """

    first_stage_mean: Tensor
    first_stage_deviation: Tensor

    def __init__(
        self,
        adapter: Adapter,
        joint: JointEncoder,
        embedding_width: int,
        residual: bool = False,
        evidence: AlignmentEvidence | None = None,
    ):
        super().__init__()
        self.adapter = adapter
        self.joint = joint
        self.match = MatchHead(joint.width)
        words = joint.word_embeddings
        self.masked_language = MaskedLanguageHead(joint.width, words.num_embeddings)
        self.text_recovery = nn.Linear(joint.width, embedding_width)
        self.residual = FirstStageResidual(joint.width) if residual else None
        self.evidence = evidence
        if evidence is not None:
            nn.init.zeros_(self.match.score.weight)
            nn.init.zeros_(self.match.score.bias)
        self.register_buffer("first_stage_mean", torch.zeros(len(DIRECTIONS)))
        self.register_buffer("first_stage_deviation", torch.ones(len(DIRECTIONS)))

    def compress(
        self, tokens: Float[Tensor, "images vision_tokens token_width"]
    ) -> Float[Tensor, "images tokens width"]:
        """Visual tokens of each image, as kept in the store's compressed tier."""
        return self.adapter(tokens)

    def with_first_tokens(self, num_tokens: int) -> "EDJE":
        """A reranker that shares these weights and compresses to the first tokens only."""
        few = copy.copy(self)
        few._modules = self._modules | {"adapter": self.adapter.with_first_tokens(num_tokens)}
        return few

    def score(
        self,
        text: TextBatch,
        visual: Float[Tensor, "pairs tokens width"],
        direction: Direction,
        first_stage: Float[Tensor, "pairs"] | None = None,
        text_rows: Int[Tensor, "pairs"] | None = None,
    ) -> Float[Tensor, "pairs"]:
        """Match logits in float32, pair by pair.

        Pair i reads text i, or text `text_rows[i]`: work shared by a text's pairs is done once.

        Raises:
            ValueError: the model is residual and the first-stage score is missing.
        """
        mask = text.attention_mask
        states = self.joint.read_text(text.input_ids, mask)
        rows = torch.arange(len(states), device=states.device) if text_rows is None else text_rows
        hidden = self.joint.fuse(states.index_select(0, rows), mask[rows], visual)
        evidence = self.pair_evidence(states, mask, rows, visual)
        return self.match_logits(hidden[:, 0], direction, first_stage, evidence)

    def alignment(
        self,
        states: Float[Tensor, "captions length text_width"],
        present: Bool[Tensor, "captions length"],
        visual: Float[Tensor, "images tokens width"],
    ) -> Float[Tensor, "captions images"]:
        """How well the words and visual tokens of every caption and image agree, -1 to 1.

        The evidence's cosines, or without evidence the late interaction of the word states.
        """
        if self.evidence is None:
            return late_interaction(states, present, self.joint.entering(visual))
        return self.evidence(self.evidence.words(states, present), visual)

    def pair_evidence(
        self,
        states: Float[Tensor, "texts length text_width"],
        attention_mask: Bool[Tensor, "texts length"],
        rows: Int[Tensor, "pairs"],
        visual: Float[Tensor, "pairs tokens width"],
    ) -> Float[Tensor, "pairs"] | None:
        """What evidence adds to the logit of text `rows[i]` with image i; None without evidence."""
        return self.word_evidence(self.words(states, attention_mask), rows, visual)

    def words(
        self,
        states: Float[Tensor, "texts length text_width"],
        attention_mask: Bool[Tensor, "texts length"],
    ) -> Words | None:
        """The part of the evidence that all pairs of these texts share; None without evidence."""
        if self.evidence is None:
            return None
        return self.evidence.words(states, word_positions(attention_mask))

    def word_evidence(
        self,
        words: Words | None,
        rows: Int[Tensor, "pairs"],
        visual: Float[Tensor, "pairs tokens width"],
    ) -> Float[Tensor, "pairs"] | None:
        """What the evidence adds to the logit of text `rows[i]` of `words` with image i."""
        if self.evidence is None or words is None:
            return None
        return self.evidence.logits(words, rows, visual)

    def match_logits(
        self,
        states: Float[Tensor, "*batch width"],
        direction: Direction,
        first_stage: Float[Tensor, "*batch"] | None,
        evidence: Float[Tensor, "*batch"] | None = None,
    ) -> Float[Tensor, "*batch"]:
        """Match logits from [CLS] states; `first_stage` holds raw cosine similarities.

        `evidence` is the result of `pair_evidence` for the same pairs.

        Raises:
            ValueError: the model is residual and the first-stage score is missing.
        """
        beside = 0.0 if evidence is None else evidence
        if self.residual is None:
            return self.match(states) + beside
        if first_stage is None:
            raise ValueError(
                "this model's match head reads the first-stage score (score=residual): "
                "pass first_stage, the cosine similarities of the pairs"
            )
        residual = self.residual(states, self.standardise(first_stage, direction))
        return self.match(residual) + beside

    def standardise(
        self, first_stage: Float[Tensor, "*batch"], direction: Direction
    ) -> Float[Tensor, "*batch"]:
        """First-stage scores, standardised by the mean and deviation of the training lists."""
        row = DIRECTIONS.index(direction)
        return (first_stage.float() - self.first_stage_mean[row]) / self.first_stage_deviation[row]

    @property
    def has_first_stage_statistics(self) -> bool:
        """Whether the mean and deviation were set: until then they are 0 and 1."""
        return bool(self.first_stage_mean.any() or self.first_stage_deviation.ne(1).any())

    def set_first_stage_statistics(
        self, direction: Direction, mean: float, deviation: float
    ) -> None:
        """Set the mean and deviation of one direction's first-stage scores."""
        row = DIRECTIONS.index(direction)
        self.first_stage_mean[row] = mean
        self.first_stage_deviation[row] = max(deviation, 1e-6)
