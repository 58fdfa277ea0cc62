"""Claims about the first stage of large indices, here called large from the first picture on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edje import ImageIndex, Reranker
from edje.index.approximate_first_stage import ApproximateFirstStage
from edje.index.exact_first_stage import ExactFirstStage, Wanted
from edje.index.image_table import EMBEDDING, ImageTable, TableFacts
from tests.index.indexed import contents
from tests.tiny.image_files import make_picture

ROWS, WIDTH, K = 20_000, 32, 100


@pytest.fixture(scope="module", params=[0, 200], ids=["all readable", "some broken"])
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    """Embeddings in 50 groups, and perhaps broken pictures."""
    pytest.importorskip("lancedb", reason="LanceDB is not installed (pip install 'edje[index]')")
    draws = np.random.default_rng(0)
    groups = draws.normal(size=(50, WIDTH))
    of_row = groups[np.arange(ROWS) % 50] + 0.7 * draws.normal(size=(ROWS, WIDTH))
    embeddings = (of_row / np.linalg.norm(of_row, axis=1, keepdims=True)).astype(np.float32)
    made = ImageTable.create(tmp_path_factory.mktemp("large"), TableFacts({}, WIDTH, 1))
    rows = [
        {"key": key, "id": f"{key}", "width": key % 10, "embedding": value, "cell": b"x"}
        for key, value in enumerate(embeddings)
    ]
    broken = [
        {"key": ROWS + key, "id": f"broken {key}", "problem": "cut", "cell": b"x"}
        for key in range(request.param)
    ]
    made.write([*rows, *broken], known=False)
    made.make_index(EMBEDDING)
    return made


@pytest.fixture
def stages(table: ImageTable) -> tuple[ExactFirstStage, ApproximateFirstStage]:
    """Both first stages of the table."""
    return ExactFirstStage.of(table, EMBEDDING), ApproximateFirstStage(table, EMBEDDING)


@pytest.mark.parametrize("where", [None, "width = 3", "width = 3 AND id LIKE '%77%'"])
def test_it_finds_nearly_what_the_exact_one_finds_with_the_same_scores(
    stages: tuple[ExactFirstStage, ApproximateFirstStage], where: str | None
) -> None:
    exact, _ = stages
    queries = torch.nn.functional.normalize(exact.embeddings[::1000] + 0.1, dim=1)
    shares = []
    for query in queries:
        right, found = (next(stage.best([Wanted(query, K, where)])) for stage in stages)
        assert len(found.row_ids) == len(right.row_ids) == min(K, right.searched)
        assert found.searched == right.searched
        known = dict(zip(right.row_ids.tolist(), right.scores.tolist(), strict=True))
        for row, score in zip(found.row_ids.tolist(), found.scores.tolist(), strict=True):
            if row in known:
                assert score == pytest.approx(known[row], abs=1e-5)
        assert (found.scores.diff() <= 0).all()
        shares.append(len(known.keys() & set(found.row_ids.tolist())) / len(known))
    assert np.mean(shares) > 0.95


@pytest.mark.parametrize("k", [10**9, 10**20])
def test_more_than_there_are_may_be_wanted(
    stages: tuple[ExactFirstStage, ApproximateFirstStage], k: int
) -> None:
    exact, _ = stages
    for where, least, count in ((None, ROWS // 2, ROWS), ("key < 30", 30, 30)):
        for stage in stages:
            found = next(stage.best([Wanted(exact.embeddings[0], k, where)]))
            assert least <= len(set(found.row_ids.tolist())) <= found.searched == count


@pytest.mark.parametrize(
    ("where", "same"),
    [
        ("", None),
        ("width = 3 -- a comment", "width = 3"),
        ("width = 3 OR\nwidth = 4", "width IN (3, 4)"),
        ("width = 3) OR (width = 4", "width IN (3, 4)"),
    ],
)
def test_both_stages_read_a_filter_alike(
    stages: tuple[ExactFirstStage, ApproximateFirstStage], where: str, same: str | None
) -> None:
    query = stages[0].embeddings[0]
    for stage in stages:
        found, expected = stage.best([Wanted(query, K, where), Wanted(query, K, same)])
        assert found.searched == expected.searched
        assert found.row_ids.tolist() == expected.row_ids.tolist()


def test_its_recall_is_the_share_of_the_exact_candidates_that_it_finds(
    stages: tuple[ExactFirstStage, ApproximateFirstStage],
    table: ImageTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact, approximate = stages
    queries = torch.nn.functional.normalize(exact.embeddings[::2000] - 0.1, dim=1)

    def share() -> float:
        wanted = [Wanted(query, K) for query in queries]
        pairs = zip(exact.best(wanted), approximate.best(wanted), strict=True)
        return float(np.mean([np.isin(one.row_ids, other.row_ids).mean() for one, other in pairs]))

    assert approximate.recall(K, queries) == pytest.approx(share())
    assert approximate.recall(K) > 0.95
    monkeypatch.setattr("edje.index.image_table.PROBES", 5)
    monkeypatch.setattr("edje.index.image_table.REFINED", 1)
    worse = approximate.recall(K, queries)
    assert worse == pytest.approx(share()) and worse < 1


def test_a_large_index_answers_as_a_small_one_through_additions_and_removals(
    ranker: Reranker, pictures: Path, tmp_path: Path
) -> None:
    small = ImageIndex.open(tmp_path / "small.edje", ranker)
    large = ImageIndex.open(tmp_path / "large.edje", ranker, exact_up_to=5)
    for step in range(3):
        for index in (small, large):
            match step:
                case 0:
                    index.add(pictures)
                case 1:
                    index.add(make_picture(tmp_path / "later.png", 5))
                    index.remove(index.ids()[:2])
                case 2:
                    index.optimize()
        assert contents(small).keys() == contents(large).keys()
        assert (small.stats().first_stage, small.stats().recall) == ("exact", 1)
        found = large.stats(["red", "a blue circle"])
        assert (found.first_stage, found.recall) == ("approximate", 1)
        assert large.stats().recall == 1
        for query in ("red", "a blue circle"):
            hits, same = small.search(query, k=5), large.search(query, k=5)
            assert [hit.id for hit in hits] == [hit.id for hit in same]
            for hit, other in zip(hits, same, strict=True):
                assert other.score == pytest.approx(hit.score, abs=1e-5)
                assert other.probability == pytest.approx(hit.probability, abs=1e-5)


def test_an_index_that_grew_small_again_is_searched_exactly(
    ranker: Reranker, pictures: Path, tmp_path: Path
) -> None:
    index = ImageIndex.open(tmp_path / "photos.edje", ranker, exact_up_to=5)
    index.add(pictures)
    assert index.stats().first_stage == "approximate"
    index.remove(index.ids()[:8])
    assert index.stats().first_stage == "exact" and len(index.search("red")) == 4
