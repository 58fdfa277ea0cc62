"""Which devices a run uses, as Lightning's arguments name them, whatever the work."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from edje.errors import EdjeError
from edje.parallel.environment import local_rank


def devices_of(accelerator: str = "auto", devices: Any = 1) -> tuple[torch.device, ...]:
    """The devices that a Trainer of these arguments has.

    On a CPU the one device, as many times as there are to be processes.

    Raises:
        EdjeError: this machine hasn't got them.
    """
    try:
        resolved = one_device_trainer(accelerator, devices)
    except (MisconfigurationException, ValueError, TypeError) as error:
        said = " ".join(str(error).split())
        raise EdjeError(
            f"trainer.accelerator={accelerator}, trainer.devices={devices}: this machine has no "
            f"such ({said}). Take trainer.accelerator=auto, trainer.devices=1."
        ) from error
    kind = resolved.strategy.root_device.type
    if kind == "cpu":
        return (torch.device("cpu"),) * resolved.num_devices
    return tuple(torch.device(kind, index) for index in resolved.device_ids)


def make_current(device: torch.device) -> torch.device:
    """The device, made this process's own: graphs and kernels go to the current one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def of_this_process(devices: Sequence[torch.device]) -> torch.device:
    """The device on which this process of a run works; the first one, where there is one only."""
    return devices[local_rank() % len(devices)]


def similarity_device(device: torch.device) -> torch.device:
    """Where similarities are computed for work on a device: there, if it is CUDA's.

    Others than CUDA and the CPU lack the sorting of 64-bit integers.
    """
    return device if device.type == "cuda" else torch.device("cpu")


@contextmanager
def moved(module: object, device: torch.device) -> Iterator[None]:
    """A backbone or a model on a device during the block, and back on the CPU, as others expect."""
    move(module, device)
    try:
        yield
    finally:
        move(module, torch.device("cpu"))


def move(module: object, device: torch.device) -> None:
    """Move what is a module: backbones of another make have no device."""
    if isinstance(module, nn.Module):
        module.to(device)


def one_device_trainer(accelerator: str, devices: Any, **arguments: Any) -> L.Trainer:
    """A Trainer that writes nothing and talks to no scheduler: for work beside the training."""
    return L.Trainer(
        accelerator=accelerator,
        devices=devices,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[LightningEnvironment()],  # not a scheduler's: each process has one device
        **arguments,
    )
