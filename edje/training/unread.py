"""Freezing weights that no objective reads: on several ranks a trained weight needs a gradient."""

from collections.abc import Iterator
from typing import cast

from torch import nn

from edje.models.edje import EDJE
from edje.models.joint_encoder import JointEncoder
from edje.objectives.outputs import Part


def freeze_unread(model: EDJE, needs: frozenset[Part]) -> None:
    """Freeze every weight that no gradient of these parts reaches.

    So the optimiser neither decays nor keeps it. DistributedDataParallel waits for the gradient of
    every trainable weight; this way it need not look for missing ones at each step.
    """
    read = {id(weight) for part in _read(model, needs) for weight in _weights(part)}
    pooler = getattr(model.joint.language_model, "pooler", None)  # its output is never used
    unused = set() if pooler is None else {id(weight) for weight in pooler.parameters()}
    for weight in model.parameters():
        if id(weight) not in read or id(weight) in unused:
            weight.requires_grad_(False)


def _read(model: EDJE, needs: frozenset[Part]) -> Iterator[nn.Module | nn.Parameter | None]:
    """The modules and weights that the value of some part depends on."""
    joint, fused, evidence = model.joint, bool(needs & {"pairs", "masked"}), model.evidence
    if fused or "alignment" in needs:
        yield model.adapter
    if fused or ("alignment" in needs and evidence is None):
        yield joint.entry_norm
    if evidence is not None and needs & {"pairs", "alignment"}:
        yield from (evidence.text, evidence.mixture)
    if fused or "text_only" in needs:
        yield joint.language_model
    elif "alignment" in needs:
        yield from _before_fusion(joint)
    if fused:
        yield joint.visual_type
    if "pairs" in needs:
        yield from (model.match, model.residual)
        if evidence is not None:
            yield evidence.log_scale
    if "masked" in needs:
        yield from (model.masked_language, joint.word_embeddings)
    if "text_only" in needs:
        yield model.text_recovery


def _before_fusion(joint: JointEncoder) -> Iterator[nn.Module]:
    """What `JointEncoder.read_text` runs: word embeddings, or all layers below fusion."""
    if not joint.fusion_layer:
        yield joint.word_embeddings
        return
    yield cast(nn.Module, joint.language_model.embeddings)
    stack = cast(nn.Module, joint.language_model.encoder).layer
    yield from cast(nn.ModuleList, stack)[: joint.fusion_layer]


def _weights(part: nn.Module | nn.Parameter | None) -> Iterator[nn.Parameter]:
    if isinstance(part, nn.Parameter):
        yield part
    elif part is not None:
        yield from part.parameters()
