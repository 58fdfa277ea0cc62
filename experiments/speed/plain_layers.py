"""The scorer's layers in plain torch, as modules, for torch.compile and torchao."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainLayer(nn.Module):
    """A layer of BERT without a mask, its weights copied; query, key and value are one product."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        own, after = layer.attention.self, layer.attention.output
        self.heads = own.num_attention_heads
        self.take_over(own)
        self.mix, self.expand, self.contract = (
            joined(linear) for linear in (after.dense, layer.intermediate.dense, layer.output.dense)
        )
        self.norms = nn.ModuleList([copied(after.LayerNorm), copied(layer.output.LayerNorm)])

    def take_over(self, own: nn.Module) -> None:
        """Copy the attention's input projections."""
        self.query_key_value = joined(own.query, own.key, own.value)

    def forward(self, states: Tensor) -> Tensor:
        """The layer's output for all rows."""
        query, key, value = self.query_key_value(states).chunk(3, dim=-1)
        return self.rest(states, query, key, value)

    def rest(self, states: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention and everything after it."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        states = self.norms[0](self.mix(attended) + states)
        return self.norms[1](self.contract(F.gelu(self.expand(states))) + states)


class FirstRowLayer(PlainLayer):
    """The last layer, only for [CLS]."""

    def take_over(self, own: nn.Module) -> None:
        """Copy the attention's input projections."""
        self.query, self.key_value = joined(own.query), joined(own.key, own.value)

    def forward(self, states: Tensor) -> Tensor:
        """The layer's output for row 0."""
        key, value = self.key_value(states).chunk(2, dim=-1)
        return self.rest(states[:, :1], self.query(states[:, :1]), key, value)


def plain_layers(stack: nn.ModuleList, dtype: torch.dtype) -> nn.Sequential:
    """All layers of a BERT."""
    *layers, last = stack
    plain = nn.Sequential(*(PlainLayer(layer) for layer in layers), FirstRowLayer(last))
    return plain.requires_grad_(False).to(dtype).eval()


def joined(*linears: nn.Linear) -> nn.Linear:
    """One linear layer with the concatenated outputs of these layers."""
    outputs = sum(linear.out_features for linear in linears)
    one = nn.Linear(linears[0].in_features, outputs)
    one.weight.data = torch.cat([linear.weight.data for linear in linears])
    one.bias.data = torch.cat([linear.bias.data for linear in linears])
    return one


def copied(norm: nn.LayerNorm) -> nn.LayerNorm:
    """A copy of a norm."""
    other = nn.LayerNorm(norm.normalized_shape, norm.eps)
    other.load_state_dict(norm.state_dict())
    return other
