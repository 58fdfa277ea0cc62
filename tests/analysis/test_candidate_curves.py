import pandas as pd
import pytest
import torch

from edje.analysis import candidate_curve, candidate_curve_plot, read_metrics
from edje.records import DIRECTIONS, CandidateList
from edje.retrieval.report import STAGES, stage_columns
from edje.retrieval.rerank import RerankedList


def test_what_each_query_adds_to_each_stage_is_worked_by_hand():
    """Two queries, three candidates: one found second and put first, one not listed at all."""
    scores = torch.tensor([[0.9, 0.8, 0.7], [0.9, 0.8, 0.7]])
    relevant = torch.tensor([[False, True, False], [False, False, False]])
    final = torch.tensor([[0.1, 0.5, 0.2], [0.3, 0.2, 0.1]])
    first = CandidateList(
        "t2i", torch.arange(3).repeat(2, 1), scores, relevant, torch.tensor([1, 1])
    )
    columns = stage_columns(RerankedList(first, final, final), [1, 2])
    assert columns.tolist() == [[0, 100, 100, 100, 100, 100, 100, 0], [0] * 8]


def test_its_last_row_is_that_of_metrics_json(run_folder):
    for k in (1, 5):
        table, metrics = candidate_curve(run_folder, k=k), read_metrics(run_folder)
        last = table.drop_duplicates("direction", keep="last").set_index("direction")
        for direction in DIRECTIONS:
            assert last["candidates"][direction] == metrics["num_candidates"][direction]
            for stage in STAGES:
                expected = metrics[direction][stage][f"recall@{k}"]
                ends = [last[f"{stage}{end}"][direction] for end in ("", ".low", ".high")]
                assert ends == list(expected.values())


def test_one_candidate_leaves_nothing_to_rerank_and_more_raise_the_ceiling(run_folder):
    table = candidate_curve(run_folder)
    for _, rows in table.groupby("direction"):
        assert rows["candidates"].tolist() == [1, 2, 3, 4, 5, 6]
        one = rows.iloc[0]
        assert one["first_stage"] == one["reranked"] == one["ceiling"] > 0
        assert (rows["first_stage"] == one["first_stage"]).all()
        assert rows["ceiling"].is_monotonic_increasing
        assert (rows["reranked"] <= rows["ceiling"]).all()
        assert (rows["reranked"] - rows["first_stage"]).tolist() == pytest.approx(rows["gain"])


def test_the_order_of_the_candidates_rows_does_not_matter(tmp_path, make_run):
    make_run(tmp_path / "run")
    expected = candidate_curve(tmp_path / "run")
    path = tmp_path / "run" / "candidates.parquet"
    pd.read_parquet(path).sample(frac=1, random_state=0).to_parquet(path)
    pd.testing.assert_frame_equal(candidate_curve(tmp_path / "run"), expected)


def test_its_plot_has_a_panel_per_direction_and_names_its_lines_where_they_end(run_folder):
    figure = candidate_curve_plot(run_folder)
    assert [panel.get_title(loc="left") for panel in figure.axes] == [
        "Text to image",
        "Image to text",
    ]
    table = candidate_curve(run_folder)
    for panel, direction in zip(figure.axes, DIRECTIONS, strict=True):
        rows = table[table["direction"] == direction]
        drawn = {line.get_color(): line.get_ydata().tolist() for line in panel.get_lines()}
        assert rows["reranked"].tolist() in drawn.values()
        said = [text.get_text() for text in panel.texts]
        assert f"reranked {rows['reranked'].iloc[-1]:.1f}" in said
        assert f"ceiling {rows['ceiling'].iloc[-1]:.1f}" in said
