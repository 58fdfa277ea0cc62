import math

import pytest
import torch
from torch.nn import functional as F

from edje.objectives.contrastive import Contrastive

ZERO = torch.tensor(0.0)


def test_softmax_agrees_with_a_loss_worked_by_hand() -> None:
    images = torch.eye(2)
    texts = torch.eye(2)[:, None]  # one caption each, the same as its image
    loss = Contrastive(form="softmax")(images, texts, torch.tensor(3.0), ZERO)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-3)))


def test_sigmoid_agrees_with_a_loss_worked_by_hand() -> None:
    images = torch.eye(2)
    texts = torch.eye(2)[:, None]
    loss = Contrastive(form="sigmoid")(images, texts, torch.tensor(3.0), torch.tensor(-1.0))
    own, other = math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1))
    assert loss.item() == pytest.approx(own + other)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_captions_of_one_image_are_no_rivals(form: str) -> None:
    loss = Contrastive(form=form)
    images = torch.eye(4)[:3]
    one = loss(images, images[:, None], torch.tensor(5.0), ZERO)
    twice = loss(images, images[:, None].expand(-1, 2, -1), torch.tensor(5.0), ZERO)
    if form == "softmax":  # the other images now have two captions each, and none is its own
        rivals = math.log(1 + 4 * math.exp(-5)) + math.log(1 + 2 * math.exp(-5))
        assert twice.item() == pytest.approx(rivals / 2, rel=1e-4)
    else:
        assert twice.item() == pytest.approx(one.item())


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_order_of_the_batch_does_not_matter_and_better_pairs_lose_less(form: str) -> None:
    loss, scale = Contrastive(form=form), torch.tensor(10.0)
    images = F.normalize(torch.randn(6, 8), dim=-1)
    texts = F.normalize(images[:, None] + 0.5 * torch.randn(6, 3, 8), dim=-1)
    order = torch.randperm(6)
    value = loss(images, texts, scale, ZERO)
    assert loss(images[order], texts[order], scale, ZERO).item() == pytest.approx(
        value.item(), rel=1e-5
    )
    assert loss(images, texts.roll(1, dims=0), scale, ZERO) > value
