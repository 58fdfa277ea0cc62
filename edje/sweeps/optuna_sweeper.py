"""A Hydra sweeper that gets values from an optuna study and reports the jobs' figures to it."""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from edje.config.run_folder import write
from edje.config.saved import from_text, to_text
from edje.errors import EdjeError
from edje.sweeps.search_space import SearchSpace, search_space
from edje.sweeps.trials import Trial, Trials, alone_in

log = logging.getLogger(__name__)
Check = Callable[[DictConfig, list[str], Path], DictConfig]  # checks a job's configuration


def register_sweeper(check: Check) -> None:
    """Register `hydra/sweeper=optuna` with Hydra; `check` raises what a job would fail with.

    Hydra builds plugins only by names in the package hydra_plugins, which exists only if some
    plugin is installed.
    """
    OptunaSweeper.check = staticmethod(check)
    Plugins.instance().register(OptunaSweeper)
    try:
        plugins = import_module("hydra_plugins")
    except ModuleNotFoundError:
        plugins = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        plugins.__path__ = []  # where Hydra would look for more
    vars(plugins)["edje"] = sys.modules[__name__]


class OptunaSweeper(Sweeper):
    """Runs the jobs that a study proposes, in batches, with the chosen launcher.

    A trial and its job have the same number, so no two jobs share a folder.
    """

    check: Check
    __module__ = "hydra_plugins.edje"  # where Hydra finds it: `register_sweeper`

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        seed: int,
        sampler: str,
        sampler_options: Mapping[str, Any] | None,
        params: Mapping[str, Any] | None,
    ):
        self.n_trials, self.n_jobs, self.seed = n_trials, n_jobs, seed
        self.sampler, self.sampler_options = sampler, sampler_options
        self.params = params or {}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take over Hydra's facts about the sweep.

        Raises:
            EdjeError: optuna is not installed, or an option isn't a valid number.
        """
        if find_spec("optuna") is None:
            raise EdjeError(
                "hydra/sweeper=optuna: optuna is not installed. pip install 'edje[sweep]'."
            )
        for name, least in (("n_trials", 1), ("n_jobs", 1), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise EdjeError(f"hydra.sweeper.{name}={value}: expected int, {least} or more.")
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Run jobs until the study has all its trials, or this call has run the missing number.

        Raises:
            EdjeError: the folder holds another study, or jobs would fail with a user error.
        """
        assert self.config is not None and self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = [f"{key}={value}" for key, value in self.params.items()]
        space = search_space(parser.parse_overrides([*given, *arguments]))
        folder = Path(self.config.hydra.sweep.dir)
        checked = [self.checked(space, values) for values in space.corners()]
        warn_of_split(checked[0])
        with alone_in(folder):
            trials = Trials(
                folder,
                space.distributions,
                seed=self.seed,
                sampler=self.sampler,
                sampler_options=self.sampler_options,
            )
            refuse_another(trials, space, checked[0], folder)
            OmegaConf.save(self.config, folder / "multirun.yaml")
            try:
                return self.run(trials, space)
            finally:
                self.report(trials, space, folder)

    def run(self, trials: Trials, space: SearchSpace) -> list[Sequence[JobReturn]]:
        """Launch batches of jobs; trials of an interrupted call come first."""
        assert self.launcher is not None
        begun = trials.interrupted()
        missing = self.n_trials - len(trials.finished())
        returned = []
        while missing > 0:
            size = min(self.n_jobs, missing)
            batch = following(begun[:size]) or [trials.propose() for _ in range(size)]
            del begun[: len(batch)]
            jobs = [space.overrides(trial.values) for trial in batch]
            try:
                self.validate_batch_is_legal(jobs)
            except Exception:  # otherwise the next call would get the same trials
                for trial in batch:
                    trials.tell(trial, None)
                raise
            results = self.launcher.launch(jobs, initial_job_idx=batch[0].number)
            for trial, result in zip(batch, results, strict=True):
                trials.tell(trial, figure_in(result))
            returned.append(results)
            missing -= len(batch)
        for result in (result for results in returned for result in results):
            _ = result.return_value  # raises what a launcher kept from a job
        return returned

    def composed(self, overrides: list[str], number: int = 0) -> DictConfig:
        """The configuration of a job, including Hydra's part."""
        assert self.config is not None and self.hydra_context is not None
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(cfg):
            cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
        return cfg

    def checked(self, space: SearchSpace, values: Mapping[str, Any]) -> DictConfig:
        """The checked configuration of a job with these values."""
        overrides = space.overrides(values)
        cfg = self.composed(overrides)
        with open_dict(cfg):
            del cfg["hydra"]
        return self.check(cfg, [one.removeprefix("++") for one in overrides], Path())

    def report(self, trials: Trials, space: SearchSpace, folder: Path) -> None:
        """Log the best trial and its job's folder, and write optimization_results.yaml."""
        best = trials.best()
        if best is None:
            log.info("%s: no trial of the study has a figure yet", os.path.relpath(folder))
            return
        hydra = self.composed(space.overrides(best.values), best.number).hydra
        job = Path(hydra.sweep.dir) / str(hydra.sweep.subdir)
        results = {
            "name": "optuna",
            "best_params": best.values,
            "best_value": best.figure,
            "best_run": os.path.relpath(job),
        }
        write(folder / "optimization_results.yaml", OmegaConf.to_yaml(results))
        log.info(
            "Best of %d trials: %.2f with %s (%s)",
            len(trials.finished()),
            best.figure,
            " ".join(f"{key}={value}" for key, value in best.values.items()),
            results["best_run"],
        )


def following(trials: list[Trial]) -> list[Trial]:
    """The first trials, up to the first gap in their numbers, as a batch needs."""
    numbered = takewhile(lambda one: one[1].number == trials[0].number + one[0], enumerate(trials))
    return [trial for _, trial in numbered]


def figure_in(result: JobReturn) -> float | None:
    """The figure that a job returned; None if it failed.

    Raises:
        EdjeError: the job succeeded, but its task measures nothing.
    """
    if result.status != JobStatus.COMPLETED:
        return None
    figure = result.return_value
    if not isinstance(figure, int | float):
        raise EdjeError(
            f"A job returned {figure!r}, which is not a figure to optimise. Choose a task that "
            "measures one: task=run or task=evaluate."
        )
    return float(figure)


def warn_of_split(cfg: DictConfig) -> None:
    """Warn of a study that chooses on the images whose figures would be reported."""
    split = OmegaConf.select(cfg, "data.split") or OmegaConf.select(cfg, "data.evaluated.split")
    has_dev = cfg.task == "run" and OmegaConf.select(cfg, "scoring.dev_every")
    if not has_dev and split not in (None, "val"):
        log.warning(
            "the study chooses by R@1 on split=%s, so its best figure is too high to report. "
            "Choose on images held back from training (scoring.dev_every=<steps> with "
            "data.dev_images) or with data.split=val, then evaluate the best run once on %s.",
            split,
            split,
        )


def refuse_another(trials: Trials, space: SearchSpace, cfg: DictConfig, folder: Path) -> None:
    """Store a study's search space and configuration with it, and refuse others.

    Raises:
        EdjeError: the folder's study has another search space or another configuration.
    """
    from optuna.distributions import distribution_to_json

    spans = {key: distribution_to_json(one) for key, one in space.distributions.items()}
    known = trials.note("space", spans)
    changed = sorted(key for key in {*spans, *known} if spans.get(key) != known.get(key))
    if not changed:
        text = to_text(cfg)
        kept = from_text(trials.note("configuration", text), str(folder))
        now, then = (OmegaConf.to_container(one) for one in (from_text(text, str(folder)), kept))
        assert isinstance(now, dict) and isinstance(then, dict)
        changed = sorted(str(key) for key in {*now, *then} if now.get(key) != then.get(key))
    if changed:
        raise EdjeError(
            f"{folder}: its study was started with another {', '.join(changed)}, so the figures "
            "can't be compared. Give the values that it was started with, or another "
            "hydra.sweep.dir."
        )
