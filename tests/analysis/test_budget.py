import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edje.analysis import budget_plot, budget_table, load_runs, read_metrics
from edje.errors import EdjeError

SPEEDS = {16: (900.0, 1100.0), 4: (2000.0, 3000.0)}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., dict]) -> Path:
    """Two seeds with 16 tokens, two with 4, a failed job."""
    root = tmp_path_factory.mktemp("runs") / "tokens"
    for job, (tokens, seed) in enumerate([(16, 0), (16, 1), (4, 0), (4, 1)]):
        run = root / str(job)
        make_run(run, images=20, seed=seed)
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace("tokens: 8", f"tokens: {tokens}"))
        with_metrics(run, storage_bytes_per_image=256 * tokens)
        with_metrics(run, scored_pairs_per_second=SPEEDS[tokens][seed])
    (root / "4").mkdir()
    (root / "4" / "error.txt").write_text("out of luck")
    (root / "4" / "config.yaml").write_text("seed: 0\n")
    return root


def with_metrics(folder: Path, **entries: object) -> None:
    path = folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_a_row_holds_what_the_runs_of_a_budget_measured(sweep: Path) -> None:
    table = budget_table(sweep)
    assert table[["tokens", "runs", "bytes"]].to_numpy().tolist() == [[4, 2, 1024], [16, 2, 4096]]
    assert table["speed"].tolist() == [2500, 1000]
    assert table["speed.low"].tolist() == [2000, 900]
    assert table["speed.high"].tolist() == [3000, 1100]
    assert set(table["device"]) == {"cpu, float32"}
    for way in ("t2i", "i2t"):
        for stage, column in (("reranked", way), ("first_stage", f"{way}.first_stage")):
            each = [read_metrics(sweep / str(job))[way][stage]["recall@1"] for job in (2, 3)]
            assert table[column][0] == pytest.approx(np.mean([one["value"] for one in each]))
        assert (table[f"{way}.low"] <= table[way]).all()
        assert (table[way] <= table[f"{way}.high"]).all()


def test_rows_chosen_from_a_table_of_runs_are_enough(sweep: Path) -> None:
    runs = load_runs(sweep)
    table = budget_table(runs[runs["seed"] == 1])
    assert table["runs"].tolist() == [1, 1] and table["speed"].tolist() == [3000, 1100]


def test_runs_that_lack_what_is_laid_out_are_refused(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(EdjeError, match=r"no column adapter\.tokens"):
        budget_table(sweep, by="adapter.tokens")
    runs = load_runs(sweep)
    runs.loc[0, "scored_pairs_per_second"] = np.nan
    with pytest.raises(EdjeError, match=r"num_tokens=16 lack scored_pairs_per_second"):
        budget_table(runs)
    mixed = load_runs(sweep)
    mixed.loc[0, "storage_bytes_per_image"] = 1
    with pytest.raises(EdjeError, match="num_tokens=16 store 1 and 4,096 bytes per image: choose"):
        budget_table(mixed)
    with pytest.raises(EdjeError, match="no finished run"):
        budget_table(runs[runs["status"] == "failed"])


def test_a_plot_places_every_budget_by_its_bytes_and_by_its_speed(sweep: Path) -> None:
    table = budget_table(sweep)
    figure = budget_plot(table, taken=4)
    (left, right), (legend,) = figure.axes, figure.legends
    assert [text.get_text() for text in legend.get_texts()].count("4 tokens, taken") == 1
    for panel, column in ((left, "bytes"), (right, "speed")):
        for way, drawn in zip(("t2i", "i2t"), panel.containers, strict=True):
            points = drawn.lines[0].get_xydata()
            np.testing.assert_allclose(points[:, 0], table[column], rtol=0.02)
            np.testing.assert_allclose(points[:, 1], table[way])
        numbers = {text.get_text(): text for text in panel.texts}
        assert set(numbers) == {"4", "16"}
        assert numbers["4"].get_fontweight() == "bold"
        assert numbers["16"].get_fontweight() == "normal"
        assert numbers["4"].xy[0] == table[column][0]
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["1,024", "4,096"]
    assert right.get_xlabel() == "pairs scored per second (cpu, float32)"


def test_level_bars_reach_from_the_slowest_run_to_the_fastest(sweep: Path) -> None:
    table = budget_table(sweep)
    right = budget_plot(table).axes[1]
    segments = right.containers[0].lines[2][0].get_segments()  # of the first series, level
    widths = [segment[:, 0].max() - segment[:, 0].min() for segment in segments]
    np.testing.assert_allclose(widths, table["speed.high"] - table["speed.low"])
