"""The Trainer of a run, and which of its arguments mean something there.

A run is one pass of Lightning's loop, `max_steps` long, without loops for validation or test;
checkpoints, callbacks and processes are edje's own. So every argument either does what Lightning's
documentation says, or is refused before any data is read.
"""

import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from omegaconf import DictConfig, OmegaConf

from edje.config.building import part_from
from edje.config.problems import Problem, shown
from edje.errors import EdjeError
from edje.parallel.environment import RUN_FOLDER
from edje.pipeline.devices import devices_of

DDP = ("ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")
DDP_STRATEGY = "DDPStrategy"
RESOLVED_ELSEWHERE = ("accelerator", "parallel_devices", "cluster_environment", "precision_plugin")
FLOAT16 = (16, "16", "16-mixed")
PRECISIONS = (None, 32, "32", "32-true", "bf16", "bf16-mixed", *FLOAT16)
PROFILERS = (None, "simple", "advanced", "pytorch")
NO_VALIDATION = (
    "a run has no loop for validation or test of Lightning's: dev is scored every "
    "evaluation.dev_every steps, then data.split is evaluated. Leave it out."
)
NO_EPOCHS = (
    "a run is counted in optimiser steps. Leave it out and set trainer.max_steps: a pass over the "
    "training set has its captions / (loader.batch_size × trainer.accumulate_grad_batches × "
    "trainer.devices) of them."
)


def any_value(value: Any) -> bool:
    """Lightning's own: every value means what its documentation says."""
    return True


def only(*values: Any) -> Callable[[Any], bool]:
    """These values, of these types: 1 batch is not 1.0, all of them."""
    return lambda value: any(type(value) is type(one) and value == one for one in values)


def at_least_one(value: Any) -> bool:
    """A positive whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def one_machine_s(strategy: Any) -> bool:
    """Whole weights in each of several processes that rank 0 starts itself."""
    if isinstance(strategy, Mapping):
        is_ddp = str(strategy.get("_target_")).rpartition(".")[2] == DDP_STRATEGY
        return is_ddp and not {*RESOLVED_ELSEWHERE, "start_method"} & strategy.keys()
    return strategy in ("auto", *DDP)


# Of each argument: which values are taken, and what is said of any other.
ARGUMENTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "accelerator": (
        only("auto", "cpu", "cuda", "gpu", "mps"),
        "expected auto, cpu, cuda, gpu or mps.",
    ),
    "strategy": (
        one_machine_s,
        "every rank holds the whole reranker here, in a process of its own. Use one of auto, "
        f"{', '.join(DDP)}.",
    ),
    "devices": (any_value, ""),  # what the machine hasn't got is refused by devices_of
    "num_nodes": (only(1), "a run stays on one machine. Leave it out."),
    "precision": (
        only(*PRECISIONS),
        "weights and their updates stay in float32, as 16 bits lose small updates and 64 gain "
        "nothing. Take 32-true, bf16-mixed or 16-mixed.",
    ),
    "logger": (only(None), "it is a group of its own. Use logger=csv or logger=null."),
    "callbacks": (
        lambda value: value is None or value == [],
        "a run brings its own: checkpoint_every and evaluation.dev_every set them. Leave it out.",
    ),
    "fast_dev_run": (only(False, 0), "use trainer.max_steps=1 instead."),
    "max_epochs": (only(None, -1), NO_EPOCHS),
    "min_epochs": (only(None, 0), NO_EPOCHS),
    "max_steps": (
        at_least_one,
        "expected optimiser steps, at least 1. What is trained already is evaluated by "
        "task=evaluate checkpoint=<run folder>.",
    ),
    "min_steps": (only(None, 0), "a run has trainer.max_steps steps. Leave it out."),
    "max_time": (any_value, ""),
    "limit_train_batches": (only(None, 1.0), "use trainer.max_steps, which counts steps."),
    "limit_val_batches": (only(None, 1.0), NO_VALIDATION),
    "limit_test_batches": (only(None, 1.0), NO_VALIDATION),
    "limit_predict_batches": (only(None, 1.0), NO_VALIDATION),
    "overfit_batches": (only(0, 0.0), "train on a smaller data set instead."),
    "val_check_interval": (only(None, 1.0), NO_VALIDATION),
    "check_val_every_n_epoch": (only(1), NO_VALIDATION),
    "num_sanity_val_steps": (only(None, 0), NO_VALIDATION),
    "log_every_n_steps": (
        lambda value: value is None or at_least_one(value),
        "expected at least 1. Without any log: logger=null.",
    ),
    "enable_checkpointing": (
        only(False),
        "checkpoints are edje's own, every checkpoint_every steps. Set false.",
    ),
    "enable_progress_bar": (any_value, ""),
    "enable_model_summary": (any_value, ""),
    "accumulate_grad_batches": (at_least_one, "expected batches per step, at least 1."),
    "gradient_clip_val": (
        lambda value: value is None or 0 <= value < math.inf,
        "expected a norm of at least 0, or null for no clipping.",
    ),
    "gradient_clip_algorithm": (only(None, "norm", "value"), "expected norm or value."),
    "deterministic": (any_value, ""),
    "benchmark": (any_value, ""),
    "inference_mode": (only(True), NO_VALIDATION),
    "use_distributed_sampler": (only(False), "the loader gives each rank its batches. Set false."),
    "profiler": (
        lambda value: isinstance(value, Mapping) or value in PROFILERS,
        "expected simple, advanced, pytorch, null, or a component.",
    ),
    "detect_anomaly": (any_value, ""),
    "barebones": (only(False), "it would leave out the log and the checkpoints. Leave it out."),
    "plugins": (
        lambda value: value is None or value == [],
        "precision, processes and checkpoints are set by trainer.precision, trainer.devices and "
        "checkpoint_every. Leave it out.",
    ),
    "sync_batchnorm": (any_value, ""),
    "reload_dataloaders_every_n_epochs": (only(0), "a run is one pass. Leave it out."),
    "default_root_dir": (only(None), "a run writes into its run folder: use hydra.run.dir."),
    "enable_autolog_hparams": (any_value, ""),
    "model_registry": (only(None), "a checkpoint stays in the run folder. Leave it out."),
}


def check_training(cfg: DictConfig) -> None:
    """Refuse what the training would stumble over, or pass by, before any data is read.

    Raises:
        EdjeError: naming the key, and what to set instead.
    """
    problems = list(misunderstood(cfg.trainer))
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise EdjeError(f"Arguments of the trainer that a run can't follow:{lines}")
    check_launcher()
    device = devices_of(cfg.trainer)[0]  # first, as its message says what to take
    precision = cfg.trainer.get("precision")
    if device.type == "cpu" and precision in FLOAT16:
        raise EdjeError(
            f"trainer.precision={precision}: a CPU has no mixed training in float16. Take "
            "trainer.precision=bf16-mixed."
        )
    tried = make_trainer(cfg, Path(), False, [], deterministic=None, benchmark=None)
    for timer in tried.callbacks:  # type: ignore[attr-defined]
        if isinstance(timer, Timer) and (timer.time_remaining() or 0) <= 0:
            raise EdjeError(f"trainer.max_time={cfg.trainer.max_time}: expected more than none.")
    if cfg.checkpoint_every < 1:
        raise EdjeError(f"checkpoint_every={cfg.checkpoint_every}: expected steps, at least 1.")
    for node in (cfg.optim, cfg.negatives):
        instantiate(node)
    for name, node in cfg.objective.items():
        if node is not None:
            part_from(f"objective.{name}", node)


def misunderstood(trainer: DictConfig) -> Iterator[Problem]:
    """The arguments whose values mean nothing, or something else, in a run."""
    given = OmegaConf.to_container(trainer, resolve=True)
    assert isinstance(given, dict)
    if "max_steps" not in given:
        yield Problem("trainer.max_steps", f" is missing: {ARGUMENTS['max_steps'][1]}")
    known = inspect.signature(L.Trainer).parameters
    for key, value in given.items():
        name = str(key)
        if name in ARGUMENTS:
            taken, otherwise = ARGUMENTS[name]
            if not taken(value):
                yield Problem(f"trainer.{name}", f"{shown(value)}: {otherwise}")
        elif name in known:
            what = f"{shown(value)}: it is newer than edje, which can't follow it. Leave it out."
            yield Problem(f"trainer.{name}", what)


def check_launcher() -> None:
    """Refuse several processes of Slurm's, each of which would make a run of its own.

    Raises:
        EdjeError: `srun` has started several.
    """
    processes = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if processes != "1" and RUN_FOLDER not in os.environ:
        raise EdjeError(
            f"srun has started {processes} processes, each of which would make a run of its own. "
            "Start one (srun --ntasks=1), with trainer.devices=2 or so: it starts the others."
        )


class OneMachine(LightningEnvironment):
    """Processes that rank 0 starts itself; whether a scheduler started that one is no matter."""

    def __init__(self) -> None:
        super().__init__()
        self._is_started = RUN_FOLDER in os.environ  # which rank 0 sets later, for the others

    @property
    def creates_processes_externally(self) -> bool:
        """True in the other ranks, which find the run folder in their environment."""
        return self._is_started


def make_trainer(
    cfg: DictConfig,
    folder: Path,
    logger: Logger | bool,
    callbacks: Sequence[L.Callback],
    **other: Any,
) -> L.Trainer:
    """The configured Trainer, in a run folder, with some arguments other than configured.

    What a profiler reports goes to logs/fit-profile.txt, if it doesn't say where itself.

    Raises:
        EdjeError: Lightning refuses an argument.
    """
    try:
        trainer: L.Trainer = instantiate(
            cfg.trainer,
            _convert_="all",
            logger=logger,
            callbacks=list(callbacks),
            default_root_dir=str(folder),
            plugins=[OneMachine()],
            **other,
        )
    except InstantiationException as error:
        said = " ".join(str(error.__cause__ or error).split())
        raise EdjeError(f"trainer: Lightning can't follow its arguments: {said}") from error
    profiler: Any = trainer.profiler  # type: ignore[attr-defined]
    if cfg.trainer.get("profiler") is not None and profiler.filename is None:
        profiler.dirpath, profiler.filename = folder / "logs", "profile"
    return trainer


def run_logger(cfg: DictConfig, folder: Path) -> Logger | bool:
    """The configured logger in `logs/`; a resumed run writes beside its earlier part.

    Raises:
        EdjeError: its package isn't installed.
    """
    if cfg.logger is None:
        return False
    parts = len(list((folder / "logs").glob("part_*")))
    try:
        return instantiate(cfg.logger, save_dir=str(folder), name="logs", version=f"part_{parts}")
    except InstantiationException as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        said = " ".join(str(error.__cause__).split())
        raise EdjeError(
            f"logger={cfg.logger._target_}: a package that it needs isn't installed ({said}). "
            "Install it, or take logger=csv or logger=null."
        ) from error
