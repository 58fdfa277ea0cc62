"""Claims about files in TREC's formats."""

from pathlib import Path

import pandas as pd
import pytest

from edje.analysis import read_lists, write_trec
from edje.analysis.trec import QRELS, RUN, qrels_of_run, read_trec
from edje.errors import EdjeError


def test_a_run_file_has_all_candidates_best_first_with_exact_scores(
    run_folder: Path, tmp_path: Path
) -> None:
    write_trec(run_folder, tmp_path / "run.txt", tag="ours")
    lines = [line.split() for line in (tmp_path / "run.txt").read_text().splitlines()]
    table = pd.read_parquet(run_folder / "candidates.parquet")
    table = table[table["direction"] == "t2i"]
    final = table.set_index(["query_id", "candidate_id"])["final"]
    assert {(q, p): float(score) for q, _, p, _, score, _ in lines} == final.to_dict()
    assert len(lines) == len(table)
    assert {(line[1], line[5]) for line in lines} == {("Q0", "ours")}
    pool = read_lists(run_folder)["t2i"].reranked.final.shape[1]
    for first in range(0, len(lines), pool):
        block = lines[first : first + pool]
        assert len({line[0] for line in block}) == 1
        assert [int(line[3]) for line in block] == list(range(1, pool + 1))
        scores = [float(line[4]) for line in block]
        assert scores == sorted(scores, reverse=True)


def test_a_runs_own_relevance_is_the_image_of_each_caption(run_folder: Path) -> None:
    qrels = dict(qrels_of_run(run_folder))
    assert len(qrels) == 36 and qrels["scene_003#2"] == {"scene_003": 1}


def test_ids_and_tags_with_white_space_are_refused(tmp_path: Path, make_run) -> None:
    make_run(tmp_path / "run")
    with pytest.raises(EdjeError, match=r"can't hold 'my run' of .*white space separates"):
        write_trec(tmp_path / "run", tmp_path / "out", tag="my run")
    path = tmp_path / "run" / "candidates.parquet"
    table = pd.read_parquet(path)
    table["candidate_id"] = table["candidate_id"].replace("scene_004", "my photo.jpg")
    table.to_parquet(path)
    with pytest.raises(EdjeError, match=r"can't hold 'my photo.jpg' of .*the run folder itself"):
        write_trec(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_where_no_file_can_be_written_and_runs_without_texts_are_refused(
    tmp_path: Path, make_run
) -> None:
    make_run(run := tmp_path / "run")
    for path, said in (
        ("", "path='': expected a path"),
        (3, "path=3: expected a path"),
        (tmp_path / "missing" / "out", r"can't write to .*missing.out.*No such file"),
        (run, r"can't write to .*run.*directory"),
    ):
        with pytest.raises(EdjeError, match=said):
            write_trec(run, path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run_images"]
    table = pd.read_parquet(run / "queries.parquet")
    table[table["direction"] == "i2t"].to_parquet(run / "queries.parquet")
    with pytest.raises(EdjeError, match=r"run has no text queries: evaluate this run again"):
        dict(qrels_of_run(run))


@pytest.mark.parametrize(
    ("columns", "text", "said"),
    [
        (RUN, "q Q0 x 1 0.5\n", r"line 1: 'q Q0 x 1 0.5' \(5 columns\). Expected 6 columns, query"),
        (RUN, "q Q0 x 1 0.5 t\n\nq Q0 y 2 high t", r"line 3: .*high.*the score a number"),
        (RUN, "q Q0 x 1 0.5 t\nq Q0 x 2 0.4 t", "line 2: the query q has x twice"),
        (QRELS, "q 0 x 1 0.5 t", "6 columns.*Expected 4 columns, query 0 picture grade"),
        (QRELS, b"q 0 \xff 1", "can't be read"),
        (QRELS, None, "can't be read.*or the folder of an evaluated run"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, columns, text, said: str) -> None:
    if text is not None:
        (tmp_path / "file").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(EdjeError, match=said):
        read_trec(tmp_path / "file", columns)
