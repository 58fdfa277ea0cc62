import json
import os
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from edje.command import OF_AN_INDEX
from edje.config import root
from edje.errors import TrainingInterrupted
from edje.parallel.slurm import TimeLimit
from tests.tiny.project import write_yaml

Command = Callable[..., int]
Calls = list[tuple[DictConfig, Path]]


def test_a_run_leaves_its_resolved_configuration_in_its_folder_and_prints_the_folder(
    command: Command, tasks: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("adapter.num_tokens=8") == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    assert folder.parts[:2] == ("runs", "shapes")
    config = OmegaConf.load(folder / "config.yaml")
    assert config.adapter.num_tokens == 8
    assert config.backbone.vision.checkpoint == "here.pt"
    assert "${" not in OmegaConf.to_yaml(config)
    assert OmegaConf.load(folder / "overrides.yaml") == ["adapter.num_tokens=8"]
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["versions"]["torch"] and environment["cpu_count"] >= 1
    assert "working on seed 0" in (folder / "logs" / "run.log").read_text()
    assert tasks[0][1] == folder.absolute()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["adapter.num_token=8"], "adapter.num_token=8 is unknown: Adapter takes bias, dropout, "
         "num_tokens. Did you mean adapter.num_tokens?"),
        (["adapter=compresion"], "adapter=compresion: no such option. The options of adapter: "
         "compression, local. Did you mean adapter=compression?"),
        (["adaptor=local"], "adaptor=local is not a key of the configuration. "
         "Did you mean adapter?"),
        (["seed=abc"], "seed=abc (str): expected int."),
        (["seed=true"], "seed=true (bool): expected int."),
        (["trainer.max_steps=ten"], "trainer.max_steps=ten (str): expected int."),
        (["trainer.max_step=10"], "trainer.max_step=10 is unknown: Trainer takes no such "
         "argument. Did you mean trainer.max_steps?"),
        (["trainer.precision=bf16-mixt"], "Did you mean bf16-mixed?"),
        (["objective=[matching,recovry]"], "objective=recovry: no such option. The options of "
         "objective: matching, recovery. Did you mean objective=recovery?"),
        (["objective.recovry.weight=2"], "objective.recovry is not a term: objective has matching, "
         "recovery. Did you mean objective.recovery?"),
        (["objective.recovery.weight=two"], "objective.recovery.weight=two (str): expected float."),
        (["objective.recovery.form=softmx"], "objective.recovery.form=softmx (str): expected one "
         "of softmax, binary. Did you mean softmax?"),
        (["experiment=biger"], "experiment=biger: no such option. The options of experiment: "
         "bigger. Did you mean experiment=bigger?"),
        (["task=trian"], "task=trian (str): expected one of run, cache, train, evaluate, "
         "compress, verify, benchmark, plan, index, serve. Did you mean train?"),
        (["adapter.width=3"], "adapter.width=3 can't be set: the run itself supplies it"),
        (["backbone.vision.mean=[1]"], "expected list [float, float]."),
        (["data=photos"], "data.root has no value yet (???). Give it on the command line: "
         "data.root=<value>."),
        (["seed=1,2"], "seed=1,2 gives several values: add -m"),
        (["name=a=b"], "Can't read the override 'name=a=b'"),
        (["data.root="], "data.root= has no value: expected a path. Give it, or leave data.root"),
        (["task=evaluate", "checkpoint=''"], "checkpoint= has no value: expected a path."),
        (["resume="], "the current folder is a dot: resume=."),
        (["name=../x"], "name=../x: expected a folder's name, for runs/<name>/."),
        (["scoring=null"], "A group has no option"),
        (["adapter._target_=edje.sample_parts.Adaptor"],
         "edje.sample_parts has no Adaptor. Did you mean edje.sample_parts.Adapter?"),
        (["adapter._target_=edje.sample_part.Adapter"],
         "there is no module edje.sample_part. Did you mean edje.sample_parts.Adapter?"),
        (["trainer._target_=lightning.Trainr"], "lightning has no Trainr."),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_message(
    command: Command,
    tasks: Calls,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    assert command(*arguments) == 1
    captured = capsys.readouterr()
    assert expected in captured.err
    assert "Traceback" not in captured.err + captured.out
    assert not tasks
    assert not list(Path("runs").rglob("*.*")) or not any(
        path.is_file() for path in Path("runs").rglob("*")
    )


def test_all_mistakes_are_told_at_once(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("seed=x", "trainer.max_steps=ten", "adapter.num_token=8", "evalution.k=3") == 1
    error = capsys.readouterr().err
    assert "4 problems" in error
    for key in ("seed=x", "trainer.max_steps=ten", "adapter.num_token=8", "evalution"):
        assert f"\n  {key}" in error


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nam: x", "nam=x is not a key of the configuration. Did you mean name?"),
        ("adapter:\n  num_token: 3", "Did you mean adapter.num_tokens?"),
        ("seed: many", "seed=many (str): expected int."),
        ("objective:\n  matching:\n    wieght: 1", "Did you mean objective.matching.weight?"),
        ("data:\n  sizes: {val: few}", "expected mapping of str to int or null."),
        ("defaults:\n  - override /adapter: lokal", "Did you mean adapter=local?"),
        ("defaults:\n  - override /adaptor: local", "Did you mean adapter?"),
        ("seed: [1", "bad.yaml, line"),
        ("cache_dir: ${nam}", "cache_dir=${nam} can't be resolved"),
    ],
)
def test_mistakes_in_an_experiment_file_are_found(
    command: Command, conf: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    write_yaml(conf / "experiment" / "bad.yaml", f"# @package _global_\n{text}\n")
    assert command("experiment=bad") == 1
    error = capsys.readouterr().err
    assert expected in error and "Traceback" not in error


def test_what_the_yaml_leaves_out_can_be_set_when_the_constructor_takes_it(
    command: Command, tasks: Calls
) -> None:
    assert command("adapter.dropout=0.5", "objective.recovery=null") == 0
    assert tasks[0][0].adapter.dropout == 0.5


def test_an_experiment_wins_over_the_root_file_and_the_command_line_over_both(
    command: Command, tasks: Calls
) -> None:
    assert command("experiment=bigger", "adapter.num_tokens=2") == 0
    cfg, folder = tasks[0]
    assert (cfg.name, cfg.seed, cfg.adapter.num_tokens) == ("bigger", 7, 2)
    assert folder.parent.name == "bigger"


def test_a_sweep_makes_a_folder_per_job_and_goes_on_after_failures(
    command: Command, tasks: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("-m", "seed=1,13,14,x,2") == 1
    assert [cfg.seed for cfg, _ in tasks] == [1, 13, 14, 2]
    (sweep,) = Path("runs/shapes").iterdir()
    assert sweep.name.startswith("sweep_")
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == list("01234")
    assert (sweep / "1" / "error.txt").read_text() == "seed=13: unlucky. Take another.\n"
    assert "Traceback" in (sweep / "2" / "error.txt").read_text()
    assert "seed=x (str): expected int." in (sweep / "3" / "error.txt").read_text()
    assert not (sweep / "0" / "error.txt").exists() and (sweep / "4" / "config.yaml").exists()
    error = capsys.readouterr().err
    assert "3 of the sweep's jobs failed" in error and "RuntimeError: a bug" in error
    assert "Traceback" not in error


def test_four_jobs_make_four_folders(command: Command, tasks: Calls) -> None:
    assert command("-m", "adapter.num_tokens=4,8", "seed=0,1") == 0
    assert len({folder for _, folder in tasks}) == 4
    assert {(cfg.adapter.num_tokens, cfg.seed) for cfg, _ in tasks} == {
        (4, 0), (4, 1), (8, 0), (8, 1)
    }  # fmt: skip


def test_a_sweep_can_be_a_file(command: Command, conf: Path, tasks: Calls) -> None:
    write_yaml(
        conf / "sweep" / "tokens.yaml",
        """
        # @package _global_
        hydra:
          mode: MULTIRUN
          sweeper:
            params:
              adapter.num_tokens: 4,8
        """,
    )
    assert command("+sweep=tokens") == 0
    assert [cfg.adapter.num_tokens for cfg, _ in tasks] == [4, 8]


def test_a_misspelt_key_in_a_sweep_file_is_found(
    command: Command, conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_yaml(
        conf / "sweep" / "wrong.yaml",
        """
        # @package _global_
        hydra: {mode: MULTIRUN, sweeper: {params: {adapter.num_token: "4,8"}}}
        """,
    )
    assert command("+sweep=wrong") == 1
    assert (
        "adapter.num_token is not a key of the configuration. Did you mean adapter.num_tokens?"
        in (capsys.readouterr().err)
    )


def test_a_run_folder_that_cannot_be_made_is_a_clear_message(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("runs").write_text("in the way")
    assert command() == 1
    assert "Can't write the run folder" in capsys.readouterr().err


def test_an_optimising_sweeper_gets_the_figure_or_nan(
    command: Command, launcher: type[Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    launch = launcher.launch

    def noting(self, jobs, initial_job_idx):  # type: ignore[no-untyped-def]
        results = launch(self, jobs, initial_job_idx)
        figures.extend(result.return_value for result in results)
        return results

    monkeypatch.setattr(launcher, "launch", noting)
    command("-m", "seed=5,13")
    assert figures[0] == 5.0 and figures[1] != figures[1]


def test_an_interrupted_training_ends_a_sweep_with_the_signals_status(
    command: Command,
    tasks: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(cfg: DictConfig, folder: Path) -> float:
        tasks.append((cfg, folder))
        raise TrainingInterrupted(15, f"python run.py resume={folder}")

    monkeypatch.setattr(sys.modules[root.TASKS["run"]], "run", interrupted)
    assert command("-m", "seed=1,2") == 128 + 15
    assert len(tasks) == 1
    assert "The same command continues the sweep." in capsys.readouterr().err
    assert command("seed=1") == 128 + 15
    assert "resume=" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_sweep_that_is_interrupted_says_so_of_its_job(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stop: type[BaseException],
) -> None:
    def interrupted(cfg: DictConfig, folder: Path) -> float:
        raise stop

    monkeypatch.setattr(sys.modules[root.TASKS["run"]], "run", interrupted)
    if stop is KeyboardInterrupt:
        assert command("-m", "seed=1,2", "hydra.sweep.dir=runs/seeds") == 130
        said = capsys.readouterr().err
        assert said.endswith("Interrupted. The same command continues the sweep.\n")
    else:
        with pytest.raises(SystemExit):
            command("-m", "seed=1,2", "hydra.sweep.dir=runs/seeds")
    told = json.loads(Path("runs/seeds/0/job.json").read_text())
    assert told == {"overrides": ["seed=1"], "state": "stopped", "message": "Interrupted."}


def test_the_flag_of_a_sweep_may_stand_anywhere(command: Command, tasks: Calls) -> None:
    for arguments in (("seed=1,2", "-m"), ("trainer.max_steps=3", "--multirun", "seed=1,2")):
        assert command(*arguments) == 0
    assert [cfg.seed for cfg, _ in tasks] == [1, 2, 1, 2]
    assert len({folder.parent for _, folder in tasks}) == 2  # also of sweeps of one second


def test_a_sweep_given_again_keeps_what_is_finished_and_goes_on_with_the_rest(
    command: Command,
    tasks: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ill = {2}  # the seed whose training is interrupted
    figures = {"t2i": {"reranked": {"recall@1": {"value": 51.5}}, "first_stage": {}}}

    def sometimes(cfg: DictConfig, folder: Path) -> float:
        tasks.append((cfg, folder))
        if cfg.seed in ill:
            raise TrainingInterrupted(15, f"python run.py resume={folder}")
        (folder / "metrics.json").write_text(json.dumps(figures))
        return 51.5

    monkeypatch.setattr(sys.modules[root.TASKS["run"]], "run", sometimes)
    sweep = ("-m", "seed=1,2,3", "hydra.sweep.dir=runs/seeds")
    assert command(*sweep) == 128 + 15
    assert [cfg.seed for cfg, _ in tasks] == [1, 2]
    ill.clear()
    capsys.readouterr()
    assert command(*sweep) == 0
    assert [cfg.seed for cfg, _ in tasks] == [1, 2, 2, 3]
    assert "runs/seeds/0: finished before" in capsys.readouterr().out
    assert len({folder for _, folder in tasks}) == 3
    assert Path("runs/seeds/1/environment.1.json").exists()  # of the second go


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A job of Slurm's: what scontrol is asked lies in this file."""
    asked = tmp_path / "asked"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >>{asked}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(scontrol.parent), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "70")
    monkeypatch.setattr(TimeLimit, "is_over", False)
    before = signal.getsignal(signal.SIGUSR1)
    yield asked
    signal.signal(signal.SIGUSR1, before)


def test_a_job_of_slurm_goes_on_in_its_folder_and_leaves_a_finished_one(
    command: Command,
    tasks: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    slurm: Path,
) -> None:
    def stopped_once(cfg: DictConfig, folder: Path) -> float:
        tasks.append((cfg, folder))
        if len(tasks) == 1:
            raise TrainingInterrupted(signal.SIGUSR1, f"python run.py resume={folder}")
        (folder / "metrics.json").write_text('{"t2i": {"first_stage": {"recall@1": {"value": 5}}}}')
        return 5.0

    monkeypatch.setattr(sys.modules[root.TASKS["run"]], "run", stopped_once)
    assert command("hydra.run.dir=runs/one") == 128 + signal.SIGUSR1
    assert slurm.read_text() == "requeue 70\n"
    assert "Slurm job 70: queued again" in capsys.readouterr().err
    assert command("hydra.run.dir=runs/one") == 0
    assert [folder.name for _, folder in tasks] == ["one", "one"]
    assert Path("runs/one/environment.1.json").exists()
    assert command("hydra.run.dir=runs/one") == 0  # the script's next run was stopped
    assert "runs/one: finished before" in capsys.readouterr().out and len(tasks) == 2
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    assert command("hydra.run.dir=runs/one") == 1
    assert "expected a new or empty one" in capsys.readouterr().err and len(tasks) == 2


def test_another_configuration_does_not_go_on_in_the_folder_of_a_job(
    command: Command, tasks: Calls, capsys: pytest.CaptureFixture[str], slurm: Path
) -> None:
    assert command("hydra.run.dir=runs/one") == 0
    assert command("hydra.run.dir=runs/one", "seed=5") == 1
    assert "expected a new or empty one" in capsys.readouterr().err and len(tasks) == 1


def test_the_signal_before_a_time_limit_ends_what_is_no_training_and_the_job_is_queued_again(
    command: Command, monkeypatch: pytest.MonkeyPatch, slurm: Path
) -> None:
    def preparing(cfg: DictConfig, folder: Path) -> float:
        os.kill(os.getpid(), signal.SIGUSR1)
        pytest.fail("it went on")

    monkeypatch.setattr(sys.modules[root.TASKS["run"]], "run", preparing)
    assert command("hydra.run.dir=runs/one") == 128 + signal.SIGUSR1
    assert slurm.read_text() == "requeue 70\n"


def test_a_step_of_slurm_names_its_run_folder(
    command: Command, tasks: Calls, monkeypatch: pytest.MonkeyPatch, slurm: Path
) -> None:
    """Two of one job are two runs; in a shell that srun has opened runs go by their time."""
    for number in "01":
        monkeypatch.setenv("SLURM_STEP_ID", number)
        assert command() == 0
    monkeypatch.setenv("SLURM_PTY_PORT", "40000")
    assert command() == 0
    names = [folder.name for _, folder in tasks]
    assert names[:2] == ["slurm_70.0", "slurm_70.1"] and names[2].startswith("20")


def test_a_sweep_into_the_folder_of_another_is_refused(
    command: Command, tasks: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("-m", "seed=1,2", "hydra.sweep.dir=runs/seeds") == 0
    assert command("-m", "seed=1,3,4", "hydra.sweep.dir=runs/seeds") == 1
    assert [cfg.seed for cfg, _ in tasks] == [1, 2, 1]  # the first has not finished: no metrics
    said = capsys.readouterr().err
    assert "The sweep was ended: Run folder" in said and "runs/seeds/1: it holds" in said
    assert not Path("runs/seeds/2").exists()  # no later job begins


def test_a_bug_shows_its_traceback_and_a_users_mistake_does_not(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        command("seed=14")
    assert command("seed=13") == 1
    assert capsys.readouterr().err == "Error: seed=13: unlucky. Take another.\n"
    monkeypatch.setenv("EDJE_DEBUG", "1")
    with pytest.raises(Exception, match="unlucky"):
        command("seed=13")


def test_help_explains_tasks_groups_and_root_keys(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command("--help")
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    lines = [line.split()[0] for line in out.splitlines() if line.split()]
    assert all(f"\n  edje {name} " in out for name in OF_AN_INDEX)
    for name in (*root.TASKS, *root.RootConfig.__dataclass_fields__):
        assert name in lines, f"--help has no line for {name}"


def test_a_folder_with_something_in_it_is_never_written_into(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine").mkdir()
    Path("mine/config.yaml").write_text("precious: true\n")
    assert command("hydra.run.dir=mine") == 1
    assert "mine" in capsys.readouterr().err
    assert [path.name for path in Path("mine").iterdir()] == ["config.yaml"]
    assert Path("mine/config.yaml").read_text() == "precious: true\n"


def test_hydra_s_option_whose_help_is_written_when_shown_is_accepted_as_before_python_3_14(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare, checked = ArgumentParser.add_argument, []

    def add_argument(parser: ArgumentParser, *names: str, **given: Any) -> Any:  # as since 3.14
        action = declare(parser, *names, **given)
        parser._check_help(action)  # type: ignore[attr-defined]
        return action

    monkeypatch.setattr(ArgumentParser, "_check_help", checked.append, raising=False)
    monkeypatch.setattr(ArgumentParser, "add_argument", add_argument)
    assert command("seed=3") == 0
    assert not checked
    ArgumentParser().add_argument("--other", help="checked again")
    assert checked
