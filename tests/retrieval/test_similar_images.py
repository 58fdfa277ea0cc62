"""Which images are mined as negatives of an image, by hand and by brute force."""

import pytest
import torch
from torch.nn import functional as F

from edje.errors import EdjeError
from edje.retrieval.similar_images import hardest_by_scores, similar_images


def plane(*degrees: float) -> torch.Tensor:
    """Unit vectors at these angles."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


IMAGES = plane(0, 10, 40, 90)
CAPTIONS = plane(0, 30, 10, 40, 90)  # two of image 0, then one of each
OWNER = torch.tensor([0, 0, 1, 2, 3])


def test_an_image_is_as_near_as_its_nearest_caption_says():
    found = similar_images(IMAGES, CAPTIONS, OWNER, 2)
    assert found.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]  # 30° is as near to 40° as 0° to 10°


@pytest.mark.parametrize(
    ("margin", "expected"),
    [  # the caption at 30° is nearer to the images at 40° and 10° than to its own at 0°
        (0.2, {1, 2}),
        (0.1, {1, 3}),  # cos 10° - cos 30° = 0.119, cos 20° - cos 30° = 0.074
        (0.05, {3}),
    ],
)
def test_a_margin_leaves_out_what_is_nearer_than_the_own_image(margin, expected):
    found = similar_images(IMAGES, CAPTIONS, OWNER, len(expected), margin=margin)
    assert set(found[0].tolist()) == expected


def test_a_margin_that_leaves_too_few_says_so():
    with pytest.raises(
        EdjeError,
        match=r"an image has 1 similar images .* 2 are to be mined. Raise loader.mined_margin",
    ):
        similar_images(IMAGES, CAPTIONS, OWNER, 2, margin=0.05)


def test_a_margin_below_zero_leaves_out_what_is_about_as_near():
    near = similar_images(IMAGES, plane(0, 10, 40, 90), torch.arange(4), 1, margin=-0.1)
    assert near[:2].tolist() == [[2], [2]]  # not each other, 10° away: cosines 1 and 0.985


def test_images_with_an_equal_caption_are_left_out():
    keys = torch.tensor([0, 1, 2, 1, 3])  # a caption of image 0 is image 2's too
    found = similar_images(IMAGES, CAPTIONS, OWNER, 2, caption_keys=keys)
    assert found.tolist() == [[1, 3], [0, 2], [1, 3], [2, 1]]


def test_chunks_and_the_order_of_captions_change_nothing():
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(40, 8, generator=generator), dim=1)
    owner = torch.cat([torch.arange(40), torch.randint(40, (57,), generator=generator)])
    captions = F.normalize(images[owner] + torch.randn(97, 8, generator=generator), dim=1)
    keys = torch.randint(60, (97,), generator=generator)
    choices = {"margin": 0.8, "caption_keys": keys}
    expected = torch.full((40, 40), -torch.inf)
    for caption in range(97):
        similarity = images @ captions[caption]
        here = int(owner[caption])
        expected[here] = torch.maximum(expected[here], similarity)
    for caption in range(97):
        similarity, here = images @ captions[caption], int(owner[caption])
        expected[here, similarity - similarity[here] > 0.8] = -torch.inf
        expected[here, owner[keys == keys[caption]]] = -torch.inf
    best = expected.topk(5, dim=1).indices
    for chunk in (1, 10, 1000):
        found = similar_images(images, captions, owner, 5, chunk=chunk, **choices)
        assert torch.equal(found, best)
    by_keys_alone = similar_images(images, captions, owner, 5, caption_keys=keys)
    assert not torch.equal(by_keys_alone, best)


def test_a_reranker_s_scores_reorder_the_candidates_and_drop_those_above_the_own_image():
    candidates = torch.tensor([[1, 2, 3], [0, 3, 2]])
    scores = torch.tensor([[0.1, 2.0, 0.4], [0.9, 0.0, 0.2], [0.0, 5.0, 1.0]])
    own, owner = torch.tensor([[1.5], [1.0], [1.0]]), torch.tensor([0, 0, 1])
    free = hardest_by_scores(candidates, scores, own, owner, 2)
    assert free.tolist() == [[2, 1], [3, 2]]
    kept = hardest_by_scores(candidates, scores, own, owner, 2, margin=0.1)
    assert kept.tolist() == [[1, 3], [2, 0]]


def test_as_many_captions_are_compared_at_a_time_as_make_64_mb(monkeypatch):
    sizes = []

    def watched(queries, gallery):
        sizes.append(4 * len(queries) * len(gallery))
        return queries @ gallery.T

    monkeypatch.setattr("edje.retrieval.similar_images.similarities", watched)
    images = plane(*torch.linspace(0, 90, 400).tolist())
    whole = similar_images(images, images, torch.arange(400), 2)
    monkeypatch.setattr("edje.retrieval.similar_images.SIMILARITY_BYTES", 40_000)
    assert torch.equal(similar_images(images, images, torch.arange(400), 2), whole)
    assert sizes == [4 * 400 * 400, *[40_000] * 16]
