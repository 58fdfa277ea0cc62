"""The search space of a study, in Hydra's own sweep syntax."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep

from edje.errors import EdjeError

Value = bool | int | float | str  # a choice that isn't a number is its command-line text


@dataclass(frozen=True)
class SearchSpace:
    """Swept keys with optuna's distributions of their values; everything else is fixed."""

    fixed: tuple[str, ...]
    prefixed: Mapping[str, str]  # by key, the key as overrides write it
    distributions: Mapping[str, Any]

    def overrides(self, values: Mapping[str, Value]) -> list[str]:
        """The overrides of the job that tries these values."""
        return [*self.fixed, *(f"{self.prefixed[key]}={value}" for key, value in values.items())]

    def corners(self) -> list[dict[str, Value]]:
        """A few combinations that include each choice and each end of an interval at least once."""
        ends = {
            key: list(getattr(one, "choices", None) or (one.low, one.high))
            for key, one in self.distributions.items()
        }
        count = max(map(len, ends.values()))
        return [
            {key: values[min(row, len(values) - 1)] for key, values in ends.items()}
            for row in range(count)
        ]


def search_space(overrides: Sequence[Override]) -> SearchSpace:
    """The search space of these overrides; the later of two for the same key counts.

    Raises:
        EdjeError: no key is swept, or a value isn't a valid set of values.
    """
    last = {name_of(override): override for override in overrides}
    swept = {key: override for key, override in last.items() if override.is_sweep_override()}
    if not swept:
        raise EdjeError(
            "hydra/sweeper=optuna: no key has values to choose from. Give some, such as "
            "'optim.lr=tag(log, interval(1e-5, 1e-3))' or adapter.num_tokens=16,32."
        )
    return SearchSpace(
        fixed=tuple(str(one.input_line) for key, one in last.items() if key not in swept),
        prefixed={key: override.get_key_element() for key, override in swept.items()},
        distributions={key: distribution(override) for key, override in swept.items()},
    )


def name_of(override: Override) -> str:
    """The key that an override sets, without its prefix."""
    return override.get_key_element().lstrip("+~")


def distribution(override: Override) -> Any:
    """The optuna distribution of a swept override.

    An interval includes both its ends; `range` excludes its stop, as usual.

    Raises:
        EdjeError: a tag is unknown, or there is no value at all.
    """
    given = f"{name_of(override)}={override.get_value_string()}"
    sweep = override.value()
    tags = sweep.tags if isinstance(sweep, Sweep) else set()
    numbers = isinstance(sweep, IntervalSweep | RangeSweep)
    if unknown := sorted(tags - ({"log"} if numbers else set())):
        known = "expected log, or no tag" if numbers else "a choice takes none"
        raise EdjeError(f"{given}: the tag {', '.join(unknown)} is unknown here: {known}.")
    try:
        return numeric(sweep, "log" in tags) if numbers else categorical(override)
    except ValueError as error:
        raise EdjeError(f"{given}: {error}") from error


def numeric(sweep: Any, log: bool) -> Any:
    """The distribution of an interval's or a range's numbers."""
    from optuna.distributions import FloatDistribution, IntDistribution

    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None and sweep.end is not None
        low, high, step = sweep.start, sweep.end, None
    else:
        values = list(sweep.range())
        if not values:
            raise ValueError("this range contains no number. Give a stop beyond its start.")
        low, high, step = min(values), max(values), abs(sweep.step)
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log, step=1 if step is None else step)
    return FloatDistribution(low, high, log=log, step=step)


def categorical(override: Override) -> Any:
    """The distribution of values without an order."""
    from optuna.distributions import CategoricalDistribution

    texts = override.sweep_string_iterator()
    plain = (
        value if isinstance(value, bool | int | float) else text
        for value, text in zip(override.sweep_iterator(), texts, strict=True)
    )
    return CategoricalDistribution(tuple(plain))
