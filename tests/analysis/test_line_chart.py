"""Claims about the small charts of a report."""

import numpy as np
import pytest

from edje.analysis.line_chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LINE_HEIGHT,
    MOST_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Series,
    line_chart,
    number,
)


def series(y, label="R@1", **ends) -> Series:
    values = np.array(y, dtype=float)
    return Series(label, "after", np.arange(1, len(values) + 1.0), values, **ends)


def places(points: str) -> list[tuple[float, ...]]:
    return [tuple(map(float, point.split(","))) for point in points.split()]


def test_values_lie_between_the_ticks_and_the_first_and_last_at_the_sides():
    chart = line_chart("recall", "step", [series([0, 50, 100])], percent=True)
    middle = (TOP + HEIGHT - BOTTOM) / 2
    assert places(chart.lines[0].points) == [
        (LEFT, HEIGHT - BOTTOM),
        ((LEFT + WIDTH - RIGHT) / 2, middle),
        (WIDTH - RIGHT, TOP),
    ]
    ticks = {text: place for place, text in chart.y_ticks}
    assert (ticks["0"], ticks["100"]) == (HEIGHT - BOTTOM, TOP)
    assert chart.lines[0].label == "R@1 100.0" and chart.lines[0].label_y == TOP
    assert chart.description == "R@1 from 0.0 to 100.0"
    assert [text for _, text in chart.x_ticks] == ["1", "2", "3"]


def test_the_axis_of_shares_ends_at_a_hundred_with_ticks_along_all_of_it():
    chart = line_chart("recall", "step", [series([30, 50])], percent=True)
    ticks = [float(text) for _, text in chart.y_ticks]
    assert ticks[0] <= 30 and ticks[-1] == 100 and len(ticks) >= 3


def test_what_is_no_number_is_left_out_and_a_level_line_has_a_chart():
    chart = line_chart("loss", "step", [series([2, np.nan, np.inf, 2])])
    assert [x for x, _ in places(chart.lines[0].points)] == [LEFT, WIDTH - RIGHT]
    assert all(TOP < y < HEIGHT - BOTTOM for _, y in places(chart.lines[0].points))
    assert line_chart("nothing", "step", [series([np.nan])]).lines == ()
    assert len(places(line_chart("one", "step", [series([3])]).lines[0].points)) == 1


def test_a_band_goes_there_above_and_back_below():
    ends = {"low": np.array([0.0, 20.0]), "high": np.array([40.0, 100.0])}
    chart = line_chart("recall", "step", [series([20, 60], **ends)], percent=True)
    corners = places(chart.lines[0].band)
    assert [x for x, _ in corners] == [LEFT, WIDTH - RIGHT, WIDTH - RIGHT, LEFT]
    assert corners[1][1] == TOP and corners[3][1] == HEIGHT - BOTTOM
    assert corners[0][1] < places(chart.lines[0].points)[0][1] < corners[3][1]


@pytest.mark.parametrize("ends", [[50, 50, 50], [99, 100, 98], [0, 1, 2], [3, 90, 4]])
def test_labels_have_a_line_each_in_the_order_of_their_values(ends):
    chart = line_chart("recall", "step", [series([0, end]) for end in ends], percent=True)
    found = sorted((line.label_y, -end) for line, end in zip(chart.lines, ends, strict=True))
    assert [end for _, end in found] == sorted(-end for end in ends)
    gaps = np.diff([place for place, _ in found])
    assert (gaps >= LINE_HEIGHT - 1e-9).all()
    assert found[0][0] >= TOP and found[-1][0] <= HEIGHT - BOTTOM + 1e-9


def test_numbers_are_short():
    numbers = [0.0, 1234.0, -56_789.4, 0.0123456, 99.96, 0.00075, -2e-6]
    told = ["0", "1,234", "-56,789", "0.0123", "100", "7.5e-4", "-2.0e-6"]
    assert [number(value) for value in numbers] == told


def test_long_curves_are_thinned_out_and_keep_their_end():
    chart = line_chart("loss", "step", [series(np.linspace(9, 1, 10_001))])
    points = places(chart.lines[0].points)
    assert MOST_POINTS / 2 < len(points) <= MOST_POINTS
    assert points[-1][0] == WIDTH - RIGHT and chart.lines[0].label == "R@1 1"
