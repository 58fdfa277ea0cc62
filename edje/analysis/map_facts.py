"""Attention maps in numbers: how concentrated, how similar, how much weight on marked places."""

from math import log

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edje.errors import EdjeError


def map_facts(
    maps: Float[Tensor, "pictures heads tokens places"],
    inside: Bool[Tensor, "pictures places"] | None = None,
) -> pd.DataFrame:
    """How attention maps are spread, in percent: a row per head, and one for the heads' mean map.

    Columns: `maps` (head 1, …, mean of heads); `entropy`, relative to a uniform map's;
    `tokens.overlap`, what the maps of two tokens of a picture have in common;
    `pictures.overlap`, what the maps of one token in two pictures have in common. With `inside`,
    which marks places of each picture: the weight on those places (`inside`), and what uniform
    maps would put there (`inside.uniform`).

    Raises:
        EdjeError: there is only one token or only one picture.
    """
    named = {f"head {head + 1}": maps[:, head] for head in range(maps.shape[1])}
    rows = []
    for name, own in {**named, "mean of heads": maps.mean(dim=1)}.items():
        figures = {
            "entropy": normalised_entropy(own),
            "tokens.overlap": map_overlap(own),
            "pictures.overlap": map_overlap(own.transpose(0, 1)),
        }
        if inside is not None:
            marked = inside.to(own.dtype)
            figures["inside"] = torch.einsum("itn,in->it", own, marked)
            figures["inside.uniform"] = marked.mean(dim=1)
        rows.append({"maps": name} | {key: 100 * float(of.mean()) for key, of in figures.items()})
    return pd.DataFrame(rows)


def normalised_entropy(maps: Float[Tensor, "*batch places"]) -> Float[Tensor, "*batch"]:
    """Entropy of each map over a uniform map's: 1 for equal weights, 0 for a single place."""
    return torch.special.entr(maps).sum(dim=-1) / log(maps.shape[-1])


def map_overlap(maps: Float[Tensor, "*batch maps places"]) -> Float[Tensor, "*batch"]:
    """The share of weight that two maps have in common, mean over all pairs: 1 equal, 0 disjoint.

    At each place, two maps have the smaller of their weights in common.

    Raises:
        EdjeError: there are fewer than two maps.
    """
    count = maps.shape[-2]
    if count < 2:
        raise EdjeError(f"map_overlap: got {count} map, expected two or more to compare.")
    # In ascending order, the i-th weight is the smaller one in its pairs with all that follow.
    pairs = torch.arange(count - 1, -1, -1, dtype=maps.dtype, device=maps.device)
    common = (maps.sort(dim=-2).values * pairs[:, None]).sum(dim=(-2, -1))
    return common / pairs.sum()
