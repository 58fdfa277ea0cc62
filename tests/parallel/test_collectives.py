"""Two ranks do what one rank does on the joined batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edje.parallel.collectives import join_first, joined
from edje.retrieval.recall_metric import recall_metrics
from edje.training.joined_pairs import JoinedPairs, to_common_length
from tests.parallel.two_ranks import CASES, DEV_RANKS, RANKS, SHARES, all_pairs, results

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    script = str(ROOT / "tests" / "parallel" / "two_ranks.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(folder), str(rank)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        errors = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:  # where one failed, the other waits for it
            process.kill()
            process.communicate()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.clusters
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_give_what_one_gives_on_the_joined_batch(case, two_ranks):
    one = results(case, all_pairs(case))
    parts = [found[case] for found in two_ranks]
    gradients = [name for name in one if name.startswith("gradient")]
    assert len(gradients) > 20
    for name, expected in one.items():
        both = [part[name] for part in parts]
        if name == "loss":
            found = (both[0] + both[1]) / 2
        elif name in gradients:
            assert torch.equal(*both), f"the ranks would part: {name}"
            found = both[0]
        else:
            found = torch.cat(both)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5, msg=lambda m, n=name: n + m)


@pytest.mark.clusters
@pytest.mark.parametrize("shares", SHARES)
def test_every_rank_knows_the_recall_of_all_queries(shares, two_ranks):
    """Also where one rank has them all, as while training."""
    right = recall_metrics("")(DEV_RANKS)
    assert right["recall@1"] == 40 and right["recall@5"] == 60 and right["recall@10"] == 80
    for found in two_ranks:
        assert found[f"recall, {shares}"] == right


@pytest.mark.clusters
def test_every_rank_knows_the_texts_of_all(two_ranks):
    assert [found["texts"] for found in two_ranks] == [["of rank 0", "of rank 1"]] * RANKS


def test_no_trainable_parameter_is_without_a_gradient():
    """What DistributedDataParallel waits for; also where an objective is off."""
    for case in CASES:
        found = results(case, all_pairs(case))
        assert not [name for name, value in found.items() if value is None], case


def test_one_rank_copies_nothing(pairs):
    everyone = JoinedPairs.of(pairs)
    assert everyone.first == 0 and everyone.sample_ids is pairs.sample_ids
    assert to_common_length(pairs) is pairs
    assert joined(pairs.tokens) is pairs.tokens
    assert join_first(pairs.tokens, 3) is pairs.tokens
