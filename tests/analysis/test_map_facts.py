import pytest
import torch

from edje.analysis import map_facts, map_overlap, normalised_entropy
from edje.errors import EdjeError

UNIFORM = [0.25, 0.25, 0.25, 0.25]
ONE = [1.0, 0.0, 0.0, 0.0]
HALF = [0.5, 0.5, 0.0, 0.0]


def test_entropy_is_1_of_a_uniform_map_and_0_of_a_single_place() -> None:
    found = normalised_entropy(torch.tensor([UNIFORM, ONE, HALF]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.5]))  # log 2 is half of log 4


def test_overlap_is_the_mean_of_what_every_two_maps_have_in_common() -> None:
    # by hand: uniform and one have 0.25, uniform and half 0.5, one and half 0.5
    torch.testing.assert_close(
        map_overlap(torch.tensor([UNIFORM, ONE, HALF])), torch.tensor(1.25 / 3)
    )
    torch.testing.assert_close(map_overlap(torch.tensor([HALF, HALF])), torch.tensor(1.0))
    torch.testing.assert_close(
        map_overlap(torch.tensor([ONE, [0.0, 0.0, 0.5, 0.5]])), torch.tensor(0.0)
    )


def test_overlap_equals_that_of_the_pairs_one_by_one() -> None:
    maps = torch.randn(3, 7, 9, generator=torch.Generator().manual_seed(0)).softmax(dim=2)
    first, second = torch.triu_indices(7, 7, offset=1)
    pairs = torch.minimum(maps[:, first], maps[:, second]).sum(dim=2)
    torch.testing.assert_close(map_overlap(maps), pairs.mean(dim=1))


def test_one_map_overlaps_with_nothing() -> None:
    with pytest.raises(EdjeError, match="got 1 map, expected two or more"):
        map_overlap(torch.tensor([UNIFORM]))


def test_facts_of_two_heads_worked_by_hand() -> None:
    """Two pictures, two tokens: the first head is uniform, the second looks at one place."""
    elsewhere = [0.0, 0.0, 0.0, 1.0]
    maps = torch.tensor([[[UNIFORM, UNIFORM], [ONE, elsewhere]], [[UNIFORM, UNIFORM], [ONE, ONE]]])
    inside = torch.tensor([[True, False, False, False], [True, True, False, False]])
    table = map_facts(maps, inside).set_index("maps")
    assert list(table.index) == ["head 1", "head 2", "mean of heads"]
    assert table.loc["head 1"].to_dict() == pytest.approx(
        {
            "entropy": 100,
            "tokens.overlap": 100,
            "pictures.overlap": 100,
            "inside": 37.5,  # a quarter, and two
            "inside.uniform": 37.5,
        }
    )
    assert table.loc["head 2"].to_dict() == pytest.approx(
        {
            "entropy": 0,
            "tokens.overlap": 50,  # nothing in the first picture, all in the second
            "pictures.overlap": 50,  # the first token always, the second never
            "inside": 75,
            "inside.uniform": 37.5,
        }
    )
    assert table.loc["mean of heads", "inside"] == pytest.approx(56.25)
    assert "inside" not in map_facts(maps)
