"""The user's columns beside an index's own: names, types, and a picture's values."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from edje.errors import EdjeError
from edje.index.given_pictures import valid_id
from edje.index.image_table import OURS

log = logging.getLogger(__name__)
NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)  # names that a filter doesn't need to quote
UNFIT = (pa.ArrowException, OverflowError, TypeError, ValueError)  # Arrow's errors of values


class UserColumns:
    """The value of `add(columns=…)`: for each name one value for all, or a mapping of ids.

    Raises:
        EdjeError: it is no mapping, a name is taken or invalid, values have no common type, or
            an id is no text.
    """

    def __init__(self, given: Mapping[str, Any] | None):
        if given is not None and not isinstance(given, Mapping):
            raise EdjeError(
                f"columns: got {given!r}, expected names with their values: {{'album': 'Rome'}}."
            )
        self.given = {
            name: {valid_id(one): each for one, each in value.items()}
            if isinstance(value, Mapping)
            else value
            for name, value in (given or {}).items()
        }
        self._arrays = {name: _array(name, value) for name, value in self.given.items()}

    def missing(self, schema: pa.Schema) -> list[pa.Field]:
        """The columns that a table doesn't have yet.

        Raises:
            EdjeError: it has one of them with values of another type, or lacks one without a
                value.
        """
        missing = []
        for name, array in self._arrays.items():
            if name in schema.names:
                there = schema.field(name).type
                try:
                    pa.array(_values(self.given[name]), there)
                    _check_kept(array, there)
                except UNFIT as error:
                    raise EdjeError(
                        f"columns: {name!r} has type {there} in the index ({error}). Give "
                        "values of that type, or another name."
                    ) from error
            elif pa.types.is_null(array.type):
                raise EdjeError(f"columns: {name!r} has no value. Leave it out, or give one.")
            else:
                missing.append(pa.field(name, array.type))
        return missing

    @property
    def by_id(self) -> dict[str, Mapping[str, Any]]:
        """The columns whose values are given by ids."""
        return {name: value for name, value in self.given.items() if isinstance(value, Mapping)}

    def warn_of_other_ids(self, ids: Sequence[str]) -> None:
        """Warn of a column of which no value is for a picture of an addition."""
        for name, values in self.by_id.items():
            if values and ids and values.keys().isdisjoint(ids):
                log.warning(
                    "columns: no picture has a value of %r: it has values for ids such as %r, the "
                    "pictures have ids such as %r",
                    name,
                    next(iter(values)),
                    ids[0],
                )

    def of(self, image_id: str) -> dict[str, Any]:
        """A picture's values; columns without a value for it stay unchanged."""
        return {
            name: value[image_id] if isinstance(value, Mapping) else value
            for name, value in self.given.items()
            if not isinstance(value, Mapping) or image_id in value
        }


def _check_kept(array: pa.Array, there: pa.DataType) -> None:
    """Refuse values of which another type would keep a part, which `pa.array` allows."""
    if pa.types.is_decimal(there):  # of these it allows none
        return
    kept = array.cast(there)
    if pa.types.is_timestamp(array.type) and not kept.cast(array.type).equals(array):
        raise ValueError("it has no time of day")


def _array(name: str, value: Any) -> pa.Array:
    """The values of a column, in the type that Arrow finds for them."""
    if name in OURS or not NAME.fullmatch(name):
        why = "is a column of the index's own" if name in OURS else "can't be the name of a column"
        raise EdjeError(
            f"columns: {name!r} {why}. Name it with letters, digits and _, and none of "
            f"{', '.join(OURS)}."
        )
    try:
        return pa.array(_values(value))
    except UNFIT as error:
        raise EdjeError(f"columns: values of {name!r} have no common type ({error}).") from error


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else [value]
