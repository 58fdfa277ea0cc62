"""What a sweep says of its failed jobs, whatever launches them."""

import json
import pickle
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from edje.analysis import load_runs
from edje.cli import StoppedError
from edje.config import root
from edje.config.composition import PLUGINS
from edje.errors import EdjeError, TrainingInterrupted
from tests.tiny.project import write_yaml
from tests.tiny.world import make_world, with_changes

Command = Callable[..., int]
Calls = list[tuple[DictConfig, Path]]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def basic() -> type[Launcher]:
    """The class of the launcher that Hydra takes where none is chosen, as its registry has it."""
    found = Plugins.instance().discover(Launcher)
    return next(plugin for plugin in found if plugin.__name__ == "BasicLauncher")


@pytest.fixture
def copies(basic: type[Launcher], monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What a launcher calls as in other processes: a copy of what Hydra was given."""
    launch, made = basic.launch, []

    def on_a_copy(self, jobs, initial_job_idx):  # type: ignore[no-untyped-def]
        self.task_function = pickle.loads(pickle.dumps(self.task_function))
        made.append(self.task_function)
        return launch(self, jobs, initial_job_idx)

    monkeypatch.setattr(basic, "launch", on_a_copy)
    return made


def test_the_last_lines_name_the_failed_jobs_of_any_launcher(
    command: Command, copies: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("seed=1,13,14,x", "adapter.num_tokens=8", "hydra.sweep.dir=runs/seeds")
    assert command("-m", *given) == 1  # the number of tokens is every job's, and not repeated
    assert capsys.readouterr().err.splitlines() == [
        "Error: 3 of the sweep's jobs failed (see error.txt):",
        "  runs/seeds/1 (seed=13): seed=13: unlucky. Take another.",
        "  runs/seeds/2 (seed=14): RuntimeError: a bug",
        "  runs/seeds/3 (seed=x): The configuration has a problem: seed=x (str): expected int.",
    ]
    assert copies
    states = [json.loads(Path(f"runs/seeds/{n}/job.json").read_text()) for n in range(4)]
    assert [job["state"] for job in states] == ["done", "failed", "failed", "failed"]


def test_a_message_of_several_lines_is_one(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("-m", "seed=x,1", "trainer.max_steps=ten") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[1].endswith("max_steps=ten (str): expected int. seed=x (str): expected int.")


def test_a_job_that_was_refused_can_be_mended_in_its_place(
    command: Command, tasks: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("-m", "seed=1,x", "hydra.sweep.dir=runs/seeds") == 1
    assert command("-m", "seed=1,2", "hydra.sweep.dir=runs/seeds") == 0
    assert not Path("runs/seeds/1/error.txt").exists()
    assert OmegaConf.load("runs/seeds/1/overrides.yaml") == ["seed=2"]


@pytest.mark.sweeps
def test_what_failed_under_an_earlier_command_is_not_this_ones(
    command: Command, tasks: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {"t2i": {"reranked": {"recall@1": {"value": 51.5}}, "first_stage": {}}}

    def finishing(cfg: DictConfig, folder: Path) -> float:
        if cfg.seed == 13:
            raise EdjeError("unlucky")
        (folder / "metrics.json").write_text(json.dumps(figures))
        return 51.5

    monkeypatch.setattr(sys.modules[root.TASKS["run"]], "run", finishing)
    assert command("-m", "seed=1,2,13", "hydra.sweep.dir=runs/seeds") == 1
    assert command("-m", "seed=1,2", "hydra.sweep.dir=runs/seeds") == 0
    assert command("-m", "seed=1,3", "hydra.sweep.dir=runs/seeds") == 1  # 1/ has seed=2
    assert command("-m", "seed=1,2", "hydra.sweep.dir=runs/seeds") == 0
    assert not Path("runs/seeds/1/error.txt").exists()


@pytest.mark.sweeps
def test_many_jobs_with_one_message_are_told_in_few_lines(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = ",".join(["13"] * 8)
    assert command("-m", f"seed={seeds}", "hydra.sweep.dir=runs/seeds") == 1
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith("Error: 8 of the sweep's jobs failed") and len(rest) == 6
    assert rest[4].startswith("  runs/seeds/4") and rest[5].startswith("  and 3 more: seed=13: unl")


def test_a_job_of_another_configuration_is_not_skipped_but_told_in_what_it_differs(
    command: Command, tasks: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {"t2i": {"reranked": {"recall@1": {"value": 51.5}}, "first_stage": {}}}
    assert command("-m", "seed=1,2", "hydra.sweep.dir=runs/seeds") == 0
    for job in "01":
        Path(f"runs/seeds/{job}/metrics.json").write_text(json.dumps(figures))
    capsys.readouterr()
    stored = Path("runs/seeds/0/config.yaml")  # as of an earlier version, with other curves
    values, comments = stored.read_text().split("#", 1)
    earlier = yaml.safe_load(values)
    earlier["adapter"]["more"], earlier["logger"] = None, {"_target_": "lightning.CSVLogger"}
    stored.write_text(f"{yaml.safe_dump(earlier)}#{comments}")
    assert command("-m", "seed=1,2", "hydra.sweep.dir=runs/seeds") == 0 and len(tasks) == 2
    capsys.readouterr()
    changes = ("adapter.num_tokens=16", "trainer.max_steps=9")
    assert command("-m", "seed=1,2", "hydra.sweep.dir=runs/seeds", *changes) == 1
    said = capsys.readouterr().err
    assert "with adapter.num_tokens=4 where this job has adapter.num_tokens=16 (and 1 m" in said
    assert "hydra.sweep.dir=<folder> or name=<name>" in said
    assert len(tasks) == 2
    for job in "01":  # what is there stays as it was
        folder = Path(f"runs/seeds/{job}")
        record = json.loads((folder / "job.json").read_text())
        assert record == {"overrides": [f"seed={int(job) + 1}"], "state": "done"}
        assert not (folder / "error.txt").exists()
    assert command("-m", "seed=x", "hydra.sweep.dir=runs/seeds") == 1
    assert "seed=x (str): expected int" in capsys.readouterr().err
    assert not Path("runs/seeds/0/error.txt").exists()
    assert command("-m", "seed=1,2", "hydra.sweep.dir=runs/seeds") == 0


@pytest.mark.sweeps
def test_what_the_command_line_sweeps_takes_the_place_of_a_files_values(
    command: Command, conf: Path, tasks: Calls
) -> None:
    text = (ROOT / "conf" / "sweep" / "tokens.yaml").read_text()
    write_yaml(conf / "sweep" / "tokens.yaml", text)
    assert command("+sweep=tokens", "adapter.num_tokens=32") == 0
    assert command("-m", "+sweep=tokens", "adapter.num_tokens=32,64", "seed=5,6") == 1  # 0/: seed 0
    assert command("-m", "+sweep=tokens", "adapter.num_tokens=32,64", "seed=0,6", "name=x") == 0
    done = [(folder.parts[-3:], cfg.seed, cfg.adapter.num_tokens) for cfg, folder in tasks]
    assert done[0] == (("shapes", "tokens", "0"), 0, 32)
    assert done[-4:] == [
        (("x", "tokens", "0"), 0, 32),
        (("x", "tokens", "1"), 0, 64),
        (("x", "tokens", "2"), 6, 32),
        (("x", "tokens", "3"), 6, 64),
    ]


def test_what_ends_the_launcher_itself_is_told_after_its_failed_jobs(
    command: Command,
    basic: type[Launcher],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    launch = basic.launch

    def dying(self, jobs, initial_job_idx):  # type: ignore[no-untyped-def]
        launch(self, jobs, initial_job_idx)
        path = Path("runs/seeds/0/job.json")  # as a job that was killed leaves it
        path.write_text(json.dumps({"overrides": ["seed=1"], "state": "running"}))
        raise RuntimeError("a worker was\nkilled")

    monkeypatch.setattr(basic, "launch", dying)
    assert command("-m", "seed=1,13,2", "hydra.sweep.dir=runs/seeds") == 1
    first, killed, failed, end = capsys.readouterr().err.splitlines()
    assert first == "Error: 2 of the sweep's jobs failed (see error.txt):"
    assert killed.startswith("  runs/seeds/0 (seed=1): it stopped before its end")
    assert failed == "  runs/seeds/1 (seed=13): seed=13: unlucky. Take another."
    assert end == "The sweep was ended: RuntimeError: a worker was killed"


@pytest.mark.parametrize("damaged", ['{"overrides": ["seed', "[]", '{"state": "done"}'])
def test_a_damaged_record_of_a_job_is_named_and_written_anew(
    command: Command,
    basic: type[Launcher],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damaged: str,
) -> None:
    launch = basic.launch

    def damaging(self, jobs, initial_job_idx):  # type: ignore[no-untyped-def]
        done = launch(self, jobs, initial_job_idx)
        Path("runs/seeds/0/job.json").write_text(damaged)
        return done

    with monkeypatch.context() as patched:
        patched.setattr(basic, "launch", damaging)
        given = ("seed=1,13,2", "trainer.max_steps=9", "hydra.sweep.dir=runs/seeds")
        assert command("-m", *given) == 1
    _, first, failed = capsys.readouterr().err.splitlines()
    assert first.startswith("  runs/seeds/0: job.json can't be read (")
    assert first.endswith("The sweep's command, given again, writes it anew.")
    assert failed == "  runs/seeds/1 (seed=13): seed=13: unlucky. Take another."
    assert command("-m", *given) == 1
    assert "runs/seeds/0" not in capsys.readouterr().err
    assert json.loads(Path("runs/seeds/0/job.json").read_text())["state"] == "done"


def test_an_interruption_reaches_another_process_as_it_is() -> None:
    error = pickle.loads(pickle.dumps(StoppedError(TrainingInterrupted(15, "python run.py"))))
    assert error.interruption.exit_status == 128 + 15
    assert error.interruption.resume_command == "python run.py"
    assert str(error.interruption) == str(TrainingInterrupted(15, "python run.py"))


def test_jobs_of_several_experiments_lie_in_one_sweep_folder(
    command: Command, conf: Path, tasks: Calls
) -> None:
    write_yaml(conf / "experiment" / "small.yaml", "# @package _global_\nname: small\n")
    assert command("-m", "experiment=bigger,small") == 0
    assert [cfg.name for cfg, _ in tasks] == ["bigger", "small"]
    assert [folder.name for _, folder in tasks] == ["0", "1"]
    assert len({folder.parent for _, folder in tasks}) == 1


def test_the_extra_for_sweeps_has_the_launchers_of_one_machine_and_of_slurm() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {line.partition(">")[0] for line in extras["optional-dependencies"]["sweep"]}
    assert {PLUGINS["joblib"], PLUGINS["submitit_local"], PLUGINS["submitit_slurm"]} <= named


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm"])
def test_a_sweep_file_with_a_launcher_that_is_not_installed_names_the_package(
    command: Command, conf: Path, bare: None, capsys: pytest.CaptureFixture[str], launcher: str
) -> None:
    package = PLUGINS[launcher]
    text = f"# @package _global_\ndefaults:\n  - override /hydra/launcher: {launcher}\n"
    write_yaml(conf / "sweep" / "parallel.yaml", text)
    assert command("-m", "+sweep=parallel", "seed=1,2") == 1
    assert f"is not installed. pip install {package}." in capsys.readouterr().err


def test_a_launcher_with_a_shorter_name_is_guessed(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("-m", "hydra/launcher=submitit", "seed=1,2") == 1
    assert "Did you mean hydra/launcher=submitit_" in capsys.readouterr().err


@pytest.mark.clusters
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_in_processes_of_a_launcher_fail_as_loudly(tmp_path: Path, launcher: str) -> None:
    world = with_changes(make_world(tmp_path), "trainer.max_steps=1", "loader.batch_size=1000,8")
    arguments = ["-m", *world, f"hydra/launcher={launcher}"]
    result = subprocess.run(
        [sys.executable, "run.py", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1
    first, job = result.stderr.splitlines()[-2:]
    assert first == "Error: 1 of the sweep's jobs failed (see error.txt):"
    assert f"{tmp_path.name}/sweep/0 (" in job and "loader.batch_size=1000" in job
    assert sorted(load_runs(tmp_path / "sweep")["status"]) == ["done", "failed"]


@pytest.mark.clusters
def test_eight_jobs_at_once_write_a_shared_cache_once(tmp_path: Path) -> None:
    world = with_changes(make_world(tmp_path), "trainer.max_steps=1", "seed=0,1,2,3,4,5,6,7")
    side_by_side = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=8"]
    done = subprocess.run(
        [sys.executable, "run.py", "-m", *world, *side_by_side],
        **{"cwd": ROOT, "capture_output": True, "text": True},
    )
    assert done.returncode == 0, done.stderr
    for store in ("vision tokens of train", "vision tokens of val", "captions of train"):
        assert done.stderr.count(f"{store}:   0%") == 1, store
    assert list(load_runs(tmp_path / "sweep")["status"]) == ["done"] * 8
