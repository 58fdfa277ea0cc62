"""Claims about an index whose first stage are embeddings of the user's own."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from edje import ImageIndex, Reranker
from edje.errors import EdjeError
from edje.index.additions import Added
from edje.index.given_embeddings import _of_parquet
from tests.index.indexed import contents


@pytest.fixture
def paths(pictures: Path) -> list[Path]:
    return sorted(pictures.rglob("*.png"))


@pytest.fixture
def matrix(paths: list[Path]) -> np.ndarray:
    """Embeddings of width 7 and of no one length."""
    return np.random.default_rng(0).normal(size=(len(paths), 7))


def test_the_first_stage_is_that_of_the_given_embeddings(
    ranker: Reranker, paths: list[Path], matrix: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "mine.npy", matrix)
    index = ImageIndex.from_embeddings(tmp_path / "a.edje", ranker, tmp_path / "mine.npy", paths)
    query = np.linspace(-1, 1, 7)
    hits = index.search("a red star", k=5, query_embedding=query)
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    cosines = unit @ query / np.linalg.norm(query)
    order = np.argsort(-cosines)[:5]
    first = sorted(hits, key=lambda hit: hit.rank)
    assert [hit.path for hit in first] == [str(paths[row]) for row in order]
    np.testing.assert_allclose([hit.first_stage for hit in first], cosines[order], atol=1e-6)
    own = ImageIndex.open(tmp_path / "own.edje", ranker)
    own.add(paths)
    expected = own.rerank("a red star", [hit.id for hit in first])
    assert [hit.id for hit in hits] == [hit.id for hit in expected]
    np.testing.assert_allclose(
        [hit.score for hit in hits], [hit.score for hit in expected], atol=1e-4
    )
    with pytest.raises(EdjeError, match="pass query_embedding, the query's 7 numbers"):
        index.search("a red star")
    with pytest.raises(EdjeError, match="query_embedding is for an index of your own embeddings"):
        own.search("red", query_embedding=query)


def test_a_table_of_parquet_brings_ids_and_columns(
    ranker: Reranker, paths: list[Path], matrix: np.ndarray, tmp_path: Path
) -> None:
    table = pd.DataFrame(
        {
            "path": list(map(str, paths)),
            "embedding": list(matrix.astype(np.float32)),
            "id": [f"photo {row}" for row in range(len(paths))],
            "year": range(2000, 2000 + len(paths)),
        }
    )
    table.to_parquet(tmp_path / "mine.parquet")
    index = ImageIndex.from_embeddings(tmp_path / "a.edje", ranker, tmp_path / "mine.parquet")
    hits = index.search("red", where="year >= 2009", query_embedding=matrix[3])
    assert {hit.id for hit in hits} == {"photo 9", "photo 10", "photo 11"}
    before = contents(index)
    again = ImageIndex.from_embeddings(tmp_path / "a.edje", ranker, tmp_path / "mine.parquet")
    assert contents(again) == before and again.stats().version == index.stats().version


def test_embeddings_of_parquet_are_never_put_into_one_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A list of Arrow holds at most 2**31 numbers."""
    groups = [[[1.0, 2.0]], [], [[3.0, 4.0], [5.0, 6.0]]]
    lists = pa.chunked_array(groups, pa.list_(pa.float32()))
    others = pa.table({"path": ["a", "b", "c"]})

    class Table:
        schema = others.append_column("embedding", lists).schema

        def __len__(self) -> int:
            return len(lists)

        def column(self, name: str) -> SimpleNamespace:
            return SimpleNamespace(chunks=lists.chunks)  # no combine_chunks

        def drop_columns(self, names: list[str]) -> pa.Table:
            return others

    monkeypatch.setattr("pyarrow.parquet.read_table", lambda path: Table())
    matrix, columns = _of_parquet(Path("mine.parquet"))
    np.testing.assert_array_equal(matrix, np.arange(1, 7, dtype=np.float32).reshape(3, 2))
    assert columns == {"path": ["a", "b", "c"]}


@pytest.mark.parametrize("odd", [[[1.0]], [[1.0, 2.0, 3.0]], [None], [[]]])
def test_lists_of_several_lengths_are_refused(tmp_path: Path, odd: list[Any]) -> None:
    rows = pa.chunked_array([[[1.0, 2.0]], odd], pa.list_(pa.float32()))
    pq.write_table(
        pa.table({"path": ["a", "b"], "embedding": rows}), tmp_path / "m.parquet", row_group_size=1
    )
    with pytest.raises(EdjeError, match="holds no lists of one length"):
        _of_parquet(tmp_path / "m.parquet")


def test_other_embeddings_and_additions_without_are_refused(
    ranker: Reranker, paths: list[Path], matrix: np.ndarray, tmp_path: Path
) -> None:
    folder = tmp_path / "a.edje"
    index = ImageIndex.from_embeddings(folder, ranker, matrix[:6], paths[:6])
    with pytest.raises(EdjeError, match=r"has another embedding of '000\.png'"):
        ImageIndex.from_embeddings(folder, ranker, matrix[::-1], paths)
    with pytest.raises(
        EdjeError, match="has 7 numbers of given embeddings per picture, but these have"
    ):
        ImageIndex.from_embeddings(folder, ranker, matrix[:, :5], paths)
    with pytest.raises(EdjeError, match="has your own embeddings"):
        index.add(paths[0].parent)
    more = ImageIndex.from_embeddings(folder, ranker, matrix, paths)
    assert len(more) == 12
    own = ImageIndex.open(tmp_path / "own.edje", ranker)
    assert own.add(paths) == Added(new=12)
    with pytest.raises(EdjeError, match="has no numbers of given embeddings per picture"):
        ImageIndex.from_embeddings(own.folder, ranker, matrix, paths)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, p: (m, None), "embeddings need paths"),
        (lambda m, p: (m[:3], p), r"shape \(3, 7\) and type float64 for 12 paths"),
        (lambda m, p: (m.astype(int), p), r"type int64 for 12 paths; expected floats"),
        (lambda m, p: (m, [p[0]] * 12), "12 pictures and 1 different ids"),
        (lambda m, p: (m * 0, p), r"the embedding of '\d+\.png' is zero or has numbers"),
        (
            lambda m, p: ([[1.0], [1.0, 2.0]], p),
            "embeddings: got a list .*expected numbers in an array",
        ),
        (lambda m, p: (m, ["nope/1.png", *p[1:]]), r"there is no file .*nope/1\.png"),
        (lambda m, p: (m, "ab"), "got a text as paths or ids"),
        (lambda m, p: (m, [None, *p[1:]]), "a path or an id is missing"),
        (lambda m, p: (m, [*p[:-1], b"GIF89a"]), r"a bytes among paths \(number 11, from 0\)"),
        (
            lambda m, p: (m, [m, *p[1:]]),
            r"a ndarray among paths \(number 0, from 0\), expected the",
        ),
        (lambda m, p: ("absent.npy", p), r"absent\.npy can't be read as a NumPy array"),
        (lambda m, p: ("absent.parquet", None), r"absent\.parquet can't be read as Parquet"),
    ],
)
def test_what_does_not_fit_is_named(
    ranker: Reranker, paths: list[Path], matrix: np.ndarray, tmp_path: Path, make, message: str
) -> None:
    with pytest.raises(EdjeError, match=message):
        ImageIndex.from_embeddings(tmp_path / "a.edje", ranker, *make(matrix, paths))


def test_numbers_may_be_tensors_or_lists_and_are_checked(
    ranker: Reranker, paths: list[Path], matrix: np.ndarray, tmp_path: Path
) -> None:
    """As models return them: in bf16, with a gradient."""
    rounded = torch.tensor(matrix, requires_grad=True).bfloat16()
    index = ImageIndex.from_embeddings(tmp_path / "a.edje", ranker, rounded, paths)
    values = rounded.detach().double()
    for given in (rounded[3], values[3].numpy(), values[3].tolist()):
        first = min(index.search("red", query_embedding=given), key=lambda hit: hit.rank)
        assert first.path == str(paths[3]) and first.first_stage == pytest.approx(1, abs=1e-6)
    many = index.search_many(["red", "blue"], query_embeddings=rounded[:2])
    assert [min(hits, key=lambda hit: hit.rank).path for hits in many] == [*map(str, paths[:2])]
    ids = index.ids()[:2]
    scores = torch.tensor([0.5, 0.25], requires_grad=True).bfloat16()
    assert {hit.id: hit.first_stage for hit in index.rerank("red", ids, scores)} == dict(
        zip(ids, (0.5, 0.25), strict=True)
    )
    wrong: dict[str, Any] = {
        "expected numbers": "a red star",
        "not finite": matrix[3] * np.nan,
        "shape \\(7,\\), all zero": matrix[3] * 0,
    }
    for message, given in wrong.items():
        with pytest.raises(EdjeError, match=f"query_embedding.*{message}"):
            index.search("red", query_embedding=given)
    with pytest.raises(EdjeError, match="first_stage: some of the numbers are not finite"):
        index.rerank("red", ids, [0.5, float("nan")])


def test_pickled_arrays_are_not_read(ranker: Reranker, paths: list[Path], tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(EdjeError, match="Python objects in dtype"):
        ImageIndex.from_embeddings(tmp_path / "a.edje", ranker, tmp_path / "mine.npy", paths)
