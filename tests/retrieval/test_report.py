import re
from pathlib import Path

import torch

from edje.records import CandidateList
from edje.retrieval.report import candidate_columns, query_columns, retrieval_metrics
from edje.retrieval.rerank import RerankedList

# Four captions of two images; the pool holds two of three images.
FIRST = CandidateList(
    "t2i",
    torch.tensor([[0, 2], [1, 0], [1, 2], [0, 2]]),
    torch.tensor([[0.9, 0.8], [0.7, 0.6], [0.5, 0.5], [0.4, 0.3]]),
    torch.tensor([[True, False], [False, True], [True, False], [False, False]]),
    torch.tensor([1, 1, 1, 1]),
)
JOINT = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
RERANKED = RerankedList(FIRST, JOINT, JOINT)
IMAGES = torch.tensor([0, 0, 1, 1])


def values(results, stage):
    return [results["t2i"][stage][f"recall@{k}"]["value"] for k in (1, 5, 10)]


def test_the_report_of_four_captions_worked_by_hand():
    results = retrieval_metrics({"t2i": RERANKED}, {"t2i": IMAGES})
    assert values(results, "first_stage") == [25.0, 75.0, 75.0]
    assert values(results, "reranked") == [75.0, 75.0, 75.0]
    assert values(results, "ceiling") == [75.0, 75.0, 75.0]
    assert values(results, "gain") == [50.0, 0.0, 0.0]
    assert results["num_candidates"] == {"t2i": 2}
    assert results["share_of_ties"] == {"t2i": 0.0}


def test_candidates_of_one_kind_are_no_ties_in_the_direction_that_has_kinds():
    constant = {"t2i": RerankedList(FIRST, 0 * JOINT, 0 * JOINT)}
    kinds = torch.tensor([7, 7, 8])
    for given, share in (({"t2i": kinds}, 6 / 8), ({"i2t": kinds}, 1.0), (None, 1.0)):
        results = retrieval_metrics(constant, {"t2i": IMAGES}, kinds=given)
        assert results["share_of_ties"] == {"t2i": share}


def test_intervals_enclose_their_values_and_k_above_the_pool_sees_the_pool():
    results = retrieval_metrics({"t2i": RERANKED}, {"t2i": IMAGES})["t2i"]
    for stage in results.values():
        for estimate in stage.values():
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
    assert results["first_stage"]["recall@10"] == results["ceiling"]["recall@10"]


def test_reranking_never_passes_the_ceiling():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        joint = torch.randn(4, 2, generator=generator)
        results = retrieval_metrics({"t2i": RerankedList(FIRST, joint, joint)}, {"t2i": IMAGES})
        assert values(results, "reranked")[0] <= values(results, "ceiling")[0]


def test_columns_hold_one_row_per_pair_and_per_query():
    columns = candidate_columns(RERANKED, ["a", "b", "c", "d"], ["x", "y", "z"])
    assert columns["query_id"] == ["a", "a", "b", "b", "c", "c", "d", "d"]
    assert columns["candidate_id"] == ["x", "z", "y", "x", "y", "z", "x", "z"]
    assert columns["rank_first"] == [1, 2] * 4
    assert columns["joint"] == [1, 0, 0, 1, 1, 0, 1, 0]
    assert columns["relevant"] == [True, False, False, True, True, False, False, False]
    assert columns["first_stage"] == FIRST.scores.flatten().tolist()
    assert {len(column) for column in columns.values()} == {8}
    queries = query_columns(RERANKED, ["a", "b", "c", "d"], ["x", "x", "y", "y"])
    assert queries["image_id"] == ["x", "x", "y", "y"]
    assert queries["num_relevant"] == [1, 1, 1, 1]
    assert queries["text"] == [None] * 4


def test_the_page_of_formats_names_every_column():
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    written = {
        "candidates": candidate_columns(RERANKED, ["a", "b", "c", "d"], ["x", "y", "z"]),
        "queries": query_columns(RERANKED, ["a", "b", "c", "d"], ["x", "x", "y", "y"]),
    }
    for name, columns in written.items():
        named = re.search(rf"`{name}.parquet` has ([^.;]*)", page)
        assert named is not None
        assert set(re.split(r", | and ", re.sub(r" \(.*?\)", "", named[1]))) == set(columns)
