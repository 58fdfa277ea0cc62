"""The command line: compose, validate, make the run folder, start the task.

Every user error ends here as one message; no code below prints it.
"""

import importlib
import logging
import os
import sys
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from edje.config.choices import check_choices
from edje.config.composition import explained, is_of_composing, own_words
from edje.config.continued import (
    TASKS_ON_CHECKPOINT,
    config_for_checkpoint,
    config_for_resume,
    resumable,
)
from edje.config.defaults import fill_defaults
from edje.config.locations import conf_folder, register_resolvers
from edje.config.of_checkpoint import packages_for
from edje.config.of_published import composition_for
from edje.config.overrides import (
    MULTIRUN,
    forced,
    quoted,
    readable,
    refuse_empty_paths,
    refuse_former_names,
    value_given,
)
from edje.config.parts import check_named_by_file, use_lasting_names
from edje.config.resolution import expand_home, fill_later
from edje.config.resumption import check_changes
from edje.config.root import TASKS
from edje.config.run_folder import (
    create_run_folder,
    figure_of,
    forget_failure,
    has_finished,
    holds_run_of,
    is_of_job,
    logging_into,
    record_failure,
    refuse_other_run,
)
from edje.config.saved import from_text
from edje.config.sweep_jobs import SweepJobs, SweepStart, is_of_another, one_line, record_job
from edje.config.terminal import draw_bars_rarely, stop_talking, use_plain_characters
from edje.config.validate import validate
from edje.errors import EdjeError, TrainingInterrupted
from edje.parallel.environment import RUN_FOLDER, Launched, joined_run, launched, own_rank
from edje.parallel.slurm import TIME_IS_OVER, TimeLimit, job, requeue
from edje.sweeps.optuna_sweeper import register_sweeper

log = logging.getLogger(__name__)
SHARED_TASKS = ("run", "train", "cache", "compress")  # run by all ranks
HELPED_TASKS = ("evaluate",)  # rank 0 runs it, the others help; other tasks it runs alone
SWEEP_REPORT = "edje.tasks.sweep_report"  # imported only when a sweep has something to report
MOST_TOLD = 5  # failed jobs with the same message
GRACE_SECONDS = 2.0  # a rank waits this long after a failure: rank 0, if it failed too, ends it


def main() -> int:
    """Run the command line; returns the exit status."""
    asking = ["EDJE_DEBUG"]
    if RUN_FOLDER not in os.environ:  # else rank 0 has set it, for Hydra
        asking.append("HYDRA_FULL_ERROR")
    debug = "1" in map(os.environ.get, asking)
    use_plain_characters()
    draw_bars_rarely()
    TimeLimit.heed(own_rank())
    try:
        folder, process = joined_run(), launched()
        if process is not None and process.rank > 0:
            folder = named_run(process)
        elif folder is None:
            try:
                run(sys.argv[1:])
            finally:
                release_others(has_failed=sys.exc_info()[0] is not None)
        if folder is not None:
            take_part(folder)
    except StoppedError as stopped:
        of_a_sweep = "Interrupted; a checkpoint is written. The same command continues the sweep."
        sys.stderr.write(f"{stopped.interruption if SweepStart.begun is None else of_a_sweep}\n")
        if stopped.interruption.signal_number == TIME_IS_OVER:
            ask_for_more_time()
        return stopped.interruption.exit_status
    except EdjeError as error:
        if debug:
            raise
        sys.stderr.write(f"Error: {error}\n")
        return 1
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns the former into the latter
        if TimeLimit.is_over:
            sys.stderr.write("The job's time is over; what is finished is kept.\n")
            ask_for_more_time()
            return 128 + TIME_IS_OVER
        if isinstance(stop, SystemExit):
            raise
        again = "" if SweepStart.begun is None else " The same command continues the sweep."
        sys.stderr.write(f"Interrupted.{again}\n")
        return 130
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe, like `| head`
        stop_talking()
    return 0


def ask_for_more_time() -> None:
    """Ask Slurm to requeue this job, which then continues where it stopped."""
    if said := requeue():
        sys.stderr.write(f"{said}\n")


def run(arguments: list[str]) -> None:
    """Compose and run one job, or the jobs of a sweep.

    Raises:
        EdjeError: a user error, or failed jobs of a sweep.
        StoppedError: a signal ended the training.
    """
    register_resolvers()
    register_sweeper(checked)
    conf = conf_folder()
    refuse_former_names(arguments)
    refuse_empty_paths(arguments)
    if launched() is not None and MULTIRUN & set(arguments):
        raise EdjeError(
            "-m: a sweep starts its jobs itself, but a launcher has started several processes of "
            "it. Start a sweep as one process, or give single runs to the launcher."
        )
    job, SweepStart.begun = Job(), None
    command = hydra.main(version_base="1.3", config_path=str(conf), config_name="run")(job)
    with hydra_arguments(prepared(forced(readable(arguments), conf))):
        try:
            command()
        except BrokenPipeError:  # while Hydra prints, like `--help | head`
            stop_talking()
        except RefusedError as refused:
            raise ended(SweepStart.begun, refused.error, conf) from refused
        except Exception as error:  # from composing or a launcher: a job stores its own
            raise ended(SweepStart.begun, error, conf) from error
    if SweepStart.begun is not None:
        end_sweep(SweepStart.begun)
    elif job.failure is not None:
        raise job.failure


def named_run(process: Launched) -> Path | None:
    """The run folder that rank 0 of the launcher's processes announces; None if there is none.

    Raises:
        EdjeError: as `edje.parallel.agreement.hear`.
    """
    from edje.parallel.agreement import hear  # imports torch

    return hear(process)


def tell_others(
    folder: Path | None, cfg: DictConfig | None = None, *, has_failed: bool = False
) -> None:
    """Announce the run folder, once, to the processes that a launcher started with this one.

    If only rank 0 runs the task, they hear that there is no folder, and exit.

    Raises:
        EdjeError: as `edje.parallel.agreement.tell`.
    """
    process = launched()
    if process is None or Job.has_told:
        return
    from edje.parallel.agreement import tell  # imports torch

    Job.has_told = True
    if cfg is None or cfg.task not in (*SHARED_TASKS, *HELPED_TASKS):
        tell(process, None, has_failed=has_failed)
    else:
        tell(process, folder, Path(cfg.cache_dir))


def release_others(*, has_failed: bool) -> None:
    """Let the launcher's other processes exit, whether they know a run folder or not.

    Raises:
        EdjeError: as `tell_others`.
    """
    process = launched()
    if process is None:
        return
    from edje.parallel.agreement import named_folder  # imports torch
    from edje.parallel.helping import dismiss

    if named_folder() is None:
        tell_others(None, has_failed=has_failed)
    else:
        dismiss(process, wait=not has_failed)


def take_part(folder: Path) -> None:
    """Run the task of a run folder as a rank other than 0; rank 0 prints all that is printed.

    A launcher's process then helps rank 0 with the work that rank 0 does alone. The folder's
    configuration is the one that rank 0 has just checked and written.

    Raises:
        Exception: this rank failed and rank 0 didn't; error_rank_<rank>.txt records it too.
    """
    register_resolvers()
    path = folder / "config.yaml"
    cfg = from_text(path.read_text("utf-8"), str(path))
    try:
        if cfg.task in SHARED_TASKS:
            importlib.import_module(TASKS[cfg.task]).run(cfg, folder)
        if (process := launched()) is not None:
            from edje.parallel.helping import help_rank_0  # imports torch

            help_rank_0(process)
    except TrainingInterrupted:
        return
    except Exception as wrapped:
        error = own_words(wrapped)
        if (process := launched()) is not None:
            from edje.parallel.agreement import tell_failure  # imports torch

            tell_failure(process, error)
        time.sleep(GRACE_SECONDS)
        record_failure(folder, error, f"error_rank_{own_rank()}.txt")
        if error is wrapped:
            raise
        raise error from wrapped


def prepared(arguments: list[str]) -> list[str]:
    """The arguments, plus the run folder and options from a resumed run or a checkpoint.

    Hydra takes no override after a flag, so -m comes first.
    """
    arguments = sorted(arguments, key=lambda argument: argument not in MULTIRUN)
    resume = value_given(arguments, "resume")
    if resume not in (None, "null"):
        if MULTIRUN & set(arguments):
            raise EdjeError(f"resume={resume}: one run is resumed at a time; leave out -m.")
        return [*arguments, f"hydra.run.dir={quoted(str(resumable(Path(resume))))}"]
    if value_given(arguments, "task") in TASKS_ON_CHECKPOINT:
        return [*arguments, *composition_for(arguments)]
    return arguments


def ended(sweep: SweepJobs | None, error: Exception, conf: Path) -> EdjeError:
    """The error that ended Hydra, preceded by the failed jobs of its sweep, if any."""
    if sweep is None or is_of_composing(error):
        told = explained(error, conf)
    else:
        told = EdjeError(f"The sweep was ended: {one_line(error)}")
    try:
        if sweep is not None and sweep.has_jobs():
            end_sweep(sweep)
    except EdjeError as failures:
        return EdjeError(f"{failures}\n{told}")
    return told


def end_sweep(sweep: SweepJobs) -> None:
    """Show a sweep's table, then its failed jobs, one line each; few of many with one message.

    Raises:
        EdjeError: a job failed.
    """
    importlib.import_module(SWEEP_REPORT).report(sweep.folder)
    jobs = sweep.unfinished()
    told = Counter[str]()
    lines = ""
    for failed in jobs:
        told[failed.message] += 1
        if told[failed.message] <= MOST_TOLD:
            lines += f"\n  {failed}"
    for message, count in told.items():
        if count > MOST_TOLD:
            lines += f"\n  and {count - MOST_TOLD} more: {message}"
    if jobs:
        raise EdjeError(f"{len(jobs)} of the sweep's jobs failed (see error.txt):{lines}")


class StoppedError(BaseException):
    """Carries an interrupted training past Hydra's job runner, which catches any Exception."""

    def __init__(self, interruption: TrainingInterrupted):
        super().__init__(interruption)  # pickling to another process uses it
        self.interruption = interruption


class RefusedError(BaseException):
    """Carries the refusal of a sweep's job past Hydra, which would go on with the other jobs."""

    def __init__(self, error: Exception):
        super().__init__(error)
        self.error = error


class Job:
    """What Hydra calls for each composed configuration; a sweep may run it in any process.

    A sweep's job leaves its result in its folder; for a single run, `failure` is kept here.
    """

    has_told = False  # whether the launcher's other ranks know this run's folder

    def __init__(self) -> None:
        self.failure: Exception | None = None

    def __call__(self, cfg: DictConfig) -> float | None:
        """Run the task on a checked configuration: returns the sweep's figure, nan if it failed."""
        register_resolvers()  # for processes that a launcher started
        hydra_cfg = HydraConfig.get()
        with reported(hydra_cfg):
            is_sweep = hydra_cfg.mode == RunMode.MULTIRUN
            folder = Path(hydra_cfg.runtime.output_dir)
            overrides = [override.removeprefix("++") for override in hydra_cfg.overrides.task]
            is_ours = is_sweep and not is_of_another(folder, overrides)  # may be written to
            try:
                cfg = checked(cfg, overrides, folder)
                again = may_go_on(is_sweep) and holds_run_of(cfg, folder)
                if again and has_finished(cfg, folder):
                    if is_sweep or is_of_job(folder, job()):
                        log.info("%s: finished before", os.path.relpath(folder))
                        if is_sweep:
                            forget_failure(folder)
                            record_job(folder, overrides, "done")
                        return figure_of(folder)
                    again = False  # so the folder is refused
                if is_sweep and not again:
                    is_ours = False
                    refuse_other_run(cfg, folder)
                    is_ours = True
                create_run_folder(cfg, overrides, folder, resumed=again or cfg.resume is not None)
                is_ours = True
                tell_others(folder, cfg)
                if is_sweep:
                    record_job(folder, overrides, "running")
                with logging_into(folder):
                    figure: float | None = importlib.import_module(TASKS[cfg.task]).run(cfg, folder)
            except TrainingInterrupted as interruption:
                if is_sweep:
                    record_job(folder, overrides, "stopped", interruption)
                raise StoppedError(interruption) from interruption
            except (KeyboardInterrupt, SystemExit):
                if is_sweep and is_ours:
                    record_job(folder, overrides, "stopped", EdjeError("Interrupted."))
                raise
            except Exception as wrapped:
                error = own_words(wrapped)
                if is_ours:
                    record_failure(folder, error)
                elif is_sweep:
                    raise RefusedError(error) from wrapped
                if is_sweep:
                    record_job(folder, overrides, "failed", error)
                    report = os.path.relpath(folder / "error.txt")
                    log.error("Failed: %s (see %s)", one_line(error), report)
                    return float("nan")
                self.failure = error
                if not any(folder.iterdir()):
                    folder.rmdir()
                return float("nan")
            if is_sweep:
                record_job(folder, overrides, "done")
            log.info("%s", os.path.relpath(folder))
            return figure


@contextmanager
def reported(hydra_cfg: HydraConf) -> Iterator[None]:
    """Update the sweep's files after the block, if it ran a job of a sweep."""
    yield
    if hydra_cfg.mode == RunMode.MULTIRUN:
        importlib.import_module(SWEEP_REPORT).update(Path(hydra_cfg.sweep.dir))


def may_go_on(is_sweep: bool) -> bool:
    """Whether repeating an unfinished run's command continues that run in its folder.

    It does for a sweep's jobs and for launchers and schedulers, which can't change a command.
    """
    return is_sweep or launched() is not None or job() is not None


def checked(cfg: DictConfig, overrides: list[str], folder: Path) -> DictConfig:
    """The configuration that the run uses, checked as a whole."""
    expand_home(cfg)
    if cfg.task == "plan":
        fill_later(cfg)
    present = cfg
    if cfg.resume is not None:
        if resumable(Path(cfg.resume)) != folder.resolve():
            raise EdjeError(f"resume={cfg.resume}: this only works on the command line.")
        cfg = config_for_resume(cfg, overrides)
    elif cfg.task in TASKS_ON_CHECKPOINT:
        cfg = config_for_checkpoint(cfg, overrides)
    if cfg is not present:
        key = "checkpoint" if cfg.resume is None else "resume"
        given = str(cfg[key])
        check_named_by_file(cfg, present, f"{key}={given}", lambda: packages_for(given))
    validate(cfg)
    fill_defaults(cfg)
    use_lasting_names(cfg)
    check_choices(cfg)
    if cfg.resume is not None:
        check_changes(cfg, folder)
    return cfg


@contextmanager
def hydra_arguments(arguments: list[str]) -> Iterator[None]:
    """Make Hydra read these arguments and raise its errors instead of printing them.

    Python 3.14 checks an option's help when it is declared. One of Hydra's (1.3.8) is written only
    when it is shown, and fails the check.
    """
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [argv[0], *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with patch.object(ArgumentParser, "_check_help", lambda *given: None, create=True):
            yield
    finally:
        sys.argv = argv
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


if __name__ == "__main__":
    from edje import cli  # the module under its own name, which Hydra records

    sys.exit(cli.main())
