"""A Slurm of two nodes that are both this machine, for tests, where root and its programs are."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NEEDED = ("slurmctld", "slurmd", "munged", "srun", "sbatch")
NAMES = "edje-node1 edje-node2"
HOSTS = Path("/etc/hosts")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def two_nodes(folder: Path) -> Iterator[dict[str, str]]:
    """What to add to the environment of a process that is to use it; it ends with the block."""
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    if os.geteuid() != 0 or lacking:
        pytest.skip(f"a Slurm of its own needs root and {', '.join(lacking) or 'nothing else'}")
    host, cores = socket.gethostname().partition(".")[0], os.cpu_count()
    ports = [free_port() for _ in range(3)]
    nodes = "".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores}\n"
        for name, port in zip(NAMES.split(), ports, strict=False)
    )
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text(
        f"""ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[2]}
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
SlurmdParameters=config_overrides
{nodes}PartitionName=all Nodes={NAMES.replace(" ", ",")} Default=YES MaxTime=INFINITE State=UP
"""
    )
    facts = {"SLURM_CONF": str(folder / "slurm.conf")}
    environment = os.environ | facts
    before = HOSTS.read_text()
    munge = start_munge()
    try:
        if NAMES not in before:  # the others' MASTER_ADDR is the first node's name
            HOSTS.write_text(f"{before}127.0.0.1 {NAMES}\n")
        subprocess.run(["slurmctld"], env=environment, check=True)
        for name in NAMES.split():
            subprocess.run(["slurmd", "-N", name], env=environment, check=True)
        wait_for_idle_nodes(environment)
        yield facts
    finally:
        HOSTS.write_text(before)
        for pid in folder.glob("*.pid"):
            subprocess.run(["kill", pid.read_text().strip()], check=False)
        if munge is not None:
            munge.terminate()


def start_munge() -> subprocess.Popen[bytes] | None:
    """The daemon that tells Slurm's programs who asks; None where one is there."""
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
        return None
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    daemon = subprocess.Popen(["runuser", "-u", "munge", "--", "munged", "--foreground"])
    time.sleep(1)
    return daemon


def wait_for_idle_nodes(environment: dict[str, str]) -> None:
    for _ in range(60):
        asked = ["sinfo", "-h", "-o", "%T"]
        said = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
        if said.stdout.split() == ["idle"]:
            return
        time.sleep(0.5)
    pytest.fail(f"the nodes of Slurm did not come up: {said.stdout}{said.stderr}")
