"""Claims about the places for workers on a cluster of Ray."""

import pytest

from edje.index.ray_engine import places_with_gpu


@pytest.mark.parametrize(
    ("nodes", "right"),
    [
        ([(16, 4)], (4, 4)),
        ([(2, 1), (2, 1)], (2, 2)),  # not the four cores of both, which no node has
        ([(64, 0), (8, 2), (32, 4)], (6, 4)),  # nodes without GPU lend no cores
        ([(0, 2), (16, 2)], (2, 8)),  # a head without cores takes no work
        ([(2, 4)], (4, 0)),
        ([(0, 1)], (1, 0)),
        ([(8, 0)], (0, 0)),
    ],
)
def test_a_worker_gets_the_cores_that_every_node_with_gpus_has_for_each(nodes, right):
    living = [{"Alive": True, "Resources": {"CPU": float(c), "GPU": float(g)}} for c, g in nodes]
    gone = {"Alive": False, "Resources": {"CPU": 1.0, "GPU": 1.0}}
    assert places_with_gpu([*living, gone]) == right
    without_zeros = [
        {"Alive": True, "Resources": {name: n for name, n in one["Resources"].items() if n}}
        for one in living
    ]
    assert places_with_gpu(without_zeros) == right
