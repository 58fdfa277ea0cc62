"""Runs of two processes through run.py, as a user starts them: one folder, one voice, one end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from edje.analysis import load_runs
from edje.cli import main
from edje.parallel import environment as ranks
from tests.parallel.nodes import environment, run_here
from tests.tiny.world import make_world, with_changes

ROOT = Path(__file__).parents[2]
OBJECTIVES = "objective=[matching,text_recovery]"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> list[str]:
    """Two processes train, and fill the store of val; train's is there."""
    root = tmp_path_factory.mktemp("world")
    overrides = with_changes(make_world(root), OBJECTIVES)
    run_here(with_changes(overrides, "task=cache", f"hydra.run.dir={root / 'cached'}"))
    (of_val,) = (root / "cache" / "folder-val").glob("raw-*")
    shutil.rmtree(of_val)
    return with_changes(overrides, "trainer.devices=2")


def start(*arguments: str) -> tuple[int, str, str]:
    """Run the command line; exit status and what it said. No process of it may be left."""
    process = subprocess.Popen(
        [sys.executable, "run.py", *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said, complained = process.communicate(timeout=600)
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # Python's tracker of shared resources ends just after its parent
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    return process.returncode, said, complained


def troubled(trouble: str, rank: int, folder: Path) -> list[str]:
    return [
        "objective.matching._target_=troubled.Troubled",
        f"objective.matching.trouble={trouble}",
        f"objective.matching.rank={rank}",
        f"hydra.run.dir={folder}",
    ]


@pytest.mark.clusters
def test_a_sweep_of_two_processes_makes_one_run_of_each_job(world, tmp_path):
    """The second job's only objective reads a part of the model: no gradient may be missing."""
    choices = f"{OBJECTIVES},[alignment]"
    changes = [choices, "scoring.dev_every=2", f"hydra.sweep.dir={tmp_path}"]
    status, said, complained = start("-m", *with_changes(world, *changes))
    assert status == 0, complained
    assert "Traceback" not in complained and "warning" not in complained.lower()
    assert said.count("ceiling: recall of") == 2 and said.count("step 4: dev/t2i_recall@1") == 2
    summed_up = {"sweep.csv", "sweep.png", "multirun.yaml"}
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", *summed_up}
    assert list(load_runs(tmp_path)["status"]) == ["done", "done"]
    for folder in (tmp_path / "0", tmp_path / "1"):
        assert json.loads((folder / "metrics.json").read_text())["num_images"] == 8
        names = {path.name for path in folder.glob("**/*.ckpt")}
        assert names == {"last.ckpt", "best.ckpt", "model.ckpt"}
        assert [path.name for path in (folder / "logs").iterdir() if path.is_dir()] == ["part_0"]
        assert len(list(folder.glob("config*.yaml"))) == 1


@pytest.mark.clusters
def test_two_processes_stop_early_together_and_evaluate(world, tmp_path):
    """Of the few queries on dev no six scores can each be better than the one before."""
    early = ["scoring.dev_every=1", "scoring.patience=1", "trainer.max_steps=40"]
    status, said, complained = start(*with_changes(world, *early, f"hydra.run.dir={tmp_path}"))
    assert status == 0, complained
    assert said.count("stopped early, at step") == 1 and said.count("ceiling: recall of") == 1
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert 2 <= last["global_step"] <= 6


@pytest.mark.clusters
def test_stopped_on_one_rank_a_run_resumes_with_another_number_of_ranks(world, tmp_path):
    folder = tmp_path / "run"
    status, _, complained = start(
        *world, "task=train", "trainer.strategy=ddp", *troubled("stop", 1, folder)
    )
    assert status == 128 + signal.SIGTERM and f"resume={folder}" in complained
    assert complained.count("Interrupted") == 1
    last = folder / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 2
    assert not (folder / "checkpoints" / "model.ckpt").exists()
    named = "objective.matching._target_=troubled.Troubled"
    assert f"resume={folder} {named}" in complained, "a folder may not name code of others"
    run_here([f"resume={folder}", named, "objective.matching.trouble=none", "trainer.devices=1"])
    said = (folder / "logs" / "run.log").read_text()
    assert said.count("ranks: 1 now, 2 before. Batches hold other sets of pairs") == 1
    assert torch.load(last, weights_only=True)["global_step"] == 4
    assert (folder / "checkpoints" / "model.ckpt").exists()


@pytest.mark.clusters
def test_a_failing_rank_ends_the_run_with_its_message(world, tmp_path):
    folder = tmp_path / "run"
    status, _, complained = start(*world, *troubled("fail", 1, folder))
    assert complained.count("Error: bad luck. Try again.\n") == 1
    if status != -signal.SIGKILL:  # by Lightning, where its watch is faster than the lost peer
        assert status == 1 and "rank 1 failed: see its message above" in complained
    assert "Traceback" not in complained
    assert (folder / "error_rank_1.txt").read_text() == "bad luck. Try again.\n"


def test_processes_that_another_launcher_started_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "trainer.devices=2"])
    for name, value in (("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        with monkeypatch.context() as patched:
            patched.delenv(ranks.RUN_FOLDER, raising=False)
            patched.setenv(name, value)
            assert main() == 1
        assert "Start a single process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("strategy=ddp_spawn", "Use one of auto, ddp"),
        ("num_nodes=2", "only this process was started"),
    ],
)
def test_other_ways_of_sharing_are_refused(tmp_path, monkeypatch, capsys, choice, said):
    monkeypatch.setattr(sys, "argv", ["run.py", f"trainer.{choice}", f"hydra.run.dir={tmp_path}"])
    assert main() == 1
    assert said in capsys.readouterr().err
