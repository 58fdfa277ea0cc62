"""Claims about how a feed says what it trains on."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edje.data.datamodules.stream_datamodule import StreamDataModule
from edje.data.mixture.pretrain import PretrainSource
from edje.data.mixture.tar_pairs import TarPairs
from edje.pipeline.feed import Feed
from edje.records import CaptionRecord, ImageRecord, RetrievalSplit
from tests.tiny.image_files import jpeg, write_tar

TRAIN = RetrievalSplit(
    "folder",
    "train",
    (ImageRecord("a", "/here/a.jpg"), ImageRecord("b", "/here/b.jpg")),
    (CaptionRecord("0", "a", "red"), CaptionRecord("1", "b", "green")),
)


def feed_of(train: RetrievalSplit, dev: RetrievalSplit = TRAIN, store: str = "aa") -> Feed:
    def collection(split: RetrievalSplit) -> Any:
        kept = SimpleNamespace(manifest=SimpleNamespace(fingerprint=SimpleNamespace(digest=store)))
        return SimpleNamespace(split=split, texts=("",) * len(split.captions), store=kept)

    nothing: Any = None
    return Feed(nothing, collection(train), collection(dev), len(train.captions), None)


def test_equal_copies_of_a_training_set_have_the_same_facts() -> None:
    elsewhere = replace(TRAIN, images=tuple(replace(one, path="/there") for one in TRAIN.images))
    facts = feed_of(TRAIN).facts()
    assert feed_of(elsewhere, elsewhere).facts() == facts
    assert facts.startswith("2 images with 2 captions (digest ")


@pytest.mark.parametrize(
    "other",
    [
        feed_of(replace(TRAIN, captions=TRAIN.captions[::-1])),
        feed_of(replace(TRAIN, captions=(TRAIN.captions[0], CaptionRecord("1", "b", "blue")))),
        feed_of(TRAIN, dev=TRAIN.restricted(["a"])),
        feed_of(TRAIN, store="bb"),
    ],
    ids=["order", "caption", "dev", "store"],
)
def test_other_captions_order_dev_or_tokens_are_other_facts(other: Feed) -> None:
    assert other.facts() != feed_of(TRAIN).facts()


def test_equal_copies_of_a_mixture_have_the_same_facts_and_other_captions_have_not(
    tmp_path: Path,
) -> None:
    """Whatever the times of the tars, by which their tables are named."""
    unused: Any = None

    def facts(node: str, caption: str) -> str:
        write_tar(tmp_path / node / "0.tar", {"0.jpg": jpeg((1, 2, 3), 8), "0.txt": caption})
        os.utime(tmp_path / node / "0.tar", (len(node), len(node)))
        tars = {"tars": TarPairs(root=str(tmp_path / node))}
        source = PretrainSource(sources=tars, evaluated=None, cache_dir=str(tmp_path / "cache"))
        data = StreamDataModule(
            source.mixture(), unused, unused, "error", 0, lambda device: False, batch_size=1
        )
        return Feed(data, None, None, 1, None).facts()

    assert facts("first", "red") == facts("the second", "red") != facts("a third", "rod")
    assert len(list((tmp_path / "cache" / "tars-pairs").glob("*.arrow"))) == 3
