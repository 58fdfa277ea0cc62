"""Whether a language model can be the joint encoder, and by which weights: a trial on two pairs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from edje.models.joint_encoder import JointEncoder

_SHORT, _LONG, _TOKENS = 3, 5, 4  # word pieces of the two texts, and visual tokens of an image
_TOLERANCE = 1e-4  # seen: below 1e-5 where padding isn't read, above 1e-2 where it is


@torch.no_grad()
def why_unsuitable(language_model: PreTrainedModel, separator_id: int) -> str | None:
    """Why [CLS] wouldn't tell a pair's images apart, or would depend on padding; None if it fits.

    Rows of the word embeddings stand for the visual tokens. Weights that it had, mode and torch's
    generator stay as they were.

    Raises:
        EdjeError: its word embeddings and its states differ in width.
        Exception: of any kind, if it can't run on embeddings and a mask.
    """
    with _trial(language_model, separator_id) as (joint, ids, mask, visual):
        padded = joint(ids, mask, visual)[0, :1]
        alone, other = joint(ids[:, :_SHORT], mask[:, :_SHORT], visual)[:, :1].unbind()
    if not (padded.isfinite().all() and alone.isfinite().all()):
        return "its states aren't finite"
    if not torch.allclose(padded, alone, rtol=_TOLERANCE, atol=_TOLERANCE):
        return f"padding changes the state of [CLS] by {(padded - alone).abs().max():.1g}"
    if torch.allclose(alone, other, rtol=1e-6, atol=1e-7):
        return "the state of [CLS] doesn't depend on the image, which comes after it"
    return None


def unread_weights(language_model: PreTrainedModel, separator_id: int) -> list[nn.Parameter]:
    """Trainable weights that no state of a caption and its image depends on; they get no gradient.

    Poolers are among them, LUKE's entities and the global attention of Longformer. Nothing is
    changed, as in `why_unsuitable`.
    """
    with _trial(language_model, separator_id) as (joint, ids, mask, visual), torch.enable_grad():
        nodes = [joint(ids, mask, visual.detach()).grad_fn]
    read, seen = set[int](), set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            read.add(id(getattr(node, "variable", None)))  # what a leaf accumulates into
            nodes += [parent for parent, _ in node.next_functions]
    weights = language_model.parameters()
    return [one for one in weights if one.requires_grad and id(one) not in read]


@contextmanager
def _trial(
    language_model: PreTrainedModel, separator_id: int
) -> Iterator[tuple[JointEncoder, Tensor, Tensor, Tensor]]:
    """A joint encoder in evaluation mode; word ids, mask and visual tokens of two pairs for it."""
    joint = JointEncoder(language_model, separator_id, _LONG, _TOKENS)
    table, was_training = joint.word_embeddings.weight, language_model.training
    rows = torch.linspace(0, len(table) - 1, _LONG + 2 * _TOKENS).long()
    ids, visual = rows[:_LONG].expand(2, -1), table[rows[_LONG:]].view(2, _TOKENS, -1)
    mask = torch.arange(_LONG) < torch.tensor([[_SHORT], [_LONG]])
    language_model.eval()
    try:
        with torch.random.fork_rng(devices=[]):  # some attentions are drawn
            yield joint, ids, mask, visual
    finally:
        language_model.train(was_training)
