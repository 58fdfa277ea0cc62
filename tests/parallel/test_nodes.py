"""Runs whose processes a launcher has started: what they agree on, and that they are one run."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch.distributed import TCPStore

from edje import cli
from edje.errors import EdjeError
from edje.parallel import agreement
from edje.parallel.cluster import meeting_port
from edje.parallel.environment import Launched, launched, local_rank, own_rank
from edje.parallel.launch import check_processes, lost_ranks_named
from edje.pipeline.shares import num_shares
from tests.parallel.networks import HERE, Node, two_networks
from tests.parallel.nodes import (
    ALL_SHARED,
    RUN,
    STEPS,
    environment,
    free_port,
    has_weights_of,
    is_one_run,
    made_alone,
    run_here,
    steps_of,
    told,
    world_of_nodes,
)
from tests.tiny.world import with_changes

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
    with pytest.raises(EdjeError, match=r"only this process was started.*srun.*torchrun"):
        check_processes(2, 4)
    for name, value in OF_SRUN.items():
        monkeypatch.setenv(name, value)
    check_processes(2, 2)
    with pytest.raises(EdjeError, match=r"started 4 .* are 2\. Give .*num_nodes=2 .*devices=2"):
        check_processes(1, 2)


def test_steps_and_jobs_that_share_a_node_meet_at_ports_of_their_own(monkeypatch):
    ports = []
    for job, step in ((4321, 0), (4321, 1), (4322, 0), (4323, 0)):
        monkeypatch.setenv("SLURM_JOB_ID", str(job))
        monkeypatch.setenv("SLURM_STEP_ID", str(step))
        ports += [meeting_port(), meeting_port() + 1]
    assert len(set(ports)) == len(ports)
    assert all(1024 < port < 32768 for port in ports)


@pytest.fixture
def meeting(monkeypatch) -> list[Launched]:
    """Two processes of torchrun on this machine, here two threads."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port() - 1))  # beside which rank 0 opens its own
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setattr(agreement, "SEEN_WITHIN", 0.2)
    monkeypatch.setattr(agreement, "PATIENCE", timedelta(minutes=1))
    monkeypatch.setattr(agreement, "_open", {})
    monkeypatch.setattr(agreement, "_calls", defaultdict(count))
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

    def speak() -> None:
        with suppress(EdjeError):  # rank 1 may never come: when that is told, this test is over
            agreement.tell(processes[0], *told, **more)

    listening = threading.Thread(target=listen)
    listening.start()
    threading.Thread(target=speak, daemon=True).start()
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


def test_a_node_that_does_not_see_the_run_folder_says_so(meeting, tmp_path):
    said = heard(meeting, tmp_path / "not shared", tmp_path / "cache")
    assert isinstance(said, EdjeError)
    assert "doesn't see" in str(said) and "hydra.run.dir=<a folder on a shared disk>" in str(said)


def test_the_others_work_in_rank_0_s_folder_or_say_that_it_is_not_there(
    meeting, tmp_path, monkeypatch
):
    """So relative paths, as of the data, mean the same to all."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "first")
    told = (meeting[0], tmp_path / "run", Path("cache"))
    telling = threading.Thread(target=agreement.tell, args=told)
    telling.start()
    store = agreement.common_store(meeting[1])
    store.wait([agreement.FOLDER])
    monkeypatch.chdir(tmp_path / "second")
    assert agreement.hear(meeting[1]) == tmp_path / "run"
    assert Path.cwd() == tmp_path / "first"
    telling.join(timeout=30)
    monkeypatch.chdir(tmp_path / "second")
    shutil.rmtree(tmp_path / "first")
    (tmp_path / "cache").touch()
    places = {"has_failed": False, "folder": str(tmp_path / "run"), "mark": str(tmp_path / "cache")}
    places["working"] = str(tmp_path / "first")
    store.set(agreement.FOLDER, json.dumps(places))
    with pytest.raises(EdjeError, match=r"rank 1 on .* can't enter .*first.*on a shared disk"):
        agreement.hear(meeting[1])


def test_what_rank_0_says_is_heard_call_by_call_by_ranks_before_and_after_it(meeting):
    heard: dict[int, list[str]] = {0: [], 1: []}

    def rank(number: int) -> None:
        for text in ("a", "b"):
            heard[number].append(agreement.of_rank_0(meeting[number], f"{text} of {number}"))

    early, first = (threading.Thread(target=rank, args=(number,)) for number in (1, 0))
    early.start()
    early.join(timeout=1)
    assert heard[1] == []
    first.start()
    for thread in (early, first):
        thread.join(timeout=30)
    assert heard[0] == heard[1] == ["a of 0", "b of 0"]


def test_a_rank_that_fails_ends_those_that_wait_for_it_with_one_message(
    meeting, tmp_path, monkeypatch
):
    """Launchers don't tell the other nodes."""
    (tmp_path / "config.yaml").write_text("task: cache")
    agreement.common_store(meeting[0])

    def fail(cfg: object, folder: object) -> None:
        raise EdjeError("no such image.")

    monkeypatch.setattr(cli, "importlib", SimpleNamespace(import_module=lambda _: cli))
    monkeypatch.setattr(cli, "run", fail)
    monkeypatch.setattr(cli, "launched", lambda: meeting[1])
    monkeypatch.setattr(cli, "GRACE_SECONDS", 0)
    with pytest.raises(EdjeError, match=r"no such image\."):
        cli.take_part(tmp_path)
    with pytest.raises(EdjeError, match=r"rank 1 on .* failed: no such image\."):
        agreement.meet(meeting[0], "the training")
    with pytest.raises(EdjeError, match=r"rank 1 on .* failed: no such image\."):
        agreement.of_rank_0(meeting[0], "a store")
    with pytest.raises(SystemExit):
        agreement.meet(Launched("torchrun", 2, 0, 3, 3), "the training")


@pytest.mark.parametrize(
    ("launcher", "way"), [("srun", r"export MASTER_PORT="), ("torchrun", r"--master-port=")]
)
def test_a_port_that_another_program_uses_is_named(meeting, monkeypatch, tmp_path, launcher, way):
    """The one at which rank 0 opens its store, or the one of the training before it."""
    monkeypatch.setenv("SLURM_NODELIST", "localhost")
    process = Launched(launcher, 0, 0, 2, 1)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port - 1))
        with pytest.raises(EdjeError, match=rf"another program uses port {port}, .*{way}<a free"):
            agreement.common_store(process)
        monkeypatch.setenv("MASTER_PORT", str(port))
        with (
            pytest.raises(EdjeError, match=rf"another program uses port {port}, .*{way}<a free"),
            lost_ranks_named(process, tmp_path),
        ):
            TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)


def test_all_wait_for_the_last_one(meeting):
    """However long it takes; no rank's collective waits meanwhile."""
    come = []

    def rank(number: int) -> None:
        agreement.meet(meeting[number], "the training")
        come.append(number)

    first, last = (threading.Thread(target=rank, args=(number,)) for number in range(2))
    first.start()
    first.join(timeout=1)
    assert come == []
    last.start()
    for thread in (first, last):
        thread.join(timeout=30)
    assert sorted(come) == [0, 1]


def test_a_lost_rank_is_named_and_other_errors_stay_as_they_are(tmp_path):
    with (
        pytest.raises(EdjeError, match=r"rank 1 on .*: another rank is gone .*resume=.*run"),
        lost_ranks_named(Launched("srun", 1, 0, 2, 2), tmp_path / "run"),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer")
    with (
        pytest.raises(RuntimeError, match="shapes differ"),
        lost_ranks_named(Launched("srun", 1, 0, 2, 2), tmp_path / "run"),
    ):
        raise RuntimeError("shapes differ")


def test_scoring_is_shared_with_ranks_that_have_stayed_to_help_and_with_no_others(
    monkeypatch, tmp_path
):
    """A program of the user's own that srun has started, say, has no helpers."""
    for name, value in OF_SRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(agreement, "_named", [])
    devices = (torch.device("cpu"),)
    assert num_shares(devices) == 1
    agreement._named.append(tmp_path)
    assert num_shares(devices) == 4 and num_shares(()) == 0


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> list[str]:
    return world_of_nodes(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Where the run of `alone` is."""
    return tmp_path_factory.mktemp("alone")


@pytest.fixture(scope="module")
def alone(world, home) -> dict[str, torch.Tensor]:
    return made_alone(world, home)


def torchruns(
    arguments: list[str],
    port: int,
    first: Node = HERE,
    second: Node = HERE,
    script: str = RUN[1],
    **variables: str,
) -> list[subprocess.Popen[str]]:
    """A launcher on each of two nodes."""
    return [
        subprocess.Popen(
            [
                *node.enter,
                *(sys.executable, "-m", "torch.distributed.run"),
                *("--nnodes=2", "--nproc-per-node=1", "--max-restarts=0", "--rdzv-id=1"),
                *("--rdzv-backend=c10d", f"--rdzv-endpoint={first.address}:{port}"),
                *(f"--rdzv-conf=is_host={int(number == 0)}", f"--local-addr={node.address}"),
                *(script, *arguments),
            ],
            env=environment(**node.environment, **variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for number, node in enumerate((first, second))
    ]


def ended(processes: list[subprocess.Popen[str]], timeout: float) -> list[str]:
    """What both have said, once both have ended."""
    try:
        return [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.clusters
def test_two_torchruns_that_meet_over_a_network_are_one_run(world, alone, tmp_path):
    """Each in a network of its own, a cable between them."""
    folder = tmp_path / "run"
    arguments = with_changes(world, f"hydra.run.dir={folder}")
    with two_networks() as nodes:
        processes = torchruns(arguments, free_port(), *nodes)
        said = ended(processes, 240)
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    is_one_run(folder, "torchrun", alone)
    assert sum("reranked" in one for one in said) == 1  # one voice


@pytest.mark.clusters
def test_a_node_that_is_killed_ends_the_other_and_the_same_command_goes_on(world, alone, tmp_path):
    """Its torchrun and its process; both on this machine, as where there is no root."""
    folder = tmp_path / "run"
    arguments = with_changes(world, f"hydra.run.dir={folder}")
    told(world).write_text("kill_both 1 3")
    processes = torchruns(arguments, free_port())
    said = ended(processes, 240)
    assert time.time() - told(world).stat().st_mtime < 60
    assert 0 not in [process.returncode for process in processes]
    assert "\n".join(said).count("another rank is gone") == 1
    assert steps_of(folder) == 2
    processes = torchruns(arguments, free_port())
    said = ended(processes, 240)
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    assert steps_of(folder) == STEPS and (folder / "metrics.json").is_file()
    has_weights_of(folder, alone)


@pytest.mark.clusters
def test_both_nodes_score_what_is_evaluated_to_the_lists_of_one(world, alone, home, tmp_path):
    (tmp_path / "begun").mkdir()
    kept = ("cache_dir=", "data.root=", "objective.matching._target_=")
    asked = ["task=evaluate", f"checkpoint={home / 'run'}", "trainer.devices=1"]
    asked += [line for line in world if line.startswith(kept)]
    folders = {number: f"hydra.run.dir={tmp_path / str(number)}" for number in (1, 2)}
    run_here([*asked, folders[1]])
    both = [*asked, folders[2], "trainer.num_nodes=2"]
    processes = torchruns(both, free_port(), script=ALL_SHARED[1], BEGUN=str(tmp_path / "begun"))
    said = ended(processes, 240)
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    assert {path.name for path in (tmp_path / "begun").iterdir()} == {"0 of 2", "1 of 2"}
    lists = [pd.read_parquet(tmp_path / str(number) / "candidates.parquet") for number in (1, 2)]
    pd.testing.assert_frame_equal(*lists, rtol=0, atol=1e-5)
    assert not list((tmp_path / "2").glob("shares-*"))


@pytest.mark.clusters
def test_a_mistake_ends_both_nodes_with_one_message(world, tmp_path):
    arguments = with_changes(world, f"hydra.run.dir={tmp_path / 'run'}", "seed=x")
    processes = torchruns(arguments, free_port())
    said = "".join(ended(processes, 120))
    assert 0 not in [process.returncode for process in processes]
    assert said.count("seed=x (str): expected int") == 1
