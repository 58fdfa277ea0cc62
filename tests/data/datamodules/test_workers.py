"""Loading processes end with the main one, whatever ended it."""

import subprocess
import sys

import pytest

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
