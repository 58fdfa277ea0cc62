"""Calibrations in a checkpoint: dataclasses in memory, plain values in the file."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from edje.records import Direction
from edje.retrieval.calibration import Calibration, OperatingPoint

Calibrations = Mapping[int, Mapping[Direction, Calibration]]  # by number of visual tokens


def plain_calibrations(fitted: Calibrations) -> dict[int, dict[str, Any]]:
    """Nested dictionaries of numbers and strings; operating points as triples of numbers."""
    return {
        count: {direction: _plain(one) for direction, one in of_count.items()}
        for count, of_count in fitted.items()
    }


def calibrations_of(stored: Mapping[int, Mapping[Direction, Any]]) -> Calibrations:
    """The inverse of `plain_calibrations`."""
    return {
        count: {direction: _calibration(values) for direction, values in of_count.items()}
        for count, of_count in stored.items()
    }


def _plain(one: Calibration) -> dict[str, Any]:
    points = [[*vars(point).values()] for point in one.operating_points]
    return asdict(one) | {"operating_points": points}


def _calibration(values: Mapping[str, Any]) -> Calibration:
    points = tuple(OperatingPoint(*point) for point in values["operating_points"])
    return Calibration(**{**values, "operating_points": points})
