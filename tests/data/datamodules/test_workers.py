"""Loading processes: how many each process has, and that they end with it, whatever ended it."""

import subprocess
import sys

import pytest

from edje.data.datamodules import workers
from edje.data.datamodules.workers import share_of_cores
from edje.parallel.environment import Launched

SCRIPT = """
from torch.utils.data import DataLoader, Dataset
from edje.data.datamodules.workers import leave_signals_to_main

class Broken(Dataset):
    def __len__(self):
        return 9

    def __getitem__(self, row):
        if row == 4:
            raise ValueError("row 4 is broken")
        return row

for _ in DataLoader(Broken(), num_workers=1, worker_init_fn=leave_signals_to_main):
    pass
"""


@pytest.mark.kills
def test_an_error_that_leaves_a_loading_process_behind_still_ends_the_program():
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.rstrip().splitlines()[-1].endswith("row 4 is broken")


@pytest.mark.parametrize(
    ("launcher", "own", "right"),
    [
        ("srun", 8, 8),  # each of four tasks is bound to cores of its own
        ("srun", 32, 8),  # or to none
        ("srun", 4, 4),  # or to one thread of each core
        ("torchrun", 32, 8),  # one task, whose cores its processes share
        ("torchrun", 8, 2),
        (None, 8, 2),  # a process that started the others
    ],
)
def test_cores_that_slurm_gave_to_a_task_alone_are_not_divided_again(
    monkeypatch, launcher, own, right
):
    process = launcher and Launched(launcher, 0, 0, 4, 1)
    monkeypatch.setattr(workers, "launched", lambda: process)
    monkeypatch.setattr(workers, "cores", lambda: own)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "32")
    assert share_of_cores(4, 16) == right
    assert share_of_cores(4, 1) == 1
    monkeypatch.delenv("SLURM_CPUS_ON_NODE")
    assert share_of_cores(4, 16) == own // 4
