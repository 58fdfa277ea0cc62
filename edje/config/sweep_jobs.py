"""The jobs of a sweep: each records its state in its folder, in whatever process it runs."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from edje.config.defaults import is_left_out
from edje.config.overrides import quoted
from edje.config.run_folder import JOB_FILE, write
from edje.errors import EdjeError

State = Literal["running", "done", "failed", "stopped"]


@dataclass(frozen=True)
class SweepJob:
    """The state in a job's folder; `message`, one line, says why it isn't done."""

    folder: Path
    overrides: Sequence[str]
    state: State
    message: str

    def __str__(self) -> str:
        given = f" ({' '.join(self.overrides)})" if self.overrides else ""
        return f"{os.path.relpath(self.folder)}{given}: {self.message}"


def record_job(
    folder: Path, overrides: Sequence[str], state: State, error: BaseException | None = None
) -> None:
    """Write a job's state into its folder."""
    content: dict[str, Any] = {"overrides": list(overrides), "state": state}
    if error is not None:
        content["message"] = one_line(error)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / JOB_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def is_of_another(folder: Path, overrides: Sequence[str]) -> bool:
    """Whether a folder holds the run of a job with other overrides."""
    if not (folder / "config.yaml").is_file() or not (folder / JOB_FILE).is_file():
        return False
    return list(read_job(folder / JOB_FILE).overrides) != list(overrides)


def one_line(error: BaseException) -> str:
    """An error's message on one line, with its type unless it is a user's error."""
    kind = "" if isinstance(error, EdjeError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


class SweepJobs:
    """The folder of a sweep, seen before its first job: shows how this command's jobs ended.

    It ignores what earlier commands left in the folder and this one doesn't touch.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.before = dict(self._stamps())

    def unfinished(self) -> list[SweepJob]:
        """Failed or stopped jobs, in order, with the overrides that not all jobs share."""
        jobs = [read_job(path) for path in sorted(self._touched(), key=_natural)]
        known = [set(job.overrides) for job in jobs if job.overrides]
        shared = set.intersection(*known) if known[1:] else set()
        return [
            replace(job, overrides=[text for text in job.overrides if text not in shared])
            for job in jobs
            if job.state != "done"
        ]

    def has_jobs(self) -> bool:
        """Whether this command has begun a job."""
        return any(self._touched())

    def _touched(self) -> list[Path]:
        return [path for path, stamp in self._stamps() if self.before.get(path) != stamp]

    def _stamps(self) -> Iterator[tuple[Path, tuple[int, int]]]:
        for parent, folders, files in os.walk(self.folder):
            if JOB_FILE in files:
                folders.clear()
                path = Path(parent) / JOB_FILE
                status = path.stat()
                yield path, (status.st_ino, status.st_mtime_ns)


def read_job(path: Path) -> SweepJob:
    """The job that a job.json describes; a failed one without overrides if it is damaged."""
    cut = "it stopped before its end, perhaps killed; logs/run.log has its last messages"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        said = content.get("message", cut)
        return SweepJob(path.parent, list(content["overrides"]), content["state"], said)
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        damage = f"{JOB_FILE} can't be read ({type(error).__name__}: {error})"
        again = "The sweep's command, given again, writes it anew."
        return SweepJob(path.parent, (), "failed", f"{damage}. {again}")


def _natural(path: Path) -> list[tuple[int, int, str]]:
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in path.parts]


class SweepStart(Callback):
    """Called by Hydra in the user's own process before a sweep, whatever launches its jobs."""

    begun: ClassVar[SweepJobs | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note the sweep's folder, and pass it to every job, even if a job changes `name`."""
        folder = str(config.hydra.sweep.dir)
        SweepStart.begun = SweepJobs(Path(folder))
        with read_write(config), open_dict(config):  # every job gets these overrides
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(folder)}")
            config.hydra.sweep.dir = folder
            let_in_defaults(config)


def let_in_defaults(config: DictConfig) -> None:
    """Add ++ to a sweep file's keys that only constructors take and no option file shows."""
    params = config.hydra.sweeper.get("params")
    if params:
        named = {"++" + key if is_left_out(config, key) else key: params[key] for key in params}
        config.hydra.sweeper.params = named
