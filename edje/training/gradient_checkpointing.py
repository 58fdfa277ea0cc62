"""Gradient checkpointing as an option of training: less memory for more computation."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from edje.errors import EdjeError
from edje.models.edje import EDJE


def checkpoint_layers(model: EDJE) -> None:
    """Keep only the inputs of the adapter and of each layer of the language model, in place.

    The backward pass computes the rest again, with the same dropout, so losses and gradients don't
    change. Weights keep their names. Don't use it with compiled layers, whose recomputed dropout
    differs.

    Raises:
        EdjeError: the language model's layers are not found.
    """
    layers = model.joint.stack
    if layers is None:
        raise EdjeError(
            "gradient_checkpointing=true: no list of layers found in "
            f"{type(model.joint.language_model).__name__}. Set gradient_checkpointing=false."
        )
    for module in (model.adapter, *layers):
        _recompute(module)


def keep_all(model: EDJE) -> None:
    """Undo `checkpoint_layers`, in place: with it a model can't be sent to other processes."""
    for module in model.modules():
        vars(module).pop("forward", None)


def _recompute(module: nn.Module) -> None:
    forward = module.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    module.forward = run
