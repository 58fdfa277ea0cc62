"""Runs on two nodes of a Slurm that the tests start: one run, more time, lost nodes, a sweep."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from edje.analysis import load_runs
from tests.parallel.nodes import (
    RUN,
    STEPS,
    WITH_SMALL_SHARDS,
    environment,
    has_weights_of,
    is_one_run,
    made_alone,
    steps_of,
    stored,
    told,
    world_of_nodes,
)
from tests.parallel.slurm_nodes import asked, two_nodes
from tests.parallel.troubled import OVER
from tests.tiny.world import make_world, with_changes

pytestmark = pytest.mark.slurm
SRUN = ["srun", "-N2", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[dict[str, str]]:
    with two_nodes(tmp_path_factory.mktemp("slurm")) as facts:
        yield facts


@pytest.fixture(scope="module")
def world(slurm, tmp_path_factory) -> list[str]:
    return world_of_nodes(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory) -> dict[str, torch.Tensor]:
    return made_alone(world, tmp_path_factory.mktemp("alone"))


def srun(slurm: dict[str, str], *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SRUN, *command],
        env=environment(**slurm, **more),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_two_nodes_are_one_run_and_fill_a_store_with_the_bytes_of_one_process(
    world, alone, slurm, tmp_path
):
    folder, begun, cache = (tmp_path / name for name in ("run", "begun", "cache"))
    begun.mkdir()
    own = with_changes(world, f"hydra.run.dir={folder}", f"cache_dir={cache}")
    done = srun(slurm, *WITH_SMALL_SHARDS, *own, BEGUN=str(begun))
    assert done.returncode == 0, done.stdout + done.stderr
    is_one_run(folder, "srun", alone)
    assert done.stdout.count("reranked") == 2  # a row of each direction, once
    assert {path.name for path in begun.iterdir()} == {"0", "1"}  # both wrote a part
    of_one = stored(told(world).parent / "cache")
    assert len(of_one) > 10 and stored(cache) == of_one


def test_a_sweep_submits_its_jobs_and_tells_the_failed_one(slurm, tmp_path):
    world = with_changes(make_world(tmp_path), "trainer.max_steps=1", "loader.batch_size=1000,8")
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=5"]
    sweep = [*RUN, "-m", *world, *launcher]
    done = subprocess.run(sweep, env=environment(**slurm), capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    first, job = done.stderr.splitlines()[-2:]
    assert first == "Error: 1 of the sweep's jobs failed (see error.txt):"
    assert "sweep/0 (" in job and "loader.batch_size=1000" in job
    assert done.stdout.count("text → image R@1") == 1  # the table of the sweep
    runs = load_runs(tmp_path / "sweep").set_index("loader.batch_size")
    assert list(runs.loc[[8, 1000], "status"]) == ["done", "failed"]
    numbers = [path.name.split("_")[0] for path in (tmp_path / "sweep" / ".submitit").iterdir()]
    assert any(number.isdecimal() for number in numbers)  # of Slurm's


class BatchJob:
    """A script that sbatch was given, and what became of it."""

    def __init__(self, slurm: dict[str, str], folder: Path, *commands: list[str]):
        self.slurm, self.output = slurm, folder / "out"
        lines = [" ".join(f"'{word}'" for word in command) for command in commands]
        script = folder / "job.sh"
        script.write_text("\n".join(["#!/bin/bash", "set -e", f"cd {folder}", *lines, ""]))
        sbatch = ["sbatch", "--parsable", "-N2", "--ntasks-per-node=1", "--open-mode=append"]
        done = subprocess.run(
            [*sbatch, f"--output={self.output}", str(script)],
            env=environment(**slurm),
            capture_output=True,
            text=True,
            check=True,
        )
        self.number = done.stdout.strip()

    def signal(self, name: str) -> None:
        asked(self.slurm, "scancel", f"--signal={name}", self.number)

    def facts(self) -> dict[str, str]:
        """What Slurm knows of it."""
        said = asked(self.slurm, "scontrol", "show", "job", self.number).split()
        return dict(word.split("=", 1) for word in said if "=" in word)

    def until(self, holds, seconds: float = 120) -> None:
        latest = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < latest, f"{self.facts()}\n{self.said()}"
            time.sleep(0.1)

    def end(self) -> str:
        """How it ended."""
        self.until(lambda: self.facts()["JobState"] in ENDED)
        return self.facts()["JobState"]

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""


def test_a_job_whose_time_is_over_is_queued_again_and_goes_on(world, alone, slurm, tmp_path):
    """In the folder that its step of the job had before, though none was named."""
    told(world).write_text("wait -1 3")
    unnamed = [one for one in world if not one.startswith("hydra.run.dir=")]
    job = BatchJob(slurm, tmp_path, ["srun", "true"], [*SRUN, *RUN, *unnamed])
    job.until(lambda: told(world).read_text() == OVER)
    job.signal("USR1")
    assert job.end() == "COMPLETED", job.said()
    assert job.facts()["Restarts"] == "1"
    assert f"Slurm job {job.number}: queued again" in job.said()
    (folder,) = (tmp_path / "runs" / "tiny").iterdir()
    assert folder.name == f"slurm_{job.number}.1"
    assert (folder / "metrics.json").is_file()
    has_weights_of(folder, alone)
    parts = [(folder / "logs" / f"part_{number}" / "metrics.csv") for number in (0, 1)]
    steps = [{row.split(",")[1] for row in part.read_text().split()[1:]} for part in parts]
    assert not steps[0] & steps[1], "none was trained twice"


def test_a_run_that_is_killed_or_told_to_end_goes_on_by_the_same_command(
    world, alone, slurm, tmp_path
):
    """A process of either node is killed, then Slurm ends the job: nothing is queued again."""
    folder = tmp_path / "run"
    command = [*RUN, *with_changes(world, f"hydra.run.dir={folder}")]
    for rank, steps in ((1, 2), (0, 4)):
        told(world).write_text(f"kill {rank} 3")  # a checkpoint every two steps
        killed = srun(slurm, *command)
        seconds = time.time() - told(world).stat().st_mtime
        assert killed.returncode != 0 and seconds < 60
        assert f"edje-node{rank + 1}: task {rank}: Killed" in killed.stderr
        assert steps_of(folder) == steps
    told(world).write_text("wait -1 1")
    job = BatchJob(slurm, tmp_path, [*SRUN, *command])
    job.until(lambda: told(world).read_text() == OVER)
    job.signal("TERM")
    assert job.end() == "FAILED", job.said()
    assert job.facts()["Restarts"] == "0" and "queued" not in job.said()
    assert steps_of(folder) == 5
    again = srun(slurm, *command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert steps_of(folder) == STEPS and (folder / "metrics.json").is_file()
    has_weights_of(folder, alone)
