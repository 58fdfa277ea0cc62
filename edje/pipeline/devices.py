"""The devices that a run uses for any work, from Lightning's arguments."""

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
    """The devices of a Trainer with these arguments.

    On a CPU: the one device, repeated once per process.

    Raises:
        EdjeError: this machine doesn't have them.
    """
    try:
        resolved = one_device_trainer(accelerator, devices)
    except (MisconfigurationException, ValueError, TypeError) as error:
        said = " ".join(str(error).split())
        raise EdjeError(
            f"trainer.accelerator={accelerator}, trainer.devices={devices}: not available on this "
            f"machine ({said}). Use trainer.accelerator=auto, trainer.devices=1."
        ) from error
    kind = resolved.strategy.root_device.type
    if kind == "cpu":
        return (torch.device("cpu"),) * resolved.num_devices
    return tuple(torch.device(kind, index) for index in resolved.device_ids)


def make_current(device: torch.device) -> torch.device:
    """Make the device this process's current one, which graphs and kernels use.

    Returns it with its number: `cuda` is the GPU that is current already.
    """
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        torch.cuda.set_device(device)
    return device


def of_this_process(devices: Sequence[torch.device]) -> torch.device:
    """The device of this process of a run."""
    return devices[local_rank() % len(devices)]


def similarity_device(device: torch.device) -> torch.device:
    """The device that computes similarities for work on a device: itself if it is CUDA, else CPU.

    Devices other than CUDA and the CPU can't sort 64-bit integers.
    """
    return device if device.type == "cuda" else torch.device("cpu")


@contextmanager
def moved(module: object, device: torch.device) -> Iterator[None]:
    """Move a backbone or a model to a device during the block, and back to the CPU afterwards."""
    move(module, device)
    try:
        yield
    finally:
        move(module, torch.device("cpu"))


def move(module: object, device: torch.device) -> None:
    """Move an object if it is a module; other kinds of backbones have no device."""
    if isinstance(module, nn.Module):
        module.to(device)


def one_device_trainer(accelerator: str, devices: Any, **arguments: Any) -> L.Trainer:
    """A Trainer that writes nothing and ignores schedulers, for work other than training."""
    return L.Trainer(
        accelerator=accelerator,
        devices=devices,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[LightningEnvironment()],  # not a scheduler's, because each process has one device
        **arguments,
    )
