"""What the tests of several nodes share: how a run is started there, and what must come of it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from edje.cli import run
from edje.tokens import writer
from tests.parallel.troubled import OVER
from tests.tiny.world import make_world, with_changes

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUN = [sys.executable, str(ROOT / "run.py")]
ALL_SHARED = [sys.executable, str(HERE / "all_shared.py")]
WITH_SMALL_SHARDS = [sys.executable, str(HERE / "small_shards.py")]
NODES = ("trainer.num_nodes=2", "trainer.devices=1")
STEPS = 6


def world_of_nodes(root: Path) -> list[str]:
    """The tiny world, on two nodes, with an objective that may meet trouble."""
    (root / "told").write_text(OVER)
    return with_changes(
        make_world(root),
        f"trainer.max_steps={STEPS}",
        "checkpoint_every=2",
        "loader.num_workers=1",
        "objective.matching._target_=troubled.Troubled",
        f"objective.matching.told={root / 'told'}",
        *NODES,
    )


def told(world: list[str]) -> Path:
    """The file that says which trouble is to come."""
    (line,) = [line for line in world if line.startswith("objective.matching.told=")]
    return Path(line.split("=", 1)[1])


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def lacks(programs: Sequence[str]) -> list[str]:
    """What of root and some programs isn't there."""
    missing = [] if os.geteuid() == 0 else ["root"]
    return missing + [name for name in programs if shutil.which(name) is None]


def environment(**more: str) -> dict[str, str]:
    """Of a process that is to find the package and `troubled`, whatever its folder."""
    paths = os.pathsep.join(map(str, [ROOT, HERE]))
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | more


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "model.ckpt", weights_only=True)["state_dict"]


def steps_of(folder: Path) -> int:
    """Optimiser steps that the last checkpoint has behind it."""
    last = folder / "checkpoints" / "last.ckpt"
    return torch.load(last, weights_only=True)["global_step"]


def has_weights_of(folder: Path, alone: dict[str, torch.Tensor]) -> None:
    own = weights(folder)
    assert own.keys() == alone.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(own[name], tensor, atol=1e-5, rtol=1e-5)


def is_one_run(folder: Path, launcher: str, alone: dict[str, torch.Tensor]) -> None:
    facts = json.loads((folder / "environment.json").read_text())
    assert (facts["launcher"], facts["num_nodes"], facts["world_size"]) == (launcher, 2, 2)
    assert json.loads((folder / "metrics.json").read_text())["num_images"] == 8
    assert not list(folder.glob("error*"))
    assert [path.name for path in (folder / "logs").glob("part_*")] == ["part_0"]
    has_weights_of(folder, alone)


def run_here(overrides: list[str]) -> None:
    """A run in this process, which has imported all that it needs."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patched:
        warnings.simplefilter("ignore")
        patched.syspath_prepend(HERE)
        run(overrides)


def made_alone(world: list[str], root: Path) -> dict[str, torch.Tensor]:
    """The weights of two processes that one process on one machine starts.

    The stores are written before, by that one alone, in shards of one image.
    """
    one_machine = with_changes(world, "trainer.num_nodes=1", "trainer.devices=2")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(writer, "_SHARD_ROWS", 1)
        own = ("task=cache", "trainer.devices=1", f"hydra.run.dir={root / 'cached'}")
        run_here(with_changes(one_machine, *own))
    folder = root / "run"
    command = [*RUN, *with_changes(one_machine, f"hydra.run.dir={folder}")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return weights(folder)


def stored(cache: Path) -> dict[str, bytes]:
    """The token stores under a cache folder."""
    return {
        str(path.relative_to(cache)): path.read_bytes()
        for path in cache.rglob("*")
        if path.name.startswith("shard-") or path.name == "store.json"
    }
