"""The user's columns beside an index's own: names, types, and a picture's values."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from edje.errors import EdjeError
from edje.index.image_table import OURS

log = logging.getLogger(__name__)
NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)  # names that a filter doesn't need to quote


class UserColumns:
    """The value of `add(columns=…)`: for each name one value for all, or a mapping of ids.

    Raises:
        EdjeError: it is no mapping, a name is taken or invalid, or values have no common type.
    """

    def __init__(self, given: Mapping[str, Any] | None):
        if given is not None and not isinstance(given, Mapping):
            raise EdjeError(
                f"columns: got {given!r}, expected names with their values: {{'album': 'Rome'}}."
            )
        self.given = dict(given or {})
        self._fields = [pa.field(name, _type(name, value)) for name, value in self.given.items()]

    def missing(self, schema: pa.Schema) -> list[pa.Field]:
        """The columns that a table doesn't have yet.

        Raises:
            EdjeError: it has one of them with values of another type.
        """
        for field in self._fields:
            if field.name in schema.names:
                there = schema.field(field.name).type
                try:
                    pa.array(_values(self.given[field.name]), there)
                except pa.ArrowException as error:
                    raise EdjeError(
                        f"columns: {field.name!r} has type {there} in the index ({error}). Give "
                        "values of that type, or another name."
                    ) from error
        return [field for field in self._fields if field.name not in schema.names]

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


def _type(name: str, value: Any) -> pa.DataType:
    if name in OURS or not NAME.fullmatch(name):
        why = "is a column of the index's own" if name in OURS else "can't be the name of a column"
        raise EdjeError(
            f"columns: {name!r} {why}. Name it with letters, digits and _, and none of "
            f"{', '.join(OURS)}."
        )
    try:
        found = pa.array(_values(value)).type
    except pa.ArrowException as error:
        raise EdjeError(f"columns: values of {name!r} have no common type ({error}).") from error
    if pa.types.is_null(found):
        raise EdjeError(f"columns: {name!r} has no value. Leave it out, or give one.")
    return found


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else [value]
