import lightning as L
import pytest
import torch

from edje.data.datamodules.cached_datamodule import ResumableLoader
from edje.data.datamodules.pixel_datamodule import PixelBatch, PixelDataModule, PixelSet
from edje.errors import EdjeError


def pixel_set(images: int = 10, captions: int = 4) -> PixelSet:
    """Image i is filled with i; caption j of image i is [i, j]."""
    rows = torch.arange(images)
    pixels = rows.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    words = torch.stack(torch.meshgrid(rows, torch.arange(captions), indexing="ij"), dim=-1)
    return PixelSet(pixels, words)


def batches(steps: int, first: int = 0, seed: int = 0) -> list[PixelBatch]:
    return list(loader(steps, first, seed))


def loader(steps: int, first: int = 0, seed: int = 0, accumulate: int = 1) -> ResumableLoader:
    module = PixelDataModule(pixel_set(), seed, batch_size=4, captions_per_image=2)
    module.trainer = L.Trainer(
        max_steps=steps, logger=False, accelerator="cpu", accumulate_grad_batches=accumulate
    )
    automatic = module.trainer.fit_loop.epoch_loop.automatic_optimization
    automatic.optim_progress.optimizer.step.total.completed = first
    return module.train_dataloader()


def test_a_resumed_run_is_as_long_as_a_straight_one() -> None:
    """Lightning counts on from where it stopped: a shorter one would end, and start once more."""
    assert len(loader(6)) == len(loader(6, first=3)) == 6
    resumed = loader(6, first=3, accumulate=2)
    assert len(resumed) == 12 and len(list(resumed)) == 6


def test_captions_belong_to_their_images_and_differ() -> None:
    for batch in batches(5):
        owner = batch.pixels[:, 0, 0, 0].long()
        assert (batch.word_ids[..., 0] == owner[:, None]).all()
        assert (batch.word_ids[:, 0, 1] != batch.word_ids[:, 1, 1]).all()


def test_an_epoch_shows_no_image_twice_and_the_next_another_order() -> None:
    owners = [batch.pixels[:, 0, 0, 0] for batch in batches(4)]
    assert len(torch.cat(owners[:2]).unique()) == len(torch.cat(owners[2:]).unique()) == 8
    assert not torch.equal(torch.cat(owners[:2]), torch.cat(owners[2:]))


def test_batches_are_a_function_of_seed_and_number() -> None:
    whole, rest, other = batches(6), batches(6, first=3), batches(6, seed=1)
    assert len(rest) == 3
    for one, again in zip(whole[3:], rest, strict=True):
        assert torch.equal(one.word_ids, again.word_ids)
    assert not torch.equal(whole[0].word_ids, other[0].word_ids)


def test_more_captions_or_images_than_there_are_is_an_error() -> None:
    with pytest.raises(EdjeError, match=r"10 images with 4 captions each"):
        PixelDataModule(pixel_set(), 0, batch_size=4, captions_per_image=5)
    with pytest.raises(EdjeError, match=r"loader.batch_size=11"):
        PixelDataModule(pixel_set(), 0, batch_size=11)
