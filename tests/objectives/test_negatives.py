import pytest
import torch
from torch.nn import functional as F

from edje.objectives.draws import _between_0_and_1, fraction, integer, uniform
from edje.objectives.negatives import HardNegatives, matching_pairs, similarities


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


@pytest.mark.parametrize("pool", [3, 8])
def test_a_row_s_negatives_are_different_images_and_captions_of_different_text(pool):
    images, texts = embeddings(24)
    image_ids, keys = torch.arange(24) % 8, torch.arange(24) % 9
    mine = HardNegatives(count=3, pool=pool)
    found = mine(images[image_ids], texts[keys], image_ids, keys, torch.arange(24), 3, 7)
    assert found.missing.tolist() == [0, 0]
    for rows in (image_ids[found.images], keys[found.captions]):
        assert all(len(set(row)) == 3 for row in rows.tolist())


def test_the_hardest_different_ones_are_found():
    """Image 1 stands in three columns and was the first row's hardest, thrice."""
    images = torch.tensor([[1.0, 0.0], *[[0.9, 0.1]] * 3, [0.5, 0.5], [0.0, 1.0]])
    texts = torch.tensor([[1.0, 0.0], *[[0.8, 0.2]] * 3, [0.6, 0.4], [0.1, 0.9]])
    image_ids, keys = torch.tensor([0, 1, 1, 1, 2, 3]), torch.tensor([0, 1, 1, 2, 3, 4])
    found = HardNegatives(count=3, pool=3)(images, texts, image_ids, keys, torch.arange(6), 0, 0)
    assert image_ids[found.images[0]].tolist() == [1, 2, 3]
    assert keys[found.captions[0]].tolist() == [1, 2, 3]


def test_a_caption_true_of_an_image_by_another_pair_is_no_negative_of_it():
    """Pairs 1 and 2 are of one image; pair 0's caption is that of pair 1, so true of pair 2's."""
    images, texts = embeddings(4)
    image_ids, keys = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 2])
    true = matching_pairs(image_ids, keys)
    assert true.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    found = HardNegatives(count=1, pool=1)(images, texts, image_ids, keys, torch.arange(4), 0, 0)
    assert found.images[0].item() == 3  # not 2
    assert found.captions[2].item() == 3  # not 0


def test_a_batch_with_few_wrong_ones_gives_those_and_counts_what_is_missing():
    """One caption for all images but one: a class name."""
    images, texts = embeddings(5)
    ids, keys = torch.arange(5), torch.tensor([0, 0, 0, 0, 1])
    found = HardNegatives(count=2, pool=3)(images, texts, ids, keys, ids, 0, 0)
    assert found.images_found.int().tolist() == [[1, 0]] * 4 + [[1, 1]]
    assert found.captions_found.int().tolist() == [[1, 0]] * 4 + [[1, 0]]
    assert found.missing.tolist() == [4, 5]
    assert found.images[:4, 0].tolist() == found.captions[:4, 0].tolist() == [4] * 4
    rows = found.of_rows(slice(3, 5))
    assert rows.images_found.int().tolist() == [[1, 0], [1, 1]]
    assert rows.missing.tolist() == [1, 2]


@pytest.mark.parametrize("pool", [3, 9])
def test_a_batch_without_any_wrong_one_has_no_negatives(pool):
    images, texts = embeddings(2)
    for ids in (torch.zeros(1).long(), torch.zeros(2).long()):
        size = len(ids)
        found = HardNegatives(count=3, pool=pool)(
            images[:size], texts[:size], ids, torch.arange(size), ids, 0, 0
        )
        assert found.missing.tolist() == [3 * size] * 2 and not found.images_found.any()
        assert found.images.tolist() == [[row] * 3 for row in range(size)]


def test_a_row_with_few_negatives_leaves_the_others_their_draws():
    """A pair that is true of nearly everything doesn't narrow the pool of the rest."""
    images, texts = embeddings(12)
    ids, keys = torch.arange(12), torch.arange(12)
    mine = HardNegatives(count=2, pool=8)
    whole = mine(images, texts, ids, keys, ids, 1, 5)
    ids = torch.cat([ids, torch.full((6,), 20)])  # an image with six of the captions
    keys = torch.cat([keys, torch.arange(6)])
    more_images, more_texts = torch.cat([images, -images[:6]]), torch.cat([texts, texts[:6]])
    found = mine(more_images, more_texts, ids, keys, torch.arange(18), 1, 5)
    assert torch.equal(found.captions[:12], whole.captions)


def test_similarities_are_compared_in_float32_under_autocast():
    """bf16 keeps 8 bits: 0.9990, 0.9991 and 0.9992 are one number to it."""
    angle = torch.tensor([0.0, 0.0447, 0.0424, 0.0400, 0.5])
    images = torch.stack([angle.cos(), angle.sin()], dim=1)
    texts, ids = images.clone(), torch.arange(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = HardNegatives(count=3, pool=3)(images, texts, ids, ids, ids, 0, 0)
        cosines = similarities(texts, images)
    assert found.images[0].tolist() == found.captions[0].tolist() == [3, 2, 1]
    assert torch.equal(cosines, texts @ images.T) and cosines.dtype == torch.float32


def test_uniform_draws_look_uniform_and_independent():
    draws = uniform(0, torch.arange(100)[:, None], torch.arange(500))
    assert draws.shape == (100, 500)
    assert draws.min() >= 0 and draws.max() < 1
    assert abs(draws.mean().item() - 0.5) < 0.005
    assert abs(draws.var().item() - 1 / 12) < 0.002
    assert abs(torch.corrcoef(draws[:2])[0, 1].item()) < 0.15
    assert not torch.equal(draws[0], uniform(1, torch.arange(1)[:, None], torch.arange(500))[0])


def test_draws_are_those_of_splitmix64():
    """Its published first number for seed 0; and of several keys, in Python's own integers."""
    first = 0xE220A8397B1DCDAF
    assert integer(0) == first >> 11 and fraction(0) == (first >> 11) / 2**53

    def mixed(value):
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    state, golden = 0, 0x9E3779B97F4A7C15
    for key in (3, 2**40, 5):
        state = mixed((state + golden + mixed(key)) % 2**64)
    assert integer(3, 2**40, 5) == state >> 11
    assert uniform(3, 2**40, torch.tensor([5])).tolist() == [(state >> 11) / 2**53]


def test_a_draw_in_single_precision_is_the_same_number_cut_and_below_1():
    integers = torch.randint(-(2**63), 2**63 - 1, (10_000,), generator=torch.Generator())
    integers = torch.cat([integers, torch.tensor([-1, 0, 2**63 - 1, -(2**63)])])  # -1: all bits
    exact, cut = (_between_0_and_1(integers, kind) for kind in (torch.float64, torch.float32))
    assert cut.dtype == torch.float32 and cut.max() < 1 and exact.max() < 1
    lost = exact - cut.double()
    assert lost.min() >= 0 and lost.max() < 2**-24


@pytest.mark.parametrize("seed", range(5))
def test_a_caption_is_true_of_an_image_where_any_pair_of_the_batch_says_so(seed):
    generator = torch.Generator().manual_seed(seed)
    image_ids, keys = torch.randint(6, (2, 20), generator=generator)
    said = {pair for pair in zip(keys.tolist(), image_ids.tolist(), strict=True)}
    expected = [[(key, image) in said for image in image_ids.tolist()] for key in keys.tolist()]
    assert matching_pairs(image_ids, keys).tolist() == expected
    with torch.autocast("cpu", torch.bfloat16):
        assert matching_pairs(image_ids, keys).tolist() == expected


def test_a_curriculum_of_negative_length_is_refused():
    with pytest.raises(ValueError, match="need easy_steps >= 0, got easy_steps=-10"):
        HardNegatives(count=2, pool=8, easy_steps=-10)
