"""Claims about mining with a reranker: which images it takes, and by which scores."""

from dataclasses import replace
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
from edje.pipeline.storage import Storage
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
    texts = tuple(tiny_captions(CAPTIONS - 1))
    texts = (*texts, texts[0])  # images 0 and 7 have an equal caption
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


@pytest.fixture
def scores(mining: Mining) -> torch.Tensor:
    """The miner's scores of every pair, one text and one image at a time."""
    model = mining.miner.model
    tokens = mining.train.store.read(range(IMAGES))
    found = torch.empty(CAPTIONS, IMAGES)
    with torch.no_grad():
        for caption in range(CAPTIONS):
            text = tokenize(mining.miner.language_model.tokenizer, [mining.train.texts[caption]])
            for image in range(IMAGES):
                visual = model.compress(tokens[image : image + 1]).bfloat16().float()  # as stored
                cosine = (mining.captions[caption] @ mining.images[image])[None]
                found[caption, image] = model.score(text, visual, "t2i", cosine).item()
    return found


@pytest.mark.parametrize("margin", [None, 1.0])
def test_a_miner_takes_the_hardest_by_its_own_scores_of_twice_as_many(
    mining: Mining, scores: torch.Tensor, margin: float | None
) -> None:
    """An image's closest caption counts; a margin leaves out what may be true."""
    cosines = mining.captions @ mining.images.T
    expected, left_out = [], 0
    for image in range(IMAGES):
        own = (image == OWNER).nonzero()[:, 0]
        others = [other for other in range(IMAGES) if other != image]
        if margin is not None and image in (0, 7):
            others.remove(7 - image)
        by_cosine = sorted(others, key=lambda other: -cosines[own, other].max())[: 2 * POOL]
        by_score = sorted(by_cosine, key=lambda other: -scores[own, other].max())
        if margin is not None:
            excess = (scores[own] - scores[own, image][:, None]).amax(dim=0)
            by_score = [other for other in by_score if excess[other] <= margin]
            left_out += 2 * POOL - len(by_score)
        expected.append(by_score[:POOL])
    assert (left_out > 0) == (margin is not None)
    loading = CachedLoading(neighbours=1, mined_pool=POOL, mined_margin=margin)
    assert replace(mining, loading=loading).similar().tolist() == expected


def test_lists_are_kept_under_all_that_they_depend_on(mining: Mining) -> None:
    train, miner = mining.train, mining.miner
    other = tiny_checkpoint(residual=True)
    captions = train.split.captions
    owners = replace(train.split, captions=(captions[1], captions[0], *captions[2:]))
    changes: list[dict[str, Any]] = [
        {"images": mining.images + 1e-6},
        {"captions": mining.captions + 1e-6},
        {"train": replace(train, split=owners)},
        {"train": replace(train, texts=("another", *train.texts[1:]))},
        {"loading": CachedLoading(neighbours=1, mined_pool=POOL + 1)},
        {"loading": CachedLoading(neighbours=1, mined_pool=POOL, mined_margin=0.5)},
        {"miner": None},
        {"miner": other},
        {"scoring": Scoring(precision="bf16")},
        {"cache": replace(mining.cache, storage=Storage(compressed_codec="int8"))},
    ]
    digests = [mining.digest(), *(replace(mining, **change).digest() for change in changes)]
    assert len(set(digests)) == len(digests)
    more = CachedLoading(neighbours=2, mined_pool=POOL, batch_size=96)
    assert replace(mining, loading=more).digest() == digests[0]
    assert replace(mining, loading=CachedLoading(neighbours=0), miner=miner).lists() is None
