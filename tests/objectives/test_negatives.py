import pytest
import torch
from torch.nn import functional as F

from edje.objectives.draws import uniform
from edje.objectives.negatives import HardNegatives


def embeddings(count=12, width=6):
    generator = torch.Generator().manual_seed(0)
    return (
        F.normalize(torch.randn(count, width, generator=generator), dim=1),
        F.normalize(torch.randn(count, width, generator=generator), dim=1),
    )


def test_the_hardest_wrong_ones_are_found():
    images, texts = embeddings()
    ids = torch.arange(12)
    found = HardNegatives(count=2, pool=2)(images, texts, ids, ids, ids, 0, 0)
    similarity = texts @ images.T
    for row in range(12):
        wrong = [column for column in range(12) if column != row]
        assert found.images[row].tolist() == sorted(wrong, key=lambda c: -similarity[row, c])[:2]
        assert found.captions[row].tolist() == sorted(wrong, key=lambda c: -similarity[c, row])[:2]


def test_the_same_image_and_an_equal_caption_are_never_negatives():
    images, texts = embeddings()
    image_ids = torch.arange(12) // 3
    keys = torch.arange(12) % 5
    found = HardNegatives(count=4, pool=6)(images, texts, image_ids, keys, torch.arange(12), 3, 7)
    for rows in (found.images, found.captions):
        assert (image_ids[rows] != image_ids[:, None]).all()
        assert (keys[rows] != keys[:, None]).all()


def test_draws_from_a_pool_depend_on_seed_step_and_sample_alone():
    images, texts = embeddings()
    ids = torch.arange(12)
    mine = HardNegatives(count=2, pool=8)
    first = mine(images, texts, ids, ids, ids, 1, 5)
    assert torch.equal(first.images, mine(images, texts, ids, ids, ids, 1, 5).images)
    assert not torch.equal(first.images, mine(images, texts, ids, ids, ids, 1, 6).images)
    order = torch.randperm(12)
    shuffled = mine(images[order], texts[order], ids[order], ids[order], ids[order], 1, 5)
    assert torch.equal(order[shuffled.images], first.images[order])


def test_a_curriculum_goes_from_easy_to_hard():
    mine = HardNegatives(count=2, pool=8, easy_steps=10)
    assert [mine.pool_at(step) for step in (0, 5, 10, 99)] == [8, 5, 2, 2]
    assert HardNegatives(count=2, pool=8).pool_at(99) == 8


def test_a_batch_without_enough_wrong_images_says_what_to_do():
    images, texts = embeddings(4)
    ids = torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"raise loader\.batch_size"):
        HardNegatives(count=3, pool=3)(images, texts, ids, torch.arange(4), ids, 0, 0)


def test_uniform_draws_look_uniform_and_independent():
    draws = uniform(0, torch.arange(100)[:, None], torch.arange(500))
    assert draws.shape == (100, 500)
    assert draws.min() >= 0 and draws.max() < 1
    assert abs(draws.mean().item() - 0.5) < 0.005
    assert abs(draws.var().item() - 1 / 12) < 0.002
    assert abs(torch.corrcoef(draws[:2])[0, 1].item()) < 0.15
    assert not torch.equal(draws[0], uniform(1, torch.arange(1)[:, None], torch.arange(500))[0])
