"""Claims about holding training images back."""

from dataclasses import replace

import pytest

from edje.data.sources.holdout import hold_out
from edje.errors import EdjeError
from edje.records import CaptionRecord, ImageRecord, RetrievalSplit

SPLIT = RetrievalSplit(
    dataset="tiny",
    name="train",
    images=tuple(ImageRecord(f"{k:02d}", f"{k:02d}.png") for k in range(50)),
    captions=tuple(
        CaptionRecord(f"{k // 2:02d}#{k % 2}", f"{k // 2:02d}", "dog") for k in range(100)
    ),
    skipped=("gone",),
)


def ids(split: RetrievalSplit) -> list[str]:
    return [image.image_id for image in split.images]


def test_every_image_is_on_one_side_with_its_captions() -> None:
    train, dev = hold_out(SPLIT, 10, seed=0)
    assert sorted(ids(train) + ids(dev)) == ids(SPLIT)
    assert (len(dev.images), len(dev.captions)) == (10, 20)
    assert {caption.image_id for caption in train.captions} == set(ids(train))
    assert (train.name, dev.name) == ("train", "dev")
    assert (train.skipped, dev.skipped) == (("gone",), ())
    assert ids(train) == sorted(ids(train))


def test_the_seed_alone_decides() -> None:
    assert hold_out(SPLIT, 10, seed=0) == hold_out(SPLIT, 10, seed=0)
    assert ids(hold_out(SPLIT, 10, seed=0)[1]) != ids(hold_out(SPLIT, 10, seed=1)[1])


def test_leaving_an_image_out_moves_at_most_one_other() -> None:
    fewer = replace(SPLIT, images=SPLIT.images[1:], captions=SPLIT.captions[2:])
    before, after = (set(ids(hold_out(split, 10, seed=0)[1])) for split in (SPLIT, fewer))
    assert len(after - before) <= 1


@pytest.mark.parametrize("count", [0, 50, 1000])
def test_holding_out_none_or_all_is_refused(count: int) -> None:
    with pytest.raises(EdjeError, match=r"data\.dev_images between 1 and 49"):
        hold_out(SPLIT, count, seed=0)
