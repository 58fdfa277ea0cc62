"""The command line with shards of one image; every process waits until all have begun one."""

import os
import sys
import time
from pathlib import Path

from edje.cli import main
from edje.parallel.environment import launched
from edje.tokens import writer
from edje.tokens.unfinished import UnfinishedStore

writer._SHARD_ROWS = 1
BEGUN = Path(os.environ["BEGUN"])  # a folder for a file of each process's first shard
begin = UnfinishedStore.begin_shard


def begin_shard(self, index):
    process = launched()
    rank, ranks = (0, 1) if process is None else (process.rank, process.world_size)
    (BEGUN / str(rank)).touch()
    latest = time.monotonic() + 60
    while len(list(BEGUN.iterdir())) < ranks:
        assert time.monotonic() < latest, "the other process has no part in the store"
        time.sleep(0.02)
    return begin(self, index)


UnfinishedStore.begin_shard = begin_shard

if __name__ == "__main__":
    sys.exit(main())
