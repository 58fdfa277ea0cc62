"""Errors in a configuration, and how they are worded."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

UNKNOWN = object()  # a value that is missing or unresolvable; it is reported at its own key


@dataclass(frozen=True)
class Problem:
    """One error in a configuration: where, what, and the nearest valid name."""

    key: str
    what: str
    nearest: str | None = None

    def __str__(self) -> str:
        return f"{self.key}{self.what}" + (f" Did you mean {self.nearest}?" if self.nearest else "")


def untrained_tokens(budgets: Sequence[int], num_tokens: int) -> Iterator[Problem]:
    """A problem if nested budgets don't end with the number of tokens that are used by default."""
    if budgets and max(budgets) != num_tokens:
        what = (
            f"={list(budgets)}: the largest must be adapter.num_tokens={num_tokens}, so that every "
            f"token is trained. End the list with {num_tokens}, or set "
            f"adapter.num_tokens={max(budgets)}."
        )
        yield Problem("adapter.budgets", what)


def nothing_held_back(score: str, dev_every: int, *, is_mixture: bool) -> Iterator[Problem]:
    """The problems of a training whose data holds no images back."""
    none, way = "data.dev_images=0 holds none back", "Set data.dev_images"
    fitted = {"sum": "weight"}
    if is_mixture:
        none = "the mixture holds none back"
        way = "Choose data@data.evaluated with data.evaluated.dev_images=1000"
        fitted["residual"] = "scale"  # otherwise fitted on the training set
    if score in fitted:
        what = (
            f"={score}: its {fitted[score]} is fitted on images held back from training, and "
            f"{none}. {way}, or take score=joint."
        )
        yield Problem("score", what)
    if dev_every:
        what = (
            f"={dev_every} scores images held back from training, and {none}. {way}, or "
            "scoring.dev_every=0."
        )
        yield Problem("scoring.dev_every", what)


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The valid name most similar to the given one; None if no name is similar."""
    close = get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return close[0] if close else None


def listed(names: Iterable[str]) -> str:
    """Names separated by commas; `nothing` if there are none."""
    return ", ".join(names) or "nothing"


def short(target: str) -> str:
    """The last part of a dotted name."""
    return target.rpartition(".")[2]


def shown(value: Any) -> str:
    """`=value` in YAML's form, cut to one line; empty for nodes and unknown values."""
    if value is UNKNOWN or (isinstance(value, Mapping) and value):
        return ""
    text = {None: "null", True: "true", False: "false"}.get(value) if _is_flag(value) else None
    text = text or (repr(value) if value == "" else str(value))
    return "=" + (text if len(text) <= 60 else text[:57] + "...")


def _is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def kind_of(value: Any) -> str:
    """The type of a value, worded as in `describe`."""
    names = {str: "str", list: "list", dict: "mapping", type(None): "null"}
    return names.get(type(value), type(value).__name__)
