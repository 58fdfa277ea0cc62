from pathlib import Path

import numpy as np
import pytest

from edje.analysis import failure_bars, failures
from edje.analysis.style import BAD, GOOD


def test_a_bar_to_the_right_is_what_was_fixed_and_one_to_the_left_what_was_broken(
    run_folder: Path,
) -> None:
    table = failures(run_folder)
    panel = failure_bars(run_folder).axes[0]
    bars = [one for one in panel.containers if hasattr(one, "patches")]
    for sign, name, drawn in zip((1, -1), ("fixed", "broken"), bars, strict=True):
        widths = [patch.get_width() for patch in drawn.patches]
        np.testing.assert_allclose(widths, sign * table[f"{name}.share"])
    labels = [tick.get_text() for tick in panel.get_yticklabels()]
    assert labels[0] == f"all captions ({table['queries'][0]})" and len(labels) == len(table)
    heights = panel.get_yticks()
    assert (np.diff(heights) < 0).all()  # from the top down, in the table's order


@pytest.mark.parametrize(("k", "said"), [(1, "the true image first"), (3, "among the first 3")])
def test_its_words_say_what_counts_as_a_hit_and_how_many_there_are(
    run_folder: Path, k: int, said: str
) -> None:
    table = failures(run_folder, k=k)
    figure = failure_bars(run_folder, k=k)
    assert figure.axes[0].get_title(loc="left").endswith(said)
    (legend,) = figure.legends
    names = {text.get_text() for text in legend.get_texts()}
    assert names == {
        f"{name}: {table[name][0]} of {table['queries'][0]}" for name in ("fixed", "broken")
    }
    colours = {patch.get_facecolor()[:3] for patch in legend.get_patches()}
    assert len(colours) == 2 and GOOD != BAD


def test_intervals_lie_where_the_table_has_them(run_folder: Path) -> None:
    table = failures(run_folder)
    panel = failure_bars(run_folder).axes[0]
    lines = [one.lines[2][0] for one in panel.containers if not hasattr(one, "patches")]
    for name, sign, drawn in zip(("fixed", "broken"), (1, -1), lines, strict=True):
        ends = [sorted(segment[:, 0].tolist()) for segment in drawn.get_segments()]
        expected = [
            sorted((sign * low, sign * high))
            for low, high in table[[f"{name}.share.low", f"{name}.share.high"]].to_numpy()
        ]
        np.testing.assert_allclose(ends, expected, atol=1e-9)
