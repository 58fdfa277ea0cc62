"""Claims about `hydra/sweeper=optuna`, through the command line and over tasks of no work."""

import importlib.util
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from edje.config import root
from edje.config.run_folder import figure_of
from edje.errors import EdjeError, TrainingInterrupted
from edje.installed import conf_folder
from edje.sweeps.optuna_sweeper import OptunaSweeper, warn_of_split
from tests.tiny.project import write_yaml

Command = Callable[..., int]
Calls = list[tuple[DictConfig, Path]]
Output = pytest.CaptureFixture[str]
FOLDER = Path("runs/found")
ASKED = ("-m", "hydra/sweeper=optuna", f"hydra.sweep.dir={FOLDER}")
WIDE = "optim.lr=tag(log, interval(1e-5, 1e-1))"

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="optuna is not installed: edje[sweep]"
)


@pytest.fixture(autouse=True)
def option(conf: Path) -> None:
    real = conf_folder() / "hydra" / "sweeper" / "optuna.yaml"
    write_yaml(conf / "hydra" / "sweeper" / "optuna.yaml", real.read_text())


@pytest.fixture
def measured(tasks: Calls, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Tasks whose figure is 50 less twice the distance of log10(lr) to -3, kept as runs keep it."""

    def run(cfg: DictConfig, folder: Path) -> float:
        tasks.append((cfg, folder))
        figure = 50 - 2 * abs(math.log10(cfg.optim.lr) + 3)
        stages = {"reranked": {"recall@1": {"value": figure}}, "first_stage": {}}
        (folder / "metrics.json").write_text(json.dumps({"t2i": stages}))
        return figure

    monkeypatch.setattr(sys.modules[root.TASKS["run"]], "run", run)
    return tasks


def rates(calls: Calls) -> list[float]:
    return [cfg.optim.lr for cfg, _ in calls]


def best_line(capsys: Output) -> str:
    """The line that the study ends with."""
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("Best of")]
    return line


@needs_optuna
def test_the_best_values_and_their_job_are_named_at_the_end(
    command: Command, measured: Calls, capsys: Output
) -> None:
    assert command(*ASKED, WIDE, "adapter.num_tokens=4,8", "hydra.sweeper.n_trials=4") == 0
    assert [folder for _, folder in measured] == [(FOLDER / str(n)).absolute() for n in range(4)]
    figures = [figure_of(FOLDER / str(n)) for n in range(4)]
    best = figures.index(max(figures))
    results = yaml.safe_load((FOLDER / "optimization_results.yaml").read_text())
    assert results == {
        "name": "optuna",
        "best_params": {"optim.lr": rates(measured)[best],
                        "adapter.num_tokens": measured[best][0].adapter.num_tokens},
        "best_value": figures[best],
        "best_run": f"runs/found/{best}",
    }  # fmt: skip
    said = best_line(capsys)
    assert said.startswith(f"Best of 4 trials: {figures[best]:.2f} with optim.lr=")
    assert said.endswith(f"(runs/found/{best})")


@pytest.mark.sweeps
@needs_optuna
def test_choices_ranges_and_groups_are_tried_with_values_of_their_type(
    command: Command, tasks: Calls
) -> None:
    swept = ("adapter=choice(compression,local)", "trainer.max_steps=range(2,9,3)", "seed=5")
    more = ("adapter.bias=true,false", "data.root='a b','c'", "hydra.sweeper.n_trials=5")
    assert command(*ASKED, *swept, *more) == 0
    assert {cfg.adapter.num_tokens for cfg, _ in tasks} == {4, 16}
    assert {cfg.trainer.max_steps for cfg, _ in tasks} <= {2, 5, 8}
    assert {cfg.adapter.bias for cfg, _ in tasks} == {True, False}
    assert {cfg.data.root for cfg, _ in tasks} == {"a b", "c"}
    assert {cfg.seed for cfg, _ in tasks} == {5}
    best = yaml.safe_load((FOLDER / "optimization_results.yaml").read_text())["best_params"]
    assert type(best["trainer.max_steps"]) is int and type(best["adapter.bias"]) is bool


@needs_optuna
def test_values_can_stand_in_a_file_and_the_command_line_wins(
    command: Command, conf: Path, measured: Calls
) -> None:
    write_yaml(
        conf / "sweep" / "rates.yaml",
        """
        # @package _global_
        defaults:
          - override /hydra/sweeper: optuna
        hydra:
          mode: MULTIRUN
          sweeper:
            n_trials: 3
            params: {optim.lr: "interval(1e-3, 1e-2)", adapter.num_tokens: "choice(4, 8)"}
        """,
    )
    assert command("+sweep=rates", "adapter.num_tokens=2") == 0
    assert {cfg.adapter.num_tokens for cfg, _ in measured} == {2}
    assert all(1e-3 <= rate <= 1e-2 for rate in rates(measured)) and len(set(rates(measured))) == 3


@pytest.mark.sweeps
@needs_optuna
def test_a_repeated_command_runs_nothing_and_a_greater_number_of_trials_goes_on(
    command: Command, measured: Calls, capsys: Output
) -> None:
    assert command(*ASKED, WIDE, "hydra.sweeper.n_trials=2") == 0
    said = best_line(capsys)
    assert command(*ASKED, WIDE, "hydra.sweeper.n_trials=2") == 0
    assert len(measured) == 2 and best_line(capsys) == said
    assert command(*ASKED, WIDE, "hydra.sweeper.n_trials=3") == 0
    assert [folder.name for _, folder in measured] == ["0", "1", "2"]


@pytest.mark.sweeps
@needs_optuna
def test_failed_jobs_are_told_as_failed_and_made_up_for_by_the_next_call(
    command: Command, tasks: Calls, capsys: Output
) -> None:
    asked = (*ASKED, "seed=choice(12,13,14,15)", "hydra.sweeper.n_trials=6")
    assert command(*asked) == 1
    failed = [cfg.seed for cfg, _ in tasks if cfg.seed in (13, 14)]
    assert len(tasks) == 6 and {13, 14} <= set(failed)
    captured = capsys.readouterr()
    assert f"{len(failed)} of the sweep's jobs failed" in captured.err
    assert f"Best of {6 - len(failed)} trials: 15.00 with seed=15" in captured.out
    command(*asked)
    assert len(tasks) == 6 + len(failed)
    assert len({folder for _, folder in tasks}) == len(tasks)


@pytest.mark.sweeps
@needs_optuna
def test_an_interrupted_job_goes_on_first_in_its_own_folder(
    command: Command, measured: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, run = sys.modules[root.TASKS["run"]], sys.modules[root.TASKS["run"]].run
    met = []

    def interrupted(cfg: DictConfig, folder: Path) -> float:
        if len(measured) == 1:
            met.append(cfg.optim.lr)
            raise TrainingInterrupted(15, f"python run.py resume={folder}")
        return run(cfg, folder)

    monkeypatch.setattr(task, "run", interrupted)
    assert command(*ASKED, WIDE, "hydra.sweeper.n_trials=3") == 128 + 15
    monkeypatch.setattr(task, "run", run)
    assert command(*ASKED, WIDE, "hydra.sweeper.n_trials=3") == 0
    assert [folder.name for _, folder in measured] == ["0", "1", "2"]
    assert rates(measured)[1:2] == met
    assert (FOLDER / "1" / "environment.1.json").exists()  # of the second go


@pytest.mark.sweeps
@needs_optuna
def test_a_study_killed_in_a_batch_goes_on_where_it_was(
    command: Command, measured: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, run = sys.modules[root.TASKS["run"]], sys.modules[root.TASKS["run"]].run

    def killed(cfg: DictConfig, folder: Path) -> float:
        if len(measured) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return run(cfg, folder)

    asked = (*ASKED, WIDE, "hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=2")
    monkeypatch.setattr(task, "run", killed)
    child = os.fork()
    if child == 0:
        os._exit(command(*asked))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    before = [figure_of(FOLDER / str(n)) for n in range(3)]
    monkeypatch.setattr(task, "run", run)
    assert command(*asked) == 0
    # Of the batch 2, 3 the first was finished: its figure is taken from its folder.
    assert [folder.name for _, folder in measured] == ["3", "4"]
    assert before == [figure_of(FOLDER / str(n)) for n in range(3)]
    assert {path.name for path in FOLDER.iterdir() if path.name.isdecimal()} == set("01234")


@needs_optuna
def test_batches_go_to_the_launcher_whole_and_what_it_says_of_a_lost_job_is_raised_at_the_end(
    command: Command,
    measured: Calls,
    launcher: type[Launcher],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Output,
) -> None:
    batches = []
    launch = launcher.launch

    def losing(self, jobs, initial_job_idx):  # type: ignore[no-untyped-def]
        batches.append((initial_job_idx, len(jobs)))
        results = launch(self, jobs, initial_job_idx)
        if initial_job_idx == 0:
            results[0].status, results[0].return_value = JobStatus.FAILED, EdjeError("node lost")
        return results

    monkeypatch.setattr(launcher, "launch", losing)
    assert command(*ASKED, WIDE, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2") == 1
    assert batches == [(0, 2), (2, 1)]
    captured = capsys.readouterr()
    assert "node lost" in captured.err and "Best of 2 trials" in captured.out


@needs_optuna
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["adapter.num_token=choice(4,8)"], "Did you mean adapter.num_tokens?"),
        (["adaptor=choice(local,compression)"], "Did you mean adapter?"),
        (["adapter=choice(local,compresion)"], "Did you mean adapter=compression?"),
        (["adapter.num_tokens=choice(4,8,many)"], "adapter.num_tokens=many (str): expected int."),
        (["hydra.sweeper.params={adapter.num_token: 'choice(4,8)'}"],
         "Did you mean adapter.num_tokens?"),
        (["seed=range(5,2)"], "seed=range(5,2): this range contains no number"),
        ([WIDE, "hydra.sweeper.n_trials=many"], "n_trials=many: expected int, 1 or more."),
        ([WIDE, "hydra.sweeper.sampler=tpi"], "one of tpe, random, gp. Did you mean tpe?"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_message_before_the_first_job(
    command: Command, tasks: Calls, capsys: Output, arguments: list[str], expected: str
) -> None:
    assert command(*ASKED, *arguments) == 1
    captured = capsys.readouterr()
    assert expected in captured.err
    assert "Traceback" not in captured.err + captured.out
    assert not tasks


@needs_optuna
@pytest.mark.parametrize(
    ("other", "named"),
    [
        (["optim.lr=interval(1e-5, 1e-1)"], "another optim.lr"),
        ([WIDE, "adapter.num_tokens=4,8"], "another adapter.num_tokens"),
        ([WIDE, "adapter.num_tokens=8"], "another adapter,"),
    ],
)
def test_another_study_in_the_same_folder_is_refused(
    command: Command, measured: Calls, capsys: Output, other: list[str], named: str
) -> None:
    assert command(*ASKED, WIDE, "hydra.sweeper.n_trials=1") == 0
    assert command(*ASKED, *other, "hydra.sweeper.n_trials=2") == 1
    assert named in capsys.readouterr().err
    assert len(measured) == 1


@needs_optuna
def test_a_study_that_chooses_on_the_reported_split_is_warned_of_once(
    command: Command, measured: Calls, capsys: Output
) -> None:
    assert command(*ASKED, WIDE, "data.split=test", "hydra.sweeper.n_trials=2") == 0
    assert capsys.readouterr().out.count("the study chooses by R@1 on split=test") == 1


@pytest.mark.parametrize(
    ("task", "dev_every", "data", "warns"),
    [
        ("run", 0, {"split": "test"}, True),
        ("run", 0, {"split": "val"}, False),
        ("run", 10, {"split": "test"}, False),
        ("evaluate", 10, {"split": "test"}, True),
        ("run", 0, {"evaluated": {"split": "test"}}, True),
    ],
)
def test_a_choice_on_val_or_on_images_held_back_is_no_reason_to_warn(
    task: str, dev_every: int, data: dict, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = {"task": task, "data": data, "scoring": {"dev_every": dev_every}}
    warn_of_split(OmegaConf.create(cfg))
    assert len(caplog.messages) == warns


@needs_optuna
def test_a_task_without_a_figure_is_told_at_its_first_job(
    command: Command, tasks: Calls, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr(sys.modules[root.TASKS["run"]], "run", lambda cfg, folder: None)
    assert command(*ASKED, WIDE) == 1
    assert "returned None, which is not a figure to optimise" in capsys.readouterr().err


@needs_optuna
def test_values_that_can_not_be_composed_end_the_command_and_are_not_met_again(
    command: Command, measured: Calls, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    def clash(self, batch):  # type: ignore[no-untyped-def]
        raise HydraException("these do not go together")

    asked = (*ASKED, WIDE, "hydra.sweeper.n_trials=1")
    with monkeypatch.context() as once:
        once.setattr(OptunaSweeper, "validate_batch_is_legal", clash)
        assert command(*asked) == 1
    assert "these do not go together" in capsys.readouterr().err and not measured
    assert command(*asked) == 0
    assert [folder.name for _, folder in measured] == ["1"]


def test_an_interval_without_the_sweeper_is_answered_with_it(
    command: Command, tasks: Calls, capsys: Output
) -> None:
    assert command("-m", WIDE) == 1
    assert "hydra/sweeper=optuna" in capsys.readouterr().err
    assert not tasks


def test_without_optuna_the_sweeper_is_answered_with_what_to_install(
    command: Command, tasks: Calls, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr("edje.sweeps.optuna_sweeper.find_spec", lambda name: None)
    assert command(*ASKED, WIDE) == 1
    expected = "hydra/sweeper=optuna: optuna is not installed. pip install 'edje[sweep]'."
    assert expected in capsys.readouterr().err
    assert not tasks
