import pandas as pd
import pytest
import torch

from edje.analysis.lists import read_lists, recompute_metrics
from edje.errors import EdjeError


def test_the_parquet_files_give_back_every_figure_to_the_last_digit(tmp_path, make_run):
    for seed in (0, 3):
        metrics = make_run(tmp_path / str(seed), seed=seed)
        # The run's bootstrap seed is the evaluator's default here, not the run's own.
        recomputed = recompute_metrics(tmp_path / str(seed), seed=0)
        assert recomputed == {key: metrics[key] for key in recomputed}
        assert {"t2i", "i2t", "num_candidates", "share_of_ties"} <= set(recomputed)


def test_the_bootstrap_seed_is_the_runs_unless_given(run_folder):
    assert recompute_metrics(run_folder) == recompute_metrics(run_folder, seed=0)
    assert recompute_metrics(run_folder) != recompute_metrics(run_folder, seed=1)


def test_the_order_of_the_candidates_rows_does_not_matter(tmp_path, make_run):
    metrics = make_run(tmp_path / "run")
    path = tmp_path / "run" / "candidates.parquet"
    pd.read_parquet(path).sample(frac=1, random_state=0).to_parquet(path)
    assert recompute_metrics(tmp_path / "run")["t2i"] == metrics["t2i"]


def test_rows_stand_for_the_ids_in_the_files(run_folder):
    lists = read_lists(run_folder)["t2i"]
    table = pd.read_parquet(run_folder / "candidates.parquet")
    query = lists.queries["query_id"][5]
    expected = table[(table["direction"] == "t2i") & (table["query_id"] == query)]
    rows = lists.reranked.first.candidates[5].tolist()
    assert [lists.candidate_ids[row] for row in rows] == expected["candidate_id"].tolist()
    torch.testing.assert_close(
        lists.reranked.final[5], torch.tensor(expected["final"].to_numpy(), dtype=torch.double)
    )
    assert lists.reranked.first.scores[5].diff().max() <= 0


def test_files_that_are_missing_or_do_not_belong_together_are_refused(tmp_path, make_run):
    run = tmp_path / "run"
    make_run(run)
    candidates = pd.read_parquet(run / "candidates.parquet")
    candidates.iloc[:-1].to_parquet(run / "candidates.parquet")
    with pytest.raises(EdjeError, match="don't match"):
        read_lists(run)
    candidates.drop(columns="joint").to_parquet(run / "candidates.parquet")
    with pytest.raises(EdjeError, match="no column joint"):
        read_lists(run)
    (run / "queries.parquet").unlink()
    candidates.to_parquet(run / "candidates.parquet")
    with pytest.raises(EdjeError, match=r"No queries\.parquet"):
        read_lists(run)


def test_captions_with_equal_texts_are_no_ties(tmp_path, make_run):
    """The evaluation knows them by their texts."""
    run = tmp_path / "run"
    make_run(run)
    queries = pd.read_parquet(run / "queries.parquet")
    candidates = pd.read_parquet(run / "candidates.parquet")
    candidates["final"] = 0.0
    candidates.to_parquet(run / "candidates.parquet")
    assert recompute_metrics(run)["share_of_ties"]["i2t"] > 0.5
    queries["text"] = "the same"
    queries.to_parquet(run / "queries.parquet")
    shares = recompute_metrics(run)["share_of_ties"]
    assert shares["i2t"] == 0 and shares["t2i"] > 0.5
