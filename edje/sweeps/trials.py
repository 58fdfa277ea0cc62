"""The trials of a study, kept in a journal, so that a study continues after a restart."""

import fcntl
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edje.errors import EdjeError
from edje.sweeps.search_space import Value

JOURNAL = "study.journal"
NAME = "sweep"  # of the only study in a journal
SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler", "gp": "GPSampler"}
DEFAULTS = {"tpe": {"constant_liar": True}}  # spreads the jobs of a batch apart


@dataclass(frozen=True)
class Trial:
    """Values that a study proposed, and their figure; the number is its job's."""

    number: int
    values: dict[str, Value]
    figure: float | None = None


class Trials:
    """A study's past trials, its proposals, and the figures reported to it.

    A proposal is a function of the seed, its number and the figures reported before, so an
    interrupted study continues with the same proposals.
    """

    def __init__(
        self,
        folder: Path,
        distributions: Mapping[str, Any],
        *,
        seed: int = 0,
        sampler: str = "tpe",
        sampler_options: Mapping[str, Any] | None = None,
    ):
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self._distributions = dict(distributions)
        self._seed, self._sampler = seed, sampler
        self._options = {**DEFAULTS.get(sampler, {}), **(sampler_options or {})}
        first = self._sampler_of(0)
        backend = JournalFileBackend(str(folder / JOURNAL))
        self._study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            sampler=first,
            study_name=NAME,
            direction="maximize",
            load_if_exists=True,
        )

    def note(self, name: str, value: Any) -> Any:
        """Store a value with the study, unless it has one of this name; returns what is stored."""
        if name not in self._study.user_attrs:
            self._study.set_user_attr(name, value)
        return self._study.user_attrs[name]

    def finished(self) -> list[Trial]:
        """Trials with a figure."""
        return self._trials(self._optuna.trial.TrialState.COMPLETE)

    def interrupted(self) -> list[Trial]:
        """Trials whose jobs an earlier process started; half-proposed ones are marked as failed."""
        running = self._trials(self._optuna.trial.TrialState.RUNNING)
        for trial in running:
            if set(trial.values) != set(self._distributions):
                self.tell(trial, None)
        return [trial for trial in running if set(trial.values) == set(self._distributions)]

    def propose(self) -> Trial:
        """The next values to try."""
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = self._sampler_of(number)
        trial = self._study.ask(self._distributions)
        return Trial(trial.number, dict(trial.params))

    def tell(self, trial: Trial, figure: float | None) -> None:
        """Record the figure of a trial's job; None means that the job failed."""
        if figure is None or not math.isfinite(figure):
            self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial.number, figure)

    def best(self) -> Trial | None:
        """The first trial with the greatest figure; None if there is no figure yet."""
        return max(self.finished(), key=lambda trial: trial.figure or 0.0, default=None)

    def _trials(self, state: Any) -> list[Trial]:
        found = self._study.get_trials(deepcopy=False, states=(state,))
        return [Trial(one.number, dict(one.params), one.value) for one in found]

    def _sampler_of(self, number: int) -> Any:
        import numpy as np  # here, so that a misspelt key is reported a tenth of a second sooner

        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        name = SAMPLERS.get(self._sampler)
        if name is None:
            close = get_close_matches(str(self._sampler), SAMPLERS, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise EdjeError(
                f"hydra.sweeper.sampler={self._sampler}: expected one of "
                f"{', '.join(SAMPLERS)}.{hint}"
            )
        try:
            return getattr(self._optuna.samplers, name)(seed=seed, **self._options)
        except (ImportError, TypeError, ValueError) as error:
            raise EdjeError(f"hydra.sweeper.sampler={self._sampler}: {error}") from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock a study's folder, and repair a journal that a killed process left.

    Raises:
        EdjeError: another process is running the study.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{JOURNAL}.held").open("w") as file:
        try:  # released with the process, however it ends
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise EdjeError(
                f"{folder}: another process is running this study. Wait for it, or end it. For "
                "parallel jobs, set hydra.sweeper.n_jobs and use a launcher that runs jobs in "
                "parallel."
            ) from None
        (folder / f"{JOURNAL}.lock").unlink(missing_ok=True)  # optuna's lock, left behind by a kill
        journal = folder / JOURNAL
        if journal.exists():
            written = journal.read_bytes()
            whole = written.rfind(b"\n") + 1  # optuna can't read past a truncated line
            if whole < len(written):
                os.truncate(journal, whole)
        yield
