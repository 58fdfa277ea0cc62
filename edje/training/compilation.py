"""torch.compile as an option of training."""

import os
import shutil
from typing import cast

import torch
from torch import nn

from edje.errors import EdjeError
from edje.models.edje import EDJE

CPU = torch.device("cpu")


def compile_layers(model: EDJE, backend: str, device: torch.device = CPU) -> None:
    """Compile adapter and language model for a device, in place, layer by layer if possible.

    Layers share one compiled form for any number of pairs and any length. Weights keep their
    names, so checkpoints don't change.

    Raises:
        EdjeError: torch doesn't have this backend, or it needs a compiler that isn't installed.
    """
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise EdjeError(
            f"compile_training={backend}: torch.compile has no such backend; expected one of "
            f"{', '.join(known)}, or null for no compilation."
        )
    compiler = os.environ.get("CXX", "g++")
    if backend == "inductor" and device.type == "cpu" and not shutil.which(compiler):
        raise EdjeError(
            f"compile_training=inductor: on a CPU it needs a C++ compiler, but {compiler} is not "
            "found. Install g++, name another compiler in CXX, or leave compile_training=null."
        )
    language_model = model.joint.language_model
    stack = getattr(getattr(language_model, "encoder", None), "layer", None)
    layers = stack if isinstance(stack, nn.ModuleList) else [cast(nn.Module, language_model)]
    for module in (model.adapter, *layers):
        module.compile(backend=backend, dynamic=True)
