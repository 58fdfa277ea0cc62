"""The weights of score=sum in a checkpoint: dataclasses in memory, plain values in the file."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from edje.records import Direction
from edje.retrieval.fusion import Standardiser, SumFusion

FittedSums = Mapping[int, Mapping[Direction, SumFusion]]  # by number of visual tokens

FORMER_MARK = " tokens: "  # in older files, after a number of tokens below the full one


def plain_sums(sums: FittedSums) -> dict[int, dict[str, Any]]:
    """Nested dictionaries of numbers."""
    return {
        count: {direction: asdict(fusion) for direction, fusion in of_count.items()}
        for count, of_count in sums.items()
    }


def sums_of(stored: Mapping[Any, Any], num_tokens: int) -> FittedSums:
    """The inverse of `plain_sums`; also reads the older format, for an adapter of `num_tokens`."""
    if any(isinstance(name, str) for name in stored):
        stored = _nested(stored, num_tokens)
    return {
        count: {direction: _fusion(numbers) for direction, numbers in of_count.items()}
        for count, of_count in stored.items()
    }


def _fusion(numbers: Mapping[str, Any]) -> SumFusion:
    first, joint = Standardiser(**numbers["first"]), Standardiser(**numbers["joint"])
    return SumFusion(numbers["weight"], first, joint)


def _nested(flat: Mapping[str, float], num_tokens: int) -> dict[int, dict[str, Any]]:
    """From names such as `t2i.weight`, `i2t.joint.std` and `2 tokens: t2i.first.mean`."""
    nested: dict[int, dict[str, Any]] = {}
    for name, value in flat.items():
        count, _, place = name.rpartition(FORMER_MARK)
        direction, *parts, last = place.split(".")
        node = nested.setdefault(int(count or num_tokens), {}).setdefault(direction, {})
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = value
    return nested
