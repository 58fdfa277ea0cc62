"""Real sizes where there is a GPU, else tiny ones: what the checks of this folder share."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edje.inference.checkpoint import AdapterSpecification, build_reranker
from edje.inference.scorer import ScoringSet
from edje.language_model import MAX_TRAINING_TOKENS, tokenize
from edje.models.adapters import BackboneFacts
from edje.models.edje import EDJE
from edje.records import TextBatch
from edje.tokens.cells import CellMemory, TokenCells
from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.store import TokenStore
from edje.tokens.writer import write_store
from tests.gpu.pretended import PRETENDED
from tests.tiny import rerankers
from tests.tiny.encoders import Family, tiny_encoder, tiny_language_model
from tests.tiny.words import WORDS, tiny_tokenizer

ON_GPU = torch.cuda.is_available()
IS_REAL = ON_GPU and not PRETENDED
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
ACCELERATOR = "gpu" if ON_GPU else "cpu"
needs_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a GPU, or EDJE_PRETENDED_GPU=1")
needs_real_gpu = pytest.mark.skipif(not IS_REAL, reason="needs a GPU")
not_pretended = pytest.mark.skipif(PRETENDED, reason="can't be pretended")

# SigLIP2 L/16 at 384 pixels, MiniLM-L12 and 64 visual tokens, or the tiny pieces of all tests.
FACTS = BackboneFacts(576, 1024, 16, 1e-6, 128) if IS_REAL else rerankers.FACTS
VISUAL, HIDDEN = (64, 8192) if IS_REAL else (4, 32)
LAYERS, WIDTH, HEADS, VOCABULARY = (12, 384, 12, 30522) if IS_REAL else (3, 32, 2, 15)
BATCH, IMAGES, LONGEST = (64, 512, 40) if IS_REAL else (6, 24, 8)  # pairs, images, words

COMPRESSION = AdapterSpecification(
    rerankers.COMPRESSION.target, {"num_tokens": VISUAL, "hidden_width": HIDDEN}
)
LOCAL = AdapterSpecification(rerankers.LOCAL.target, {"hidden_width": HIDDEN})


def reranker(
    adapter: AdapterSpecification = COMPRESSION,
    residual: bool = False,
    *,
    family: Family = "bert",
    **options: Any,
) -> EDJE:
    """On the CPU; weights are drawn so wide that the scores of pairs differ."""
    encoder = tiny_encoder(
        family,
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=512,
        initializer_range=WIDTH**-0.5,
    )
    read = replace(tiny_language_model(**options), encoder=encoder)
    return build_reranker(adapter, FACTS, read, residual)


def texts(count: int) -> TextBatch:
    """Captions of 1 to `LONGEST` words."""
    generator = torch.Generator().manual_seed(1)
    captions = []
    for length in torch.randint(1, LONGEST + 1, (count,), generator=generator).tolist():
        picks = torch.randint(len(WORDS), (length,), generator=generator).tolist()
        captions.append(" ".join(WORDS[pick] for pick in picks))
    return tokenize(tiny_tokenizer(), captions, MAX_TRAINING_TOKENS)


def collection(captions: int, images: int, device: torch.device | str = "cpu") -> ScoringSet:
    """Captions, and visual tokens on a device."""
    return ScoringSet(texts(captions), drawn(images, VISUAL, WIDTH).to(device))


def packed(captions: int, images: int, folder: Path | None = None) -> ScoringSet:
    """The same in bf16 as cells in host memory, or in a store in a folder."""
    codec, tokens = make_codec("bf16", VISUAL, WIDTH), drawn(images, VISUAL, WIDTH)
    every = torch.arange(images)
    if folder is None:
        memory = CellMemory(torch.from_numpy(codec.encode(tokens)))
        return ScoringSet(texts(captions), TokenCells(codec, memory, every))
    write_store(
        folder,
        Fingerprint({"adapter": "random"}),
        [f"{row:06d}" for row in range(images)],
        codec,
        1,
        lambda rows: (tokens[rows.start : rows.stop], torch.zeros(len(rows), 1)),
    )
    return ScoringSet(texts(captions), TokenCells(codec, TokenStore.open(folder), every))


def embeddings(count: int) -> Tensor:
    """Unit vectors (count, embedding)."""
    return F.normalize(drawn(count, FACTS.embedding_width), dim=1)


def drawn(*shape: int) -> Tensor:
    """Normal numbers, the same ones every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


@dataclass(frozen=True)
class RawTokens:
    """A store of a backbone's tokens, and what was put into it."""

    store: TokenStore
    tokens: Tensor  # (images, tokens, width) in bf16

    @classmethod
    def written(cls, folder: Path) -> "RawTokens":
        """In bf16."""
        tokens = drawn(IMAGES, FACTS.num_tokens, FACTS.token_width).to(torch.bfloat16)
        codec = make_codec("bf16", FACTS.num_tokens, FACTS.token_width)
        ids = [f"{row:06d}" for row in range(IMAGES)]
        features = embeddings(IMAGES)
        write_store(
            folder,
            Fingerprint({"backbone": "random"}),
            ids,
            codec,
            FACTS.embedding_width,
            lambda rows: (tokens[rows.start : rows.stop], features[rows.start : rows.stop]),
        )
        return cls(TokenStore.open(folder), tokens)
