"""Opening what a version has written: its tokens, and its models' scores."""

import json
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from edje.inference.reranker import Reranker
from edje.pipeline.scoring import fusion_of
from edje.tokens.codec import CodecName
from edje.tokens.store import TokenStore
from edje.tokens.text import EmbeddingTable

VERSIONS = sorted(path for path in Path(__file__).parent.glob("*.*.*") if path.is_dir())
CODECS = get_args(CodecName)
KINDS = ("joint", "residual", "nested", "nested of 2 tokens", "local", "sum t2i", "sum i2t")
DECODED = 2  # images whose tokens are kept as they were


def decoded(folder: Path, codec: str) -> Tensor:
    """Tokens of the first images, (images, tokens, width)."""
    return TokenStore.open(folder / "stores" / codec).read(torch.arange(DECODED))


def scores(folder: Path, kind: str) -> Tensor:
    """Every stored image with the first caption of each, (captions, images).

    Of the sum both standardised parts count alike, whatever weight was fitted.
    """
    store = TokenStore.open(folder / "stores" / "bf16")
    captions = json.loads((folder / "captions.json").read_text())
    name, _, tokens = kind.partition(" of ")
    direction = "i2t" if kind.endswith("i2t") else "t2i"
    place = "run" if kind.startswith("sum") else f"checkpoints/{name}.ckpt"
    budget = int(tokens.split()[0]) if tokens else None
    reranker = Reranker.from_pretrained(folder / place, num_tokens=budget, precision="fp32")
    visual = reranker.compress(store.read(torch.arange(len(store))))
    images = torch.arange(len(store)).repeat(len(captions))
    first = _cosines(folder, store, len(captions)).flatten()
    texts = [caption for caption in captions for _ in range(len(store))]
    joint = reranker.score(texts, visual[images], first, direction)
    if kind.startswith("sum"):
        fusion = fusion_of(reranker.checkpoint, direction)
        joint = fusion.first(first) + fusion.joint(joint)
    return joint.view(len(captions), len(store)).float()


def deviation(folder: Path, kind: str) -> float:
    """The smallest number that `scores` divides by: rounding of its parts grows by it."""
    if not kind.startswith("sum"):
        return 1.0
    fusion = fusion_of(Reranker.from_pretrained(folder / "run").checkpoint, kind.split()[1])
    return min(fusion.first.std, fusion.joint.std)


def _cosines(folder: Path, store: TokenStore, captions: int) -> Tensor:
    """First-stage scores of each image's first caption with all images."""
    table = EmbeddingTable.open(folder / "captions")
    every = len(table.ids) // captions
    return F.normalize(table.matrix[::every], dim=1) @ F.normalize(store.features(), dim=1).T
