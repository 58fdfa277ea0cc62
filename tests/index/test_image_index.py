"""Claims about opening an index and searching it."""

import copy
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image

from edje import ImageIndex, Reranker
from edje.errors import EdjeError
from edje.index.answers import Question, UnknownPicture
from edje.index.built_with import new_facts
from edje.index.hits import Hit
from edje.index.image_table import MAKING, TABLE, ImageTable
from edje.index.indexing import check_there
from edje.inference.encoded_images import EncodedImages
from edje.inference.saved_folder import save_folder
from tests.index.indexed import contents
from tests.tiny.image_files import make_picture
from tests.tiny.rerankers import COMPRESSION, tiny_checkpoint


def test_the_order_is_that_of_the_run_on_its_split_and_candidates(
    index: ImageIndex, run_folder: Path
) -> None:
    paths = pd.read_parquet(run_folder / "images.parquet").set_index("image_id").path
    index.add(dict(paths))
    lists = pd.read_parquet(run_folder / "candidates.parquet")
    queries = pd.read_parquet(run_folder / "queries.parquet").set_index(["direction", "query_id"])
    lists = lists[lists.direction == "t2i"]
    assert len(lists) > 10
    for query, rows in lists.groupby("query_id"):
        hits = index.search(queries.text["t2i", query], k=5, top=5)
        rows = rows.sort_values("final", ascending=False)
        assert {hit.id for hit in hits} == set(rows.candidate_id)
        final = rows.set_index("candidate_id").final
        np.testing.assert_allclose([hit.score for hit in hits], rows.final, atol=1e-3)
        np.testing.assert_allclose([final[hit.id] for hit in hits], rows.final, atol=1e-3)
        first = rows.set_index("candidate_id")
        for hit in hits:
            assert hit.first_stage == pytest.approx(first.first_stage[hit.id], abs=1e-4)


def test_hits_have_all_that_is_known_of_them(
    index: ImageIndex, ranker: Reranker, pictures: Path
) -> None:
    index.add(pictures)
    hits = index.search("a red star", k=6, top=4)
    assert len(hits) == 4 and all(isinstance(hit, Hit) for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    first = sorted(index.search("a red star", k=6, top=6), key=lambda hit: hit.rank)
    assert [hit.rank for hit in first] == [1, 2, 3, 4, 5, 6]
    stages = [hit.first_stage for hit in first]
    assert stages == sorted(stages, reverse=True)
    words, encoded = ranker.encode_text(["a red star"]), ranker.encode([hit.path for hit in first])
    np.testing.assert_allclose(stages, encoded.embeddings @ words[0], atol=1e-5)
    ranked = ranker.rank("a red star", encoded)
    np.testing.assert_allclose(
        [hit.score for hit in hits], [r["score"] for r in ranked][:4], atol=1e-4
    )
    scores = torch.tensor([hit.score for hit in index.search("a red star", k=6, top=6)])
    expected = ranker.probability(scores.double(), 12)
    assert expected is not None
    assert [hit.probability for hit in hits] == pytest.approx(expected[:4].tolist())
    assert hits[0].id in str(hits[0]) and "%" in str(hits[0])


def test_improbable_hits_are_left_out(index: ImageIndex, pictures: Path) -> None:
    index.add(pictures)
    hits = index.search("a red star", top=12)
    probabilities = [hit.probability or 0.0 for hit in hits]
    middle = sorted(probabilities)[6]
    found = index.search("a red star", top=12, min_probability=middle)
    assert found == [hit for hit in hits if (hit.probability or 0.0) >= middle] and found
    assert index.search("a red star", min_probability=1.0) == []


def test_a_filter_narrows_what_is_searched(index: ImageIndex, pictures: Path) -> None:
    index.add(pictures)
    hits = index.search("a red star", k=2, where="id LIKE 'more/%'")
    assert len(hits) == 2 and all(hit.id.startswith("more/") for hit in hits)
    everything = index.search("a red star", k=12, top=12)
    order = [h.id for h in sorted(everything, key=lambda h: h.rank) if h.id.startswith("more/")]
    assert {hit.id for hit in hits} == set(order[:2])
    assert index.search("red", where="width > 1000") == []
    for where, message in (
        ("nonsense = 3", r"invalid filter of the index .* No field named nonsense.*\bid\b"),
        ("width >", "invalid filter of the index .* Expected: an expression"),
        ("width = ?", r"invalid filter 'width = \?': \? stands for a value that nothing gives"),
        ("width = :width", "invalid filter 'width = :width': : stands for a value"),
        ("width = 1)) OR ((width = 2", "a bracket is closed and not opened"),
        ("(width = 1", "a bracket is opened and not closed"),
        ("width = 'wide'", "invalid filter of the index"),
        ("  ", "invalid filter of the index"),
        ("width", "invalid filter of the index .* does not return a boolean"),
        ("width LIKE 'x'", "invalid filter of the index .* to coerce Int32"),
        ("width = 1 && height = 1", "invalid filter of the index .* Operator && is not supported"),
        ("width >= 1 <= 3", "invalid filter of the index .* Boolean <= Int64"),
        ("id IN (SELECT 1)", "invalid filter of the index .* is not supported SQL"),
        ("id = 'a", "invalid filter of the index .*Unterminated string"),
        ("id.x = 1", "invalid filter of the index .* Cannot access field"),
        ("sum(width) > 2", "invalid filter of the index .* Physical plan"),
    ):
        with pytest.raises(EdjeError, match=message):
            index.search("red", where=where)


@pytest.mark.parametrize(
    "where",
    [
        "id NOT IN ('?', ')) OR ((', '$1:x', '--', '/*')",
        "`id` <> 'it''s ) \"' AND (((width)) > 1)",
        "\"id\" <> '`' -- ?)",
        "/* :) */ width::int > 1",
        "array_length(make_array(1, 2, 3)[1:2]) = 2",
    ],
)
def test_brackets_and_placeholders_in_texts_and_comments_are_no_fault(index, pictures, where):
    index.add(pictures / "more")
    assert len(index.search("red", where=where)) == 4


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda index: index.search("red", where=5), "where=5: expected a filter as a text"),
        (lambda index: index.search("red", where="id = '\udcff'"), "expected a filter as a text"),
        (lambda index: index.set_columns({"a": 1}, where=5), "where=5: expected a filter as a"),
        (
            lambda index: index.remove(["a\udcff"]),
            r"1 of 1 ids are not in the index, such as 'a\\\\xff'",
        ),
        (lambda index: index.rerank("red", ["a\udcff"]), "1 of 1 ids are not in the index"),
        (lambda index: index.rerank("red", [], missing="no"), "missing='no', expected error or sk"),
        (lambda index: index.remove(["a\ud800"]), r"'a\\ud800' can't be an id of a picture"),
        (lambda index: index.add({"\ud800": b""}), r"'\\ud800' can't be an id of a picture"),
        (lambda index: index.add([], prefix="\ud800"), r"'\\ud800' can't be an id of a picture"),
        (lambda index: index.stats("two dogs"), "got the text 'two dogs' as queries of stats;"),
        (lambda index: index.stats([]), "stats: queries is empty"),
        (lambda index: index.stats(["red", 5]), "got a int among queries of stats; expected texts"),
        (lambda index: index.optimize(0), "keep=0, expected a datetime.timedelta"),
        (lambda index: index.optimize(timedelta(-1)), "expected a datetime.timedelta"),
        (lambda index: ImageIndex.open(index.folder, None), "got None as reranker, expected a"),
        (lambda index: ImageIndex.open(index.folder, "photos"), "got 'photos' as reranker"),
    ],
)
def test_an_argument_of_a_wrong_kind_is_named_and_no_damage_is_suspected(
    index: ImageIndex, pictures: Path, call: Any, said: str
) -> None:
    index.add(pictures / "000.png")
    with pytest.raises(EdjeError, match=said):
        call(index)


def test_a_file_is_no_index(ranker: Reranker, pictures: Path) -> None:
    with pytest.raises(EdjeError, match=r"000\.png is a file, and an index is a folder"):
        ImageIndex.open(pictures / "000.png", ranker)


@pytest.mark.usefixtures("unchecked")
def test_an_empty_text_is_no_path_of_an_index_or_of_pictures(index: ImageIndex) -> None:
    for call in (
        lambda: index.add(""),
        lambda: index.add([""]),
        lambda: index.sync(""),
        lambda: ImageIndex.open("", index.reranker),
        lambda: check_there(""),
    ):
        with pytest.raises(EdjeError, match=r"path='': expected a path\. The current folder is"):
            call()
    assert not Path(index.folder).exists()


def test_ids_of_another_search_are_reranked_without_a_picture(
    index: ImageIndex, pictures: Path
) -> None:
    index.add(pictures)
    hits = index.search("a red star", k=12, top=12)
    for path in pictures.rglob("*.png"):
        path.unlink()
    ids = [hit.id for hit in sorted(hits, key=lambda hit: hit.id)]
    again = index.rerank("a red star", ids)
    assert [hit.id for hit in again] == [hit.id for hit in hits]
    assert [hit.score for hit in again] == pytest.approx([hit.score for hit in hits], abs=1e-5)
    assert {hit.id: hit.rank for hit in again} == {one: row + 1 for row, one in enumerate(ids)}
    by_id = {hit.id: hit.first_stage for hit in hits}
    given = index.rerank("a red star", ids, [by_id[one] for one in ids])
    assert [hit.score for hit in given] == pytest.approx([hit.score for hit in hits], abs=1e-5)
    other = index.rerank("a red star", ids, [0.0] * len(ids))
    assert {hit.first_stage for hit in other} == {0.0}
    assert [hit.score for hit in other] != pytest.approx([hit.score for hit in hits], abs=1e-5)
    for wrong, scores, message in (
        (["absent", ids[0]], None, "1 of 2 ids are not in the index, such as 'absent'"),
        ([ids[0], ids[0]], None, "an id occurs twice"),
        (ids[:2], [1.0], r"first_stage: got numbers of shape \(1,\), expected 2"),
        (ids[:2], np.zeros((2, 1)), r"first_stage: got numbers of shape \(2, 1\), expected 2"),
        ("000.png", None, "expected a list of ids"),
    ):
        with pytest.raises(EdjeError, match=message):
            index.rerank("red", wrong, scores)
    assert index.rerank("red", []) == []


def test_ids_that_are_gone_are_left_out_where_that_is_asked(
    index: ImageIndex, pictures: Path
) -> None:
    index.add(pictures)
    there = index.ids()[:3]
    ids = ["gone", there[0], "lost", *there[1:]]
    scores = [9.0, 0.25, 9.0, 0.5, 0.125]
    found = index.rerank("a red star", ids, missing="skip")
    assert found == index.rerank("a red star", there)
    given = index.rerank("a red star", ids, scores, missing="skip")
    assert {hit.id: hit.first_stage for hit in given} == dict(
        zip(there, [0.25, 0.5, 0.125], strict=True)
    )
    assert index.rerank("a red star", ["gone"], missing="skip") == []
    asked = [Question("blue", ids=ids, missing="skip"), Question("blue", ids=there)]
    first, second = index.answers(asked)
    assert first.hits == second.hits
    with pytest.raises(EdjeError, match=r"first_stage: got numbers of shape \(3,\), expected 5"):
        index.rerank("red", ids, scores[:3], missing="skip")
    with pytest.raises(EdjeError, match=r"2 of 5 .* such as 'gone', 'lost'; .* missing=\"skip\""):
        index.rerank("red", ids)
    with pytest.raises(UnknownPicture, match=r"2 of 5"):
        index.answers([asked[0], Question("blue", ids=ids)])


def test_a_removal_can_be_repeated_and_names_what_is_not_there(
    index: ImageIndex, pictures: Path
) -> None:
    index.add(pictures)
    first, second, *_ = index.ids()
    many = [f"gone {number}" for number in range(7)]
    with pytest.raises(
        EdjeError,
        match=r"remove: 7 of 8 ids .* such as 'gone 0', .*'gone 4', …; .* Nothing was removed",
    ):
        index.remove([first, *many])
    assert first in index.ids()
    assert index.remove([first, *many], missing_ok=True) == 1
    assert index.remove([first, second], missing_ok=True) == 1
    assert index.remove([first, second], missing_ok=True) == 0 and len(index) == 10


def test_near_duplicates_stand_behind_the_best_of_them(index: ImageIndex, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    for seed in range(3):
        path = make_picture(folder / f"{seed}.png", seed, (64, 64))
        Image.open(path).save(folder / f"{seed} again.png", compress_level=1)
    index.add(folder)
    hits, plain = index.search("red", group_duplicates=0.99999), index.search("red")
    assert len(plain) == 6 and all(hit.duplicates == () for hit in plain)
    assert {frozenset((hit.id, *hit.duplicates)) for hit in hits} == {
        frozenset((f"{seed}.png", f"{seed} again.png")) for seed in range(3)
    }
    assert hits[0].id == plain[0].id and "(+1 near duplicate)" in str(hits[0])
    assert len(index.search("red", top=1, group_duplicates=0.99999)) == 1
    assert len(index.search("red", group_duplicates=True)) == 1  # to a random tower all are alike


@pytest.mark.parametrize("query", ["", "  "])
def test_a_query_is_a_text(index: ImageIndex, pictures: Path, query: str) -> None:
    index.add(pictures / "000.png")
    with pytest.raises(EdjeError, match="as query, expected a text"):
        index.search(query)


def test_what_is_not_there_yet_says_how_it_is_made_and_leaves_nothing_behind(
    index: ImageIndex, tmp_path: Path
) -> None:
    assert len(index) == 0 and index.ids() == [] and index.problems() == []
    for call in (lambda: index.search("red"), index.stats, index.optimize):
        with pytest.raises(EdjeError, match=r"there is no index to \w+ at .*photos\.edje yet"):
            call()
    assert not (tmp_path / "photos.edje").exists()


def test_an_emptied_index_finds_nothing(index: ImageIndex, pictures: Path) -> None:
    index.add(pictures)
    index.remove(index.ids())
    assert index.search("red") == [] and len(index) == 0


def test_another_reranker_is_refused_with_the_difference_and_the_command(
    index: ImageIndex, ranker: Reranker, pictures: Path, run_folder: Path
) -> None:
    index.add(pictures)
    again = ImageIndex.open(index.folder, Reranker.from_pretrained(run_folder / "pretrained"))
    assert len(again) == 12  # the same one, from elsewhere
    other = Reranker.from_pretrained(run_folder, device="cpu")
    with torch.no_grad():
        next(other.model.adapter.parameters()).mul_(2)
    with pytest.raises(EdjeError, match=r"adapter_weights: \w+ in the index, \w+ here") as said:
        ImageIndex.open(index.folder, other)
    assert f"({ranker.name})" in str(said.value)
    assert f"edje index <folder> --into <new folder> --reranker {run_folder}" in str(said.value)


def test_a_reranker_that_reads_other_tokens_is_refused_with_their_number(tmp_path: Path) -> None:
    choices = {**COMPRESSION.choices, "budgets": (2, 4)}
    save_folder(tiny_checkpoint(replace(COMPRESSION, choices=choices)), tmp_path / "nested")
    few, every = (
        Reranker.from_pretrained(tmp_path / "nested", device="cpu", num_tokens=count)
        for count in (2, 4)
    )
    (tmp_path / "few").mkdir()
    ImageTable.create(tmp_path / "few", new_facts(few))
    ImageIndex.open(tmp_path / "few", few)
    with pytest.raises(EdjeError, match=r"that one \(.*/nested, num_tokens=2\), or encode"):
        ImageIndex.open(tmp_path / "few", every)


def test_a_joint_encoder_trained_further_reads_the_same_index(
    index: ImageIndex, pictures: Path, run_folder: Path
) -> None:
    index.add(pictures)
    other = Reranker.from_pretrained(run_folder, device="cpu")
    with torch.no_grad():
        for weight in other.model.joint.parameters():
            weight.mul_(0.9)
    assert len(ImageIndex.open(index.folder, other).search("red")) == 10


def test_a_reader_keeps_its_version_until_it_asks_for_the_present_one(
    index: ImageIndex, ranker: Reranker, pictures: Path
) -> None:
    index.add(pictures / "more")
    reader = ImageIndex.open(index.folder, ranker)
    before = reader.search("red")
    index.add(pictures / "000.png")
    index.remove(["more/008.png"] if "more/008.png" in index.ids() else ["008.png"])
    index.optimize()
    assert reader.search("red") == before and len(reader) == 4
    reader.refresh()
    assert {hit.id for hit in reader.search("red")} == {"000.png", "009.png", "010.png", "011.png"}


def test_optimising_changes_nothing_but_pieces_and_bytes(index: ImageIndex, pictures: Path) -> None:
    for path in sorted(pictures.rglob("*.png")):
        index.add(path)
    index.remove(["000.png"])
    before, hits, stats = contents(index), index.search("red"), index.stats()
    index.optimize(keep=timedelta(0))
    assert contents(index) == before and index.search("red") == hits
    after = index.stats()
    assert stats.fragments == 11 and after.fragments == 1 and after.bytes < stats.bytes
    assert (after.images, after.problems, after.first_stage) == (11, 0, "exact")
    assert after.bytes_per_image == 4 * 32 * 2 + 4 * 32  # 4 tokens of width 32 in bf16; float32
    assert after.built_with["codec"] == "bf16"


def test_a_reader_follows_an_index_that_was_made_anew_in_its_folder(
    index: ImageIndex, ranker: Reranker, run_folder: Path, pictures: Path
) -> None:
    """Its versions have the same numbers."""
    files = sorted(pictures.rglob("*.png"))
    index.add({f"old{row}": file for row, file in enumerate(files)})
    reader = ImageIndex.open(index.folder, ranker)
    reader.search("a red star")
    shutil.rmtree(index.folder)
    anew = ImageIndex.open(index.folder, ranker)
    anew.add({f"new{row}": file for row, file in enumerate(reversed(files))})
    reader.refresh()
    assert reader.search("a red star", k=3) == anew.search("a red star", k=3)
    shutil.rmtree(index.folder)
    other = Reranker.from_pretrained(run_folder, device="cpu")
    next(other.model.adapter.parameters()).data += 1
    ImageIndex.open(index.folder, other).add(files[:3])
    with pytest.raises(EdjeError, match="was built with another reranker: adapter_weights"):
        reader.refresh()
    with pytest.raises(EdjeError, match="there is no index"):
        reader.search("a red star")


def test_a_reader_follows_an_index_made_anew_whose_version_is_lower(
    index: ImageIndex, ranker: Reranker, pictures: Path
) -> None:
    files = sorted(pictures.rglob("*.png"))
    for file in files[:3]:
        index.add(file)
    reader = ImageIndex.open(index.folder, ranker)
    reader.search("a red star")
    shutil.rmtree(index.folder)
    with pytest.raises(EdjeError, match="is gone"):
        reader.refresh()
    anew = ImageIndex.open(index.folder, ranker)
    anew.add(files[3:5])
    reader.refresh()
    assert reader.search("a red star") == anew.search("a red star") and len(reader) == 2


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("off", [False, np.False_])
def test_what_groups_near_duplicates_is_a_truth_or_a_cosine(
    index: ImageIndex, pictures: Path, off: Any
) -> None:
    index.add(pictures)
    assert len(index.search("red", group_duplicates=off)) == 10
    assert index.search("red", group_duplicates=True) == index.search(
        "red", group_duplicates=np.True_
    )
    for wrong in (0, 80, None, float("nan"), "yes"):
        with pytest.raises(EdjeError, match=r"group_duplicates=.*expected True, False, or the"):
            index.search("red", group_duplicates=wrong)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"min_probability": 90}, "min_probability=90: .* Write 90% as 0.9"),
        ({"min_probability": "0.5"}, "min_probability='0.5': expected a number from 0 to 1"),
        ({"top": 2.5}, r"top=2\.5: expected a whole number of 1 or more"),
        ({"k": 2.0}, r"k=2\.0: expected a whole number of 1 or more"),
        ({"k": 0}, "k=0: expected a whole number of 1 or more"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_number_out_of_its_range_is_named(
    index: ImageIndex, pictures: Path, choices: dict[str, Any], said: str
) -> None:
    index.add(pictures)
    with pytest.raises(EdjeError, match=said):
        index.search("red", **choices)
    with pytest.raises(EdjeError, match="exact_up_to='5': expected a whole number of 0 or more"):
        ImageIndex.open(index.folder, index.reranker, exact_up_to="5")


@pytest.mark.parametrize("query", ["", " ", "...", "?!"])
def test_a_query_without_words_is_refused(
    index: ImageIndex, ranker: Reranker, pictures: Path, query: str
) -> None:
    index.add(pictures)
    for call in (index.search, lambda text: ranker.rank(text, index.encoded(index.ids()))):
        with pytest.raises(EdjeError, match="expected a text with words"):
            call(query)


def test_a_reader_whose_version_was_removed_is_told_to_refresh(
    index: ImageIndex, ranker: Reranker, pictures: Path
) -> None:
    index.add(pictures / "more")
    index.add(pictures / "000.png")
    reader = ImageIndex.open(index.folder, ranker)
    index.optimize(keep=timedelta(0))
    with pytest.raises(EdjeError, match=r"index\.refresh\(\) reads its present version"):
        reader.search("red")
    reader.refresh()
    assert len(reader.search("red")) == 5


def test_a_later_format_is_refused(
    index: ImageIndex, ranker: Reranker, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(pictures)
    monkeypatch.setattr("edje.index.image_table.FORMAT", 0)
    with pytest.raises(
        EdjeError, match=r"has format 1, but this version of edje reads 0\. Upgrade"
    ):
        ImageIndex.open(index.folder, ranker)


def test_a_foreign_table_is_refused(ranker: Reranker, tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    lancedb.connect(tmp_path).create_table(TABLE, pa.table({"id": ["a"]}))
    with pytest.raises(EdjeError, match="has a table of Lance that is not an index of edje"):
        ImageIndex.open(tmp_path, ranker)


def test_the_library_is_named_where_it_is_missing(
    ranker: Reranker, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(EdjeError, match=r"needs LanceDB .*pip install 'edje\[index\]'"):
        ImageIndex.open(tmp_path / "a.edje", ranker).add(pictures)


def test_an_interrupted_beginning_is_made_anew(index: ImageIndex, pictures: Path) -> None:
    (index.folder / MAKING / f"{TABLE}.lance" / "data").mkdir(parents=True)
    assert index.add(pictures).new == 12
    assert not (index.folder / MAKING).exists()


FRESH = """
import sys
blocked = ["lightning", "pytorch_lightning", "lightning_fabric", "hydra", "omegaconf"]
sys.modules |= dict.fromkeys(blocked)
import warnings
warnings.simplefilter("error", DeprecationWarning)
import edje
assert "lancedb" not in sys.modules
reranker = edje.Reranker.from_pretrained(sys.argv[1], device="cpu")
index = edje.ImageIndex.open(sys.argv[2], reranker)
index.add(sys.argv[3])
for hit in index.search("two dogs", top=3): print(hit)
"""


@pytest.mark.serving
def test_three_lines_do_without_hydra_and_lightning_and_say_nothing_else(
    run_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    pytest.importorskip("lancedb", reason="LanceDB is not installed (pip install 'edje[index]')")
    done = subprocess.run(
        [sys.executable, "-c", FRESH, run_folder, tmp_path / "a.edje", pictures],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3 and done.stderr == ""


def test_many_searches_together_find_what_each_finds(index: ImageIndex, pictures: Path) -> None:
    index.add(pictures)
    queries = ["a red star", "blue", "a green circle above a red square", "blue", "nothing of it"]
    choices = {"k": 5, "top": 4, "group_duplicates": 0.9, "where": "id != '003.png'"}
    found = index.search_many(queries, **choices)
    assert len(found) == len(queries) and found[1] == found[3]
    for query, hits in zip(queries, found, strict=True):
        alone = index.search(query, **choices)
        assert [(hit.id, hit.rank, hit.duplicates) for hit in hits] == [
            (hit.id, hit.rank, hit.duplicates) for hit in alone
        ]
        for name in ("score", "probability", "first_stage"):
            np.testing.assert_allclose(
                [getattr(hit, name) for hit in hits], [getattr(hit, name) for hit in alone], 1e-4
            )
    assert index.search_many([]) == []
    with pytest.raises(EdjeError, match="expected a list of texts"):
        index.search_many("a red star")


def test_questions_of_several_kinds_are_answered_together(
    index: ImageIndex, pictures: Path
) -> None:
    index.add(pictures)
    ids = index.ids()[:3]
    asked = [
        Question("a red star", k=4),
        Question("blue", ids=ids),
        Question("blue", k=3, where="id LIKE 'more/%'"),
        Question("a red star", ids=[]),
    ]
    answers = index.answers(asked)
    assert [hit.id for hit in answers[0].best(2)] == [
        hit.id for hit in index.search("a red star", k=4, top=2)
    ]
    assert [hit.id for hit in answers[1].hits] == [hit.id for hit in index.rerank("blue", ids)]
    assert all(hit.id.startswith("more/") for hit in answers[2].hits) and answers[2].hits
    assert answers[3].hits == [] and answers[3].best() == []
    ranks = [hit.rank for hit in answers[0].first_stage()]
    assert ranks == [1, 2, 3, 4]
    assert all(value > 0 for value in vars(answers[0].seconds).values())
    sizes = {(hit.width, hit.height) for answer in answers for hit in answer.hits}
    assert sizes and (None, None) not in sizes


def test_a_question_may_read_fewer_of_nested_tokens(
    index: ImageIndex, ranker: Reranker, pictures: Path
) -> None:
    index.add(pictures)
    nested = copy.deepcopy(ranker)
    nested.model.adapter.budgets = (2, 4)  # as if it had been trained so
    by_joint = replace(nested.checkpoint.fusion[4]["t2i"], weight=1.0)
    fusion = {2: {"t2i": by_joint}, 4: {"t2i": by_joint}}
    nested.checkpoint = replace(nested.checkpoint, fusion=fusion)
    opened = ImageIndex.open(index.folder, nested)
    hits = opened.answers([Question("red", num_tokens=2)])[0].best(top=10)
    images = index.encoded([hit.id for hit in hits])
    first_two = EncodedImages(images.embeddings, images.tokens[:, :2])
    expected = nested.with_first_tokens(2).score_images("red", first_two)
    np.testing.assert_allclose([hit.score for hit in hits], expected, rtol=0, atol=1e-4)
    every = nested.score_images("red", images)
    assert len(hits) == 10 and (every - expected).abs().max() > 1e-2
    with pytest.raises(EdjeError, match="num_tokens=3"):
        opened.answers([Question("red", num_tokens=3)])


def test_stored_pictures_are_had_by_their_ids(
    index: ImageIndex, ranker: Reranker, pictures: Path
) -> None:
    index.add(pictures)
    ids = [index.ids()[at] for at in (5, 0, 3, 5)]
    found, expected = index.encoded(ids), ranker.encode([pictures / name for name in ids])
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.embeddings, expected.embeddings)
    with pytest.raises(UnknownPicture, match=r"^encoded: 1 of 1 ids .*'none'") as error:
        index.encoded(["none"])
    assert error.value.ids == ["none"]


def test_an_index_is_copied_and_sent_as_what_opens_it(index: ImageIndex, pictures: Path) -> None:
    index.add(pictures)
    hits = index.search("red")
    for other in (pickle.loads(pickle.dumps(index)), copy.deepcopy(index)):
        assert other.search("red") == hits and other.folder == index.folder
