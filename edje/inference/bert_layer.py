"""BERT layers for inference: fewer, larger products; the last layer only for [CLS]."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from edje.inference.cpu import Dense, attend, attention_for


def is_bert_layer(layer: nn.Module) -> bool:
    """Whether a layer has BERT's parts, each of a type that `BertLayer` supports."""
    part: Any = layer
    try:
        own = part.attention.self
        linears = [own.query, own.key, own.value, part.attention.output.dense]
        linears += [part.intermediate.dense, part.output.dense]
        norms = [part.attention.output.LayerNorm, part.output.LayerNorm]
        heads, activation = own.num_attention_heads, part.intermediate.intermediate_act_fn
    except AttributeError:
        return False
    return (
        all(type(module) is nn.Linear and module.bias is not None for module in linears)
        and all(type(module) is nn.LayerNorm for module in norms)
        and callable(activation)
        and own.query.out_features % heads == 0
        and not getattr(part, "is_decoder", False)
        and not getattr(part, "add_cross_attention", False)
    )


class BertLayer:
    """All rows of a layer, with weights copied once in the number format of their use.

    Query, key and value are one product. There is no mask: every row attends to every row, so all
    sequences of a batch have the same length. There is no dropout. Without `pack` no weights are
    laid out for the processor, so that torch.compile can trace the layer.
    """

    def __init__(self, layer: nn.Module, dtype: torch.dtype, pack: bool = True):
        part: Any = layer
        own = part.attention.self
        self.heads = int(own.num_attention_heads)
        device = part.output.dense.weight.device
        self.attend = attention_for(device, dtype) if pack else attend  # which a compiler can trace
        self._copy_projections(own, dtype, pack)
        activation = part.intermediate.intermediate_act_fn
        self.mix = Dense([part.attention.output.dense], dtype, pack=pack)
        self.expand = Dense([part.intermediate.dense], dtype, activation, pack)
        self.contract = Dense([part.output.dense], dtype, pack=pack)
        self.norms = [
            (norm.weight.detach().to(dtype), norm.bias.detach().to(dtype), norm.eps)
            for norm in (part.attention.output.LayerNorm, part.output.LayerNorm)
        ]

    def _copy_projections(self, own: Any, dtype: torch.dtype, pack: bool) -> None:
        """Copy the attention's input projections."""
        self.query_key_value = Dense([own.query, own.key, own.value], dtype, pack=pack)

    def __call__(
        self, states: Float[Tensor, "pairs sequence width"]
    ) -> Float[Tensor, "pairs sequence width"]:
        """The layer's output."""
        query, key, value = self.query_key_value(states).chunk(3, dim=-1)
        return self._rest(states, self.attend(query, key, value, self.heads))

    def weights(self) -> Iterator[Tensor]:
        """All weights and biases, as they are laid out here."""
        for part in vars(self).values():
            if isinstance(part, Dense):
                yield from (part.weight, part.bias)
        for weight, bias, _ in self.norms:
            yield from (weight, bias)

    def _rest(self, states: Tensor, attended: Tensor) -> Tensor:
        """Output projection and feed-forward, each added to its input and normalised."""
        states = self._normalised(self.mix(attended) + states, 0)
        return self._normalised(self.contract(self.expand(states)) + states, 1)

    def _normalised(self, states: Tensor, which: int) -> Tensor:
        weight, bias, eps = self.norms[which]
        return F.layer_norm(states, weight.shape, weight, bias, eps)


class FirstRowBertLayer(BertLayer):
    """Row 0 of a layer: keys and values of all rows, everything else for row 0 only."""

    def _copy_projections(self, own: Any, dtype: torch.dtype, pack: bool) -> None:
        """Copy the attention's input projections."""
        self.query = Dense([own.query], dtype, pack=pack)
        self.key_value = Dense([own.key, own.value], dtype, pack=pack)

    def __call__(
        self, states: Float[Tensor, "pairs sequence width"]
    ) -> Float[Tensor, "pairs 1 width"]:
        """The first row of the layer's output."""
        first = states[:, :1]
        key, value = self.key_value(states).chunk(2, dim=-1)
        return self._rest(first, self.attend(self.query(first), key, value, self.heads))
