"""The Trainer of a run and its loggers."""

import logging
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger, Logger

from edje.errors import EdjeError
from edje.inference.precisions import has_bf16
from edje.parallel.cluster import cluster
from edje.parallel.launch import check_processes
from edje.pipeline.devices import devices_of
from edje.pipeline.trainer_arguments import BFLOAT16, FLOAT16, check_arguments

log = logging.getLogger(__name__)


def check_trainer(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that would fail or be ignored in training, before any data is read.

    Raises:
        EdjeError: the message names the argument and says what to set instead.
    """
    check_arguments(arguments)
    devices = trainer_devices(arguments)  # first, because its message says what to use
    device = devices[0]
    check_processes(arguments.get("num_nodes", 1), len(devices))
    precision = arguments.get("precision")
    if device.type == "cpu" and precision in FLOAT16:
        raise EdjeError(
            f"trainer.precision={precision}: a CPU has no mixed training in float16. Use "
            "trainer.precision=auto."
        )
    if precision in BFLOAT16 and not all(map(has_bf16, devices)):
        log.warning(
            "trainer.precision=%s: this %s has no instructions for products in bf16, so they "
            "are several times slower than in float32. Use trainer.precision=auto.",
            precision,
            device.type,
        )
    # With copies, because a strategy or profiler belongs to the first Trainer that gets it.
    tried = make_trainer(
        deepcopy(dict(arguments)), Path(), [], [], deterministic=None, benchmark=None
    )
    for timer in tried.callbacks:  # type: ignore[attr-defined]
        if isinstance(timer, Timer) and (timer.time_remaining() or 0) <= 0:
            raise EdjeError(f"trainer.max_time={arguments['max_time']}: expected more than 0.")


def trainer_devices(arguments: Mapping[str, Any]) -> tuple[torch.device, ...]:
    """The devices that a Trainer with these arguments trains on.

    Raises:
        EdjeError: this machine doesn't have them.
    """
    return devices_of(arguments.get("accelerator", "auto"), arguments.get("devices", "auto"))


# Replaced by a run's own callbacks, loaders and loops.
REPLACED = {
    "enable_checkpointing": False,
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}


def make_trainer(
    arguments: Mapping[str, Any],
    folder: Path,
    loggers: Sequence[Logger],
    callbacks: Sequence[L.Callback],
    **other: Any,
) -> L.Trainer:
    """A Trainer with these arguments, in a run folder; `other` replaces some of them.

    `precision: auto` is mixed bf16 if all devices have instructions for it, else float32.
    A profiler's report goes to logs/fit-profile.txt, unless it has its own place.

    Raises:
        EdjeError: Lightning rejects an argument.
    """
    own = {
        "logger": list(loggers) or False,
        "callbacks": list(callbacks),
        "default_root_dir": str(folder),
        "plugins": [cluster()],
    }
    if arguments.get("precision") == "auto":
        has_it = all(map(has_bf16, trainer_devices(arguments)))
        own["precision"] = "bf16-mixed" if has_it else "32-true"
    try:
        trainer = L.Trainer(**{**REPLACED, **arguments, **own, **other})
    except Exception as error:  # of any kind: Lightning's message about an argument
        said = " ".join(str(error).split())
        raise EdjeError(f"trainer: Lightning rejects its arguments: {said}") from error
    profiler: Any = trainer.profiler  # type: ignore[attr-defined]
    if arguments.get("profiler") is not None and profiler.filename is None:
        profiler.dirpath, profiler.filename = folder / "logs", "profile"
    return trainer


PACKAGES = {  # for the loggers that have options
    "TensorBoardLogger": "tensorboardX",
    "WeightsAndBiases": "'edje[wandb]'",
    "WandbLogger": "'edje[wandb]'",
}


def run_loggers(makers: Sequence[Callable[..., Logger]], folder: Path) -> list[Logger]:
    """Loggers that write to `logs/`; a resumed run writes next to its earlier part.

    The CSV logger comes first, because it warns about a folder that isn't empty.

    Raises:
        EdjeError: a package that one of them needs isn't installed.
    """
    part = f"part_{len(list((folder / 'logs').glob('part_*')))}"
    loggers = [_logger(make, save_dir=str(folder), name="logs", version=part) for make in makers]
    return sorted(loggers, key=lambda logger: not isinstance(logger, CSVLogger))


def _logger(make: Callable[..., Logger], **place: str) -> Logger:
    try:
        return make(**place)
    except ImportError as error:
        kind = getattr(make, "func", make)  # the function of a partial
        name = getattr(kind, "__name__", str(kind))
        package = PACKAGES.get(name)
        install = "Install it" if package is None else f"pip install {package}"
        said = " ".join(str(error).split()).rstrip(".")
        raise EdjeError(
            f"logger: {name} needs a package that isn't installed ({said}). {install}, or use "
            "logger=csv or logger=null."
        ) from error
