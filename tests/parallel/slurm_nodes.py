"""A Slurm of two nodes that are both this machine, for tests, where root and its programs are.

All of it lies in one folder and ends with its block, or with the tests: keys, sockets, and the
nodes' /etc/hosts, which is another file in their eyes alone.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.parallel.nodes import free_port, lacks

NEEDED = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "setpriv", "unshare")
NODES = ("edje-node1", "edje-node2")
UP_WITHIN = 60  # seconds


@contextmanager
def two_nodes(folder: Path) -> Iterator[dict[str, str]]:
    """What to add to the environment of a process that is to use it."""
    lacking = lacks(NEEDED)
    if not lacking and subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        lacking = ["leave to mount"]
    if lacking:
        pytest.skip(f"a Slurm of its own needs {', '.join(lacking)}")
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text(configuration(folder))
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o400)
    names = f"127.0.0.1 localhost {socket.gethostname()} {' '.join(NODES)}\n"
    (folder / "hosts").write_text(names)  # the others' MASTER_ADDR is the first node's name
    facts = {"SLURM_CONF": str(folder / "slurm.conf")}
    with ExitStack() as stack:
        stack.enter_context(daemon(folder, facts, *munge(folder)))
        stack.enter_context(daemon(folder, facts, "slurmctld", "-D"))
        for name in NODES:
            seen = f"mount --bind {folder}/hosts /etc/hosts && exec slurmd -D -N {name}"
            stack.enter_context(daemon(folder, facts, "unshare", "--mount", "sh", "-c", seen))
        wait_for_idle_nodes(folder, facts)
        stack.callback(end_jobs, facts)
        yield facts


def munge(folder: Path) -> list[str]:
    """The daemon that tells Slurm's programs who asks, with a socket of its own."""
    places = {"key-file": "key", "socket": "munge.socket", "pid-file": "munge.pid"}
    places |= {"log-file": "munge.log", "seed-file": "munge.seed"}
    given = [f"--{name}={folder / place}" for name, place in places.items()]
    return ["munged", "--foreground", "--force", *given]


def configuration(folder: Path) -> str:
    """Everything on this machine; a job that is queued again starts at once."""
    host = socket.gethostname().partition(".")[0]
    nodes = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=4\n"
        for name in NODES
    ]
    return f"""ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1
KillWait=10
ReturnToService=2
MpiDefault=none
SlurmdParameters=config_overrides
{"".join(nodes)}PartitionName=all Nodes={",".join(NODES)} Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def daemon(folder: Path, facts: dict[str, str], *command: str) -> Iterator[None]:
    """A program that runs beside the block, and no longer than this process."""
    with (folder / "daemons.log").open("ab") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            env=os.environ | facts,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def asked(facts: dict[str, str], *command: str) -> str:
    """What one of Slurm's programs answers."""
    return subprocess.run(
        command, env=os.environ | facts, capture_output=True, text=True, check=False, timeout=60
    ).stdout.strip()


def wait_for_idle_nodes(folder: Path, facts: dict[str, str]) -> None:
    latest = time.monotonic() + UP_WITHIN
    while time.monotonic() < latest:
        if asked(facts, "sinfo", "-h", "-N", "-o", "%T").split() == ["idle", "idle"]:
            return
        time.sleep(0.2)
    pytest.fail(f"the nodes of Slurm did not come up: {(folder / 'daemons.log').read_text()}")


def end_jobs(facts: dict[str, str]) -> None:
    """End what is left of a failed test."""
    latest = time.monotonic() + UP_WITHIN
    while asked(facts, "squeue", "-h") and time.monotonic() < latest:
        asked(facts, "scancel", "--partition=all", "--signal=KILL", "--full")
        asked(facts, "scancel", "--partition=all")
        time.sleep(0.5)
