"""A tiny reranker for the fast scorers, what is scored, and stored tokens that are read by row."""

import torch

from edje.inference.checkpoint import build_reranker
from edje.inference.scorer import ScoringSet
from edje.language_model import LanguageModel, tokenize
from edje.models.edje import EDJE
from edje.models.joint_options import JointOptions
from tests.tiny.encoders import Family, tiny_encoder
from tests.tiny.rerankers import COMPRESSION, FACTS
from tests.tiny.words import tiny_captions, tiny_tokenizer


def reranker_of(
    family: Family = "bert", fusion_layer: int = 0, residual: bool = False, evidence: bool = False
) -> EDJE:
    """A reranker whose every parameter is drawn, so that none can be left out unseen.

    Its three layers have dropout, which a scorer must switch off.
    """
    earlier = tuple(range(1, fusion_layer)) if evidence else ()
    options = JointOptions(fusion_layer, evidence=evidence, evidence_layers=earlier)
    language_model = LanguageModel(
        tiny_encoder(family, num_hidden_layers=3), tiny_tokenizer(), options
    )
    model = build_reranker(COMPRESSION, FACTS, language_model, residual)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator) * 0.2
        parameter.data = drawn + (parameter.data.ndim == 1) * parameter.data
    model.set_first_stage_statistics("i2t", 0.2, 0.1)
    return model


def collection(texts: int = 12, images: int = 9) -> ScoringSet:
    generator = torch.Generator().manual_seed(4)
    visual = torch.randn(images, 4, 32, generator=generator)
    return ScoringSet(tokenize(tiny_tokenizer(), tiny_captions(texts)), visual)


def all_pairs(direction: str, stored: ScoringSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Every caption with every image, in an order that mixes the lengths."""
    captions, images = len(stored.text.input_ids), len(stored.visual)
    pairs = torch.cartesian_prod(torch.arange(captions), torch.arange(images))
    pairs = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(5))]
    return (pairs[:, 0], pairs[:, 1]) if direction == "t2i" else (pairs[:, 1], pairs[:, 0])


class Reader:
    """Stored tokens that are read by row, counting rows."""

    def __init__(self, visual: torch.Tensor):
        self.visual, self.rows = visual, []

    @property
    def num_tokens(self) -> int:
        return self.visual.shape[1]

    def __len__(self) -> int:
        return len(self.visual)

    def read(self, rows, *, dtype, device):
        self.rows.append(len(rows))
        return self.visual[rows].to(device, dtype)
