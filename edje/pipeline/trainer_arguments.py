"""The Trainer's arguments that a run supports.

A run is one pass of Lightning's loop, `max_steps` long, without validation or test loops.
Checkpoints, callbacks and processes are edje's own. So every argument either does what Lightning's
documentation says, or is refused before any data is read.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import DDPStrategy

from edje.config.problems import Problem, shown
from edje.errors import EdjeError

DDP = ("ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")
DDP_STRATEGY = "DDPStrategy"
RESOLVED_ELSEWHERE = ("accelerator", "parallel_devices", "cluster_environment", "precision_plugin")
FLOAT16 = (16, "16", "16-mixed")
BFLOAT16 = ("bf16", "bf16-mixed")
PRECISIONS = ("auto", None, 32, "32", "32-true", *BFLOAT16, *FLOAT16)
PROFILERS = (None, "simple", "advanced", "pytorch")
NO_VALIDATION = (
    "a run has no validation or test loop of Lightning's: dev is scored every "
    "scoring.dev_every steps, then data.split is evaluated. Leave it out."
)
NO_EPOCHS = (
    "a run is counted in optimiser steps. Leave it out and set trainer.max_steps: a pass over the "
    "training set has captions / (loader.batch_size × trainer.accumulate_grad_batches × "
    "trainer.devices) steps."
)


def any_value(value: Any) -> bool:
    """Left to Lightning: every value means what its documentation says."""
    return True


def only(*values: Any) -> Callable[[Any], bool]:
    """Only these values with these types: 1 means one batch, but 1.0 means all."""
    return lambda value: any(type(value) is type(one) and value == one for one in values)


def at_least_one(value: Any) -> bool:
    """A positive whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def one_machine_s(strategy: Any) -> bool:
    """Strategies in which every process holds all weights and rank 0 starts the processes."""
    if isinstance(strategy, Mapping):
        is_ddp = str(strategy.get("_target_")).rpartition(".")[2] == DDP_STRATEGY
        return is_ddp and not {*RESOLVED_ELSEWHERE, "start_method"} & strategy.keys()
    return isinstance(strategy, DDPStrategy) or strategy in ("auto", *DDP)


# For each argument: which values are accepted, and the message for any other.
ARGUMENTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "accelerator": (
        only("auto", "cpu", "cuda", "gpu", "mps"),
        "expected auto, cpu, cuda, gpu or mps.",
    ),
    "strategy": (
        one_machine_s,
        "every rank holds the whole reranker here, in its own process. Use one of auto, "
        f"{', '.join(DDP)}.",
    ),
    "devices": (any_value, ""),  # devices_of refuses what the machine doesn't have
    "num_nodes": (at_least_one, "expected nodes, at least 1."),
    "precision": (
        only(*PRECISIONS),
        "weights and their updates stay in float32, because 16 bits lose small updates and 64 gain "
        "nothing. Use auto, 32-true, bf16-mixed or 16-mixed.",
    ),
    "logger": (only(None), "it has its own option group. Use logger=csv or logger=null."),
    "callbacks": (
        lambda value: value is None or value == [],
        "a run has its own: set checkpoint_every and scoring.dev_every. Leave it out.",
    ),
    "fast_dev_run": (only(False, 0), "use trainer.max_steps=1 instead."),
    "max_epochs": (only(None, -1), NO_EPOCHS),
    "min_epochs": (only(None, 0), NO_EPOCHS),
    "max_steps": (
        at_least_one,
        "expected optimiser steps, at least 1. To evaluate a trained run, use task=evaluate "
        "checkpoint=<run folder>.",
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
        "expected at least 1. For no log at all: logger=null.",
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
        lambda value: isinstance(value, Mapping | Profiler) or value in PROFILERS,
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


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that mean nothing, or something else, in a run.

    Components may be given as objects, or as mappings with their `_target_`.

    Raises:
        EdjeError: the message names the arguments and says what to set instead.
    """
    problems = list(misunderstood(arguments))
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise EdjeError(f"Arguments of the trainer that a run can't support:{lines}")


def misunderstood(arguments: Mapping[str, Any]) -> Iterator[Problem]:
    """The arguments whose values mean nothing, or something else, in a run."""
    if "max_steps" not in arguments:
        yield Problem("trainer.max_steps", f" is missing: {ARGUMENTS['max_steps'][1]}")
    known = inspect.signature(L.Trainer).parameters
    for name, value in arguments.items():
        if name in ARGUMENTS:
            taken, otherwise = ARGUMENTS[name]
            if not taken(value):
                yield Problem(f"trainer.{name}", f"{shown(value)}: {otherwise}")
        elif name in known:
            what = f"{shown(value)}: it is newer than edje, which doesn't support it. Leave it out."
            yield Problem(f"trainer.{name}", what)
