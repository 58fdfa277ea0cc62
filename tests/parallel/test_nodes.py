"""Runs whose processes a launcher has started: what they agree on, and that they are one run."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from world import make_world, with_changes

from edje.errors import EdjeError
from edje.parallel import agreement
from edje.parallel.environment import Launched, launched, local_rank, own_rank
from edje.parallel.launch import check_processes

ROOT = Path(__file__).parents[2]
OF_TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "mine",
    "RANK": "5",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "WORLD_SIZE": "6",
}
OF_SRUN = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}


@pytest.mark.parametrize(
    ("given", "right"),
    [
        (OF_TORCHRUN, Launched("torchrun", 5, 1, 6, 3)),
        (OF_SRUN, Launched("srun", 3, 1, 4, 2)),
        (OF_SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        (OF_TORCHRUN | {"WORLD_SIZE": "1"}, None),
        (OF_TORCHRUN | {"EDJE_RUN_FOLDER": "there"}, None),
        ({}, None),
    ],
)
def test_a_process_knows_its_place(monkeypatch, given, right):
    for name in {*OF_TORCHRUN, *OF_SRUN, "EDJE_RUN_FOLDER"}:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert launched() == right
    if right is not None:
        assert (own_rank(), local_rank()) == (right.rank, right.local_rank)


def test_processes_that_nobody_started_are_asked_for(monkeypatch):
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    check_processes(1, 4)
    with pytest.raises(EdjeError, match=r"started alone.*srun.*torchrun"):
        check_processes(2, 4)
    for name, value in OF_SRUN.items():
        monkeypatch.setenv(name, value)
    check_processes(2, 2)
    with pytest.raises(EdjeError, match=r"started 4 .* are 2\. Give .*num_nodes=2 .*devices=2"):
        check_processes(1, 2)


@pytest.fixture
def meeting(monkeypatch) -> list[Launched]:
    """Two processes of torchrun on this machine, here two threads."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port() - 1))  # beside which rank 0 opens its own
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setattr(agreement, "SEEN_WITHIN", 0.2)
    monkeypatch.setattr(agreement, "_open", [])
    return [Launched("torchrun", rank, 0, 2, 2) for rank in range(2)]


def heard(
    processes: list[Launched], *told: Path | None, **more: bool
) -> Path | BaseException | None:
    """What rank 1 hears of what rank 0 tells."""
    found: list[Path | BaseException | None] = []

    def listen() -> None:
        try:
            found.append(agreement.hear(processes[1]))
        except (Exception, SystemExit) as error:
            found.append(error)

    listening = threading.Thread(target=listen)
    listening.start()
    told = (processes[0], *told)
    speaking = threading.Thread(target=agreement.tell, args=told, kwargs=more, daemon=True)
    speaking.start()
    listening.join(timeout=30)
    return found[0]


def test_the_others_hear_of_the_run_folder_and_that_the_cache_is_theirs(meeting, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    assert heard(meeting, tmp_path / "run", tmp_path / "cache") == tmp_path / "run"
    time.sleep(0.2)
    assert list((tmp_path / "cache").iterdir()) == []  # the mark is gone


def test_where_there_is_no_run_folder_the_others_end(meeting):
    assert heard(meeting, None) is None


def test_where_rank_0_has_failed_the_others_fail_without_a_word(meeting):
    assert isinstance(heard(meeting, None, has_failed=True), SystemExit)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_node_that_does_not_see_the_run_folder_says_so(meeting, tmp_path):
    said = heard(meeting, tmp_path / "not shared", tmp_path / "cache")
    assert isinstance(said, EdjeError)
    assert "doesn't see" in str(said) and "hydra.run.dir=<a folder on a shared disk>" in str(said)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> list[str]:
    return make_world(tmp_path_factory.mktemp("world"))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | more


def torchruns(arguments: list[str], port: int) -> list[subprocess.Popen[str]]:
    """A launcher on each of two nodes, both on this machine."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=1"),
        *("--max-restarts=0", "run.py", *arguments),
    ]
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for _ in range(2)
    ]


def ended(processes: list[subprocess.Popen[str]], timeout: float) -> list[str]:
    """What both have said, once both have ended."""
    try:
        return [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "model.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory) -> dict[str, torch.Tensor]:
    """What two processes give that one process on one machine starts."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    arguments = with_changes(world, "trainer.devices=2", f"hydra.run.dir={folder}")
    command = [sys.executable, "run.py", *arguments]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, capture_output=True)
    return weights(folder)


def is_one_run(folder: Path, launcher: str, alone: dict[str, torch.Tensor]) -> None:
    facts = json.loads((folder / "environment.json").read_text())
    assert (facts["launcher"], facts["num_nodes"], facts["world_size"]) == (launcher, 2, 2)
    assert json.loads((folder / "metrics.json").read_text())["num_images"] == 8
    assert not list(folder.glob("error*"))
    assert [path.name for path in (folder / "logs").glob("part_*")] == ["part_0"]
    own = weights(folder)
    assert own.keys() == alone.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(own[name], tensor, atol=1e-5, rtol=1e-5)


NODES = ("trainer.num_nodes=2", "trainer.devices=1")


@pytest.mark.clusters
def test_two_nodes_of_torchrun_are_one_run(world, alone, tmp_path):
    folder = tmp_path / "run"
    arguments = with_changes(world, *NODES, f"hydra.run.dir={folder}")
    processes = torchruns(arguments, free_port())
    said = ended(processes, 240)
    assert [process.returncode for process in processes] == [0, 0], said
    is_one_run(folder, "torchrun", alone)
    assert sum("reranked" in one for one in said) == 1  # one voice


@pytest.mark.clusters
def test_a_mistake_ends_both_nodes_with_one_message(world, tmp_path):
    arguments = with_changes(world, *NODES, f"hydra.run.dir={tmp_path / 'run'}", "seed=x")
    processes = torchruns(arguments, free_port())
    said = "".join(ended(processes, 120))
    assert 0 not in [process.returncode for process in processes]
    assert said.count("seed=x (str): expected int") == 1
