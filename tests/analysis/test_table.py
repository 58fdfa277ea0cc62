import io
import json

import pytest
from rich.console import Console

from edje.analysis.runs import read_metrics
from edje.analysis.table import metrics_table


def printed(metrics, width):
    out = io.StringIO()
    Console(file=out, width=width).print(metrics_table(metrics))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_every_figure_is_readable_at_every_width(run_folder, width):
    metrics = read_metrics(run_folder)
    text = printed(metrics, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for direction in ("t2i", "i2t"):
        for stage in ("first_stage", "reranked", "ceiling"):
            for estimate in metrics[direction][stage].values():
                low, high = estimate["low"], estimate["high"]
                assert f"{estimate['value']:.1f} [{low:.1f}, {high:.1f}]" in text
        for estimate in metrics[direction]["gain"].values():
            low, high = estimate["low"], estimate["high"]
            assert f"{estimate['value']:+.1f} [{low:+.1f}, {high:+.1f}]" in text


def test_the_widest_figures_fit_in_80_columns(run_folder):
    metrics = read_metrics(run_folder)
    for direction in ("t2i", "i2t"):
        for name, stage in metrics[direction].items():
            for estimate in stage.values():
                estimate.update(dict.fromkeys(estimate, -99.9 if name == "gain" else 100.0))
    text = printed(metrics, 80)
    assert text.count("100.0 [100.0, 100.0]") == 18
    assert text.count("-99.9 [-99.9, -99.9]") == 6
    assert "…" not in text


def test_what_it_cost_and_what_it_was_measured_on_is_said(run_folder):
    text = printed(read_metrics(run_folder), 80)
    assert "shapes test · 12 images · 36 captions · seed 0" in text
    assert "49,152 bytes per image · 3,812 pairs/s (cpu, float32)" in text
    assert "score: joint · trained on shapes" in text
    assert "recall of the 6 candidates" in text


def test_many_ties_are_told_and_few_are_not(run_folder):
    metrics = read_metrics(run_folder)
    assert "tie exactly" not in printed(metrics, 80)
    metrics["share_of_ties"]["t2i"] = 0.25
    assert "25% of the text → image scores tie exactly" in printed(metrics, 80)


def test_metrics_with_little_in_them_still_make_a_table(run_folder):
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert "image → text" not in printed({"t2i": metrics["t2i"]}, 80)
    assert "95% bootstrap" in printed({}, 80)
