"""[CLS] states of many (text, image) pairs by the cheapest exact method; the scorer runs it."""

from collections.abc import Callable
from itertools import chain
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from edje.inference.bert_layer import BertLayer, FirstRowBertLayer, is_bert_layer
from edje.inference.compiled import CompiledLayers
from edje.inference.cpu import keep_freed_memory, stay_in_place
from edje.models.joint_encoder import JointEncoder

# Architectures with BERT's embeddings and layers: the same names, the same computation.
_LIKE_BERT = frozenset({"bert", "roberta", "xlm-roberta"})


@runtime_checkable
class ClsEncoder(Protocol):
    """Reads texts once and pairs them with images; all texts of a call have the same length."""

    def read_text(
        self, input_ids: Int[Tensor, "texts length"]
    ) -> Float[Tensor, "texts length text_width"]:
        """The part of the work that all pairs of a text share."""
        ...

    def cls_states(
        self,
        texts: Float[Tensor, "texts length text_width"],
        rows: Int[Tensor, "pairs"],
        visual: Float[Tensor, "pairs tokens width"],
    ) -> Float[Tensor, "pairs width"]:
        """[CLS] of text `rows[i]` with image i; `texts` come from `read_text`."""
        ...

    def bytes_per_pair(self, sequence: int) -> int:
        """Approximate memory, in bytes, to read one pair of `sequence` positions."""
        ...

    def rehearsal(self, sequence: int) -> Callable[[int], object] | None:
        """A function of a number of pairs that does a small part of their work, for timing."""
        ...


def cls_encoder(joint: JointEncoder, precision: torch.dtype, compiled: bool = False) -> ClsEncoder:
    """The fast encoder of BERT-like language models, or the joint encoder itself, uncompiled."""
    if is_like_bert(joint):
        return BertClsEncoder(joint, precision, compiled)
    return WholeClsEncoder(joint, precision)


def is_like_bert(joint: JointEncoder) -> bool:
    """Whether `BertClsEncoder` computes what this joint encoder computes."""
    model: Any = joint.language_model
    layers = getattr(getattr(model, "encoder", None), "layer", None)
    return (
        model.config.model_type in _LIKE_BERT
        and isinstance(layers, nn.ModuleList)
        and all(is_bert_layer(layer) for layer in layers)
    )


class WholeClsEncoder:
    """The joint encoder as it was trained, for language models of any architecture.

    Exact and general: every row of every layer is computed.
    """

    def __init__(self, joint: JointEncoder, precision: torch.dtype):
        self.joint = joint
        self.precision = precision

    def _autocast(self, tensor: Tensor) -> torch.autocast:
        half = self.precision != torch.float32
        return torch.autocast(tensor.device.type, dtype=self.precision, enabled=half)

    def read_text(
        self, input_ids: Int[Tensor, "texts length"]
    ) -> Float[Tensor, "texts length text_width"]:
        """Word embeddings, or states of the fusion layer."""
        with self._autocast(input_ids):
            mask = torch.ones_like(input_ids, dtype=torch.bool)
            return self.joint.read_text(input_ids, mask, padded=False)

    def cls_states(
        self,
        texts: Float[Tensor, "texts length text_width"],
        rows: Int[Tensor, "pairs"],
        visual: Float[Tensor, "pairs tokens width"],
    ) -> Float[Tensor, "pairs width"]:
        """[CLS] of the last layer, in float32."""
        states = texts[rows]
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        with self._autocast(visual):
            return self.joint.fuse(states, mask, visual, padded=False)[:, 0].float()

    def bytes_per_pair(self, sequence: int) -> int:
        """The estimate for a BERT whose feed-forward is four times as wide."""
        return 4 * sequence * 12 * self.joint.width

    def rehearsal(self, sequence: int) -> None:
        """Its layers can't be run one by one."""


class BertClsEncoder:
    """A BERT's layers without mask and padding; the last layer only for [CLS].

    A snapshot: the weights are copied, in the number format of `precision`, when it is made.
    Matrix products accumulate in float32; between the products the states are rounded to
    `precision`. The text's embeddings (with `fusion_layer`, its lower layers) are computed once
    per text. In the visual part, what all images share (type, positions and [SEP]) isn't repeated.
    """

    def __init__(self, joint: JointEncoder, precision: torch.dtype, compiled: bool = False):
        self.joint = joint
        self.precision = precision
        self.embeddings = cast(nn.Module, joint.language_model.embeddings)
        stack = cast(nn.Module, joint.language_model.encoder).layer
        *layers, last = cast(nn.ModuleList, stack)
        self.layers = [BertLayer(layer, precision, not compiled) for layer in layers]
        self.last = FirstRowBertLayer(last, precision, not compiled)
        if self.last.expand.bias.device.type == "cpu":
            keep_freed_memory()
        self.upper: Callable[[Tensor], Tensor] = self._upper
        if compiled:
            stay_in_place(chain(*(layer.weights() for layer in [*self.layers, self.last])))
            self.upper = CompiledLayers(self._upper, self.last.expand.bias.device)

    def read_text(
        self, input_ids: Int[Tensor, "texts length"]
    ) -> Float[Tensor, "texts length text_width"]:
        """Embedded text, or states of the fusion layer, in the number format of the layers."""
        words = self.joint.word_embeddings(input_ids)
        if self.joint.fusion_layer:
            embedded = self.embeddings(inputs_embeds=words)
        else:
            embedded = self._embedded(words, first_position=0, segment=0)
        states = [embedded.to(self.precision)]
        for layer in self.layers[: self.joint.fusion_layer]:
            states.append(layer(states[-1]))
        return self.joint.beside(states)

    def cls_states(
        self,
        texts: Float[Tensor, "texts length text_width"],
        rows: Int[Tensor, "pairs"],
        visual: Float[Tensor, "pairs tokens width"],
    ) -> Float[Tensor, "pairs width"]:
        """[CLS] of the last layer, in float32."""
        visual = visual.float()
        part = self._entering(visual) if self.joint.fusion_layer else self._after(texts, visual)
        words = texts[..., : self.joint.width]
        states = torch.cat([words[rows], part.to(self.precision)], dim=1)
        return self.upper(states)[:, 0].float()

    def bytes_per_pair(self, sequence: int) -> int:
        """States, projections and feed-forward of one layer, and the embedding in float32."""
        layer = self.last
        numbers = 6 * self.joint.width + layer.expand.bias.numel() + layer.heads * sequence
        return sequence * (numbers * self.precision.itemsize + 8 * self.joint.width)

    def rehearsal(self, sequence: int) -> Callable[[int], object]:
        """The first layer, which is the last if there is only one."""
        layer = self.layers[0] if self.layers else self.last
        device, width = self.last.expand.bias.device, self.joint.width
        return lambda pairs: layer(
            torch.zeros(pairs, sequence, width, dtype=self.precision, device=device)
        )

    def _upper(self, states: Tensor) -> Tensor:
        """The layers that read text and image together; the last one only for [CLS]."""
        for layer in self.layers[self.joint.fusion_layer :]:
            states = layer(states)
        return self.last(states)

    def _entering(self, visual: Tensor) -> Tensor:
        """Visual tokens for models where they join at a later layer."""
        assert self.joint.visual_type is not None
        return self.joint.entering(visual) + self.joint.visual_type

    def _after(self, texts: Tensor, visual: Tensor) -> Tensor:
        """Visual tokens and [SEP], embedded at the positions that follow the text's."""
        separator = self.joint.word_embeddings.weight[self.joint.separator_id]
        part = torch.cat([visual, separator.expand(len(visual), 1, -1)], dim=1)
        if self.joint.visual_type is not None:
            part = part + self.joint.visual_type
        segment = int(self.joint.has_segments)
        return self._embedded(part, first_position=texts.shape[1], segment=segment)

    def _embedded(self, vectors: Tensor, first_position: int, segment: int) -> Tensor:
        """The model's own embedding; positions and segments are broadcast over the batch."""
        length, device = vectors.shape[1], vectors.device
        start = self.joint.first_position + first_position
        return self.embeddings(
            inputs_embeds=vectors,
            position_ids=torch.arange(start, start + length, device=device)[None],
            token_type_ids=torch.full((1, length), segment, device=device),
        )
