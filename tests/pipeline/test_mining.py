"""Claims about mining with a reranker: which images it takes, and by which scores."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edje.data.datamodules.cached_datamodule import CachedLoading
from edje.language_model import tokenize
from edje.pipeline.collection import Collection
from edje.pipeline.mining import Mining
from edje.pipeline.scoring import Scoring
from edje.pipeline.token_cache import Cache
from edje.records import CaptionRecord, ImageRecord, RetrievalSplit
from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.store import TokenStore
from edje.tokens.writer import write_store
from tests.tiny.rerankers import FACTS, tiny_checkpoint
from tests.tiny.words import tiny_captions

IMAGES, CAPTIONS, POOL = 8, 16, 2
SHAPE = (FACTS.num_tokens, FACTS.token_width)
OWNER = torch.arange(CAPTIONS) % IMAGES  # an image's captions are not beside each other


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def mining(tmp_path: Path) -> Mining:
    names = [f"{row}.png" for row in range(IMAGES)]
    tokens = drawn(IMAGES, *SHAPE, seed=0).half().float()
    write_store(
        tmp_path / "raw",
        Fingerprint({"backbone": "tiny"}),
        names,
        make_codec("fp16", *SHAPE),
        1,
        lambda rows: (tokens[list(rows)], torch.ones(len(rows), 1)),
    )
    texts = tuple(tiny_captions(CAPTIONS))
    split = RetrievalSplit(
        "tiny",
        "train",
        tuple(ImageRecord(name, name) for name in names),
        tuple(CaptionRecord(f"{row}", names[row % IMAGES], texts[row]) for row in range(CAPTIONS)),
    )
    table: Any = SimpleNamespace()  # embeddings are given, so it isn't read
    store = TokenStore.open(tmp_path / "raw")
    train = Collection(split, texts, store, torch.arange(IMAGES), table, torch.arange(CAPTIONS))
    torch.manual_seed(0)
    miner = tiny_checkpoint(residual=True)
    for parameter in miner.model.parameters():
        nn.init.normal_(parameter, std=0.3)
    images, captions = (F.normalize(drawn(n, 5, seed=n), dim=1) for n in (IMAGES, CAPTIONS))
    loading = CachedLoading(neighbours=1, mined_pool=POOL)
    cache = Cache(tmp_path, devices=(torch.device("cpu"),))
    return Mining(cache, loading, Scoring(precision="fp32"), train, images, captions, miner)


def test_a_miner_takes_the_hardest_by_its_own_scores_of_twice_as_many(mining: Mining) -> None:
    """Scores of every pair, one text and one image at a time; an image's closest caption counts."""
    model = mining.miner.model
    tokens = mining.train.store.read(range(IMAGES))
    cosines = mining.captions @ mining.images.T
    scores = torch.empty(CAPTIONS, IMAGES)
    with torch.no_grad():
        for caption in range(CAPTIONS):
            text = tokenize(mining.miner.language_model.tokenizer, [mining.train.texts[caption]])
            for image in range(IMAGES):
                visual = model.compress(tokens[image : image + 1])
                cosine = cosines[caption, image : image + 1]
                scores[caption, image] = model.score(text, visual, "t2i", cosine).item()
    expected = []
    for image in range(IMAGES):
        own = (image == OWNER).nonzero()[:, 0]
        others = [other for other in range(IMAGES) if other != image]
        by_cosine = sorted(others, key=lambda other: -cosines[own, other].max())
        by_score = sorted(by_cosine[: 2 * POOL], key=lambda other: -scores[own, other].max())
        expected.append(by_score[:POOL])
    assert mining.similar().tolist() == expected
