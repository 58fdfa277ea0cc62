"""Alignment evidence: how well words and visual tokens match before the joint layers."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from edje.models.heads import late_interaction
from edje.models.joint_options import PLAIN, JointOptions
from edje.models.standardise import Standardise

START_SCALE = 20.0  # factor on the evidence in the match logit: a temperature of 0.05
START_MEAN_SHARE = 0.75  # share of the mean cosine; late interaction alone ranks captions badly


@dataclass(frozen=True)
class Words:
    """Captions in the space of the visual tokens."""

    states: Float[Tensor, "captions length width"]  # L2-normalised
    present: Bool[Tensor, "captions length"]  # word pieces that are used
    mean: Float[Tensor, "captions width"]  # L2-normalised


class AlignmentEvidence(nn.Module):
    """Two cosines of a caption and an image, added to the joint encoder's match logit.

    The words' states, where the visual tokens join them, are projected into the space of the
    adapter's tokens. There, the mean word is compared with the mean token (as in a dual encoder),
    and each word with its nearest token (late interaction, ColBERT). A learned mixture of both
    cosines, times a learned scale, is added to the match logit. So the joint layers start from a
    ranking by alignment alone, and learn what it lacks. All of it is computed in the weights' own
    precision, also under autocast, so that training and serving agree.

    Args:
        width: width of visual tokens.
        text_width: width of word states (see `JointEncoder.text_width`).
        options: the joint encoder's; only the dropout is used (see `Standardise`).
    """

    def __init__(self, width: int, text_width: int, options: JointOptions = PLAIN):
        super().__init__()
        self.standardise = Standardise(text_width, options.evidence_dropout)
        self.text = nn.Linear(text_width, width)
        self.mixture = nn.Parameter(torch.zeros(2))  # softmax: shares of mean and late cosine
        self.set_mean_share(START_MEAN_SHARE)
        self.log_scale = nn.Parameter(torch.tensor(math.log(START_SCALE)))

    @torch.no_grad()
    def set_mean_share(self, share: float) -> None:
        """Set the mixture: `share` (above 0, below 1) of the mean cosine, the rest late."""
        self.mixture.copy_(torch.tensor([share, 1 - share]).log())

    def words(
        self,
        states: Float[Tensor, "captions length text_width"],
        present: Bool[Tensor, "captions length"],
    ) -> Words:
        """Project captions, once per caption, whatever its number of candidates."""
        with torch.autocast(states.device.type, enabled=False):
            projected = self.text(self.standardise(states.to(self.text.weight.dtype)))
            mean = (projected * present.unsqueeze(-1)).sum(dim=1)
            return Words(F.normalize(projected, dim=-1), present, F.normalize(mean, dim=-1))

    def forward(
        self, words: Words, visual: Float[Tensor, "images tokens width"]
    ) -> Float[Tensor, "captions images"]:
        """The mixed cosine of every caption with every image, -1 to 1."""
        late = late_interaction(words.states, words.present, visual)
        with torch.autocast(visual.device.type, enabled=False):
            means = F.normalize(visual.to(words.mean.dtype).mean(dim=1), dim=-1)
            return self._mixed(words.mean @ means.T, late)

    def logits(
        self,
        words: Words,
        rows: Int[Tensor, "pairs"],
        visual: Float[Tensor, "pairs tokens width"],
    ) -> Float[Tensor, "pairs"]:
        """What is added to the match logit of caption `rows[i]` and image i, in float32."""
        visual = visual.to(words.states.dtype)
        with torch.autocast(visual.device.type, enabled=False):
            # index_select has a deterministic gradient, also on a CPU
            states = words.states.index_select(0, rows)
            nearest = (states @ F.normalize(visual, dim=-1).mT).amax(dim=2).float()
        present = words.present[rows]
        late = (nearest * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)
        means = F.normalize(visual.mean(dim=1), dim=-1)
        overall = (words.mean.index_select(0, rows).float() * means.float()).sum(dim=1)
        return self.log_scale.exp() * self._mixed(overall, late)

    def _mixed(self, overall: Tensor, late: Tensor) -> Tensor:
        shares = self.mixture.softmax(dim=0)
        return shares[0] * overall.float() + shares[1] * late
