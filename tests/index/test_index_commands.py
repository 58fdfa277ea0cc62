"""Claims about `edje index` and `edje search`."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edje import ImageIndex, Reranker, __version__, command
from edje.index import indexing
from tests.tiny.image_files import make_picture


@pytest.fixture
def edje(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command in this process: its status, and what it writes to both streams."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edje", *map(str, arguments)])
        status = command.main()
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tmp_path / "photos.edje"


def test_pictures_are_indexed_and_found(
    edje, ranker: Reranker, photos: Path, pictures: Path, run_folder: Path
) -> None:
    (pictures / "broken.png").write_bytes(b"broken")
    status, out, err = edje("index", pictures, "--into", photos, "--reranker", run_folder)
    assert (status, out) == (0, f"{photos}: 12 pictures\n")
    assert err.splitlines() == [
        f"{pictures}: 12 new, 1 can't be read",
        "  can't be read: broken.png (no image of a known format)",
    ]
    index = ImageIndex.open(photos, ranker)
    status, out, err = edje("search", photos, "a red star", "--top", 3, "--k", 5)
    hits = index.search("a red star", k=5, top=3)
    assert (status, err) == (0, "")
    assert [line.split()[1] for line in out.splitlines()] == [hit.id for hit in hits]
    (pictures / "000.png").unlink()
    (pictures / "broken.png").unlink()
    status, out, err = edje("index", pictures, "--into", photos, "--sync")
    assert (status, out) == (0, f"{photos}: 11 pictures\n")
    assert err == f"{pictures}: 11 unchanged, 2 removed\n"
    status, out, err = edje("search", photos, "red", "--where", "id = 'absent'")
    assert (status, out, err) == (0, "", "nothing found\n")


def test_queries_come_line_by_line_where_none_is_given(
    edje,
    ranker: Reranker,
    photos: Path,
    pictures: Path,
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edje("index", pictures, "--into", photos, "--reranker", run_folder)
    monkeypatch.setattr(sys, "stdin", io.StringIO("red\n\n  blue star\n"))
    status, out, err = edje("search", photos, "--top", 2)
    index = ImageIndex.open(photos, ranker)
    expected = []
    for query in ("red", "blue star"):
        expected += [query, *(hit.id for hit in index.search(query, top=2))]
    assert (status, err) == (0, "")
    assert [line.split("  ")[-1] for line in out.splitlines()] == expected


def test_a_line_that_is_no_query_is_told_and_the_others_are_answered(
    edje, photos: Path, pictures: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edje("index", pictures, "--into", photos, "--reranker", run_folder)
    lines = io.TextIOWrapper(io.BytesIO(b"red\n?!\ncaf\xe9\nblue\n"), "utf-8")
    monkeypatch.setattr(sys, "stdin", lines)
    status, out, err = edje("search", photos, "--top", 1)
    assert status == 1 and out.splitlines()[::2] == ["red", "blue"] and len(out.splitlines()) == 4
    first, second, last = err.splitlines()
    assert "'?!'" in first and "caf" in second
    assert last == "Error: 2 of the input's lines could not be searched for, see above."


def test_hits_come_as_json_with_their_query(
    edje, ranker: Reranker, photos: Path, pictures: Path, run_folder: Path
) -> None:
    (pictures / "000.png").rename(pictures / "new\nline\u2028.png")
    edje("index", pictures, "--into", photos, "--reranker", run_folder)
    index = ImageIndex.open(photos, ranker)
    index.set_columns({"year": 2026})
    hits = index.search("red", top=20, group_duplicates=True)
    status, out, err = edje("search", photos, "red", "--top", 20, "--group-duplicates", "--json")
    assert (status, err) == (0, "")
    found = [json.loads(line) for line in out.splitlines()]
    assert [(one["id"], tuple(one["duplicates"])) for one in found] == [
        (hit.id, hit.duplicates) for hit in hits
    ]
    assert {one["query"] for one in found} == {"red"}
    assert {one["columns"]["year"] for one in found} == {2026}
    assert {one["probability"] for one in found} == {None}  # the run has no calibration
    for name in ("path", "score", "first_stage", "rank"):
        assert [one[name] for one in found] == [getattr(hit, name) for hit in hits]
    _, out, _ = edje("search", photos, "red", "--top", 20)
    assert len(out.split("\n")) == 13 and "new\\nline\\u2028.png" in out


def test_numbers_that_json_lacks_are_null(
    edje, ranker: Reranker, photos: Path, pictures: Path, run_folder: Path
) -> None:
    edje("index", pictures / "000.png", "--into", photos, "--reranker", run_folder)
    index = ImageIndex.open(photos, ranker)
    nan, infinite = float("nan"), float("inf")
    index.set_columns({"a": nan, "b": [1.0, -infinite], "c": {"000.png": {"d": infinite, "e": 2}}})
    _, out, _ = edje("search", photos, "red", "--json")

    def refuse(name: str) -> None:
        raise AssertionError(name)

    columns = json.loads(out, parse_constant=refuse)["columns"]
    assert columns == {"a": None, "b": [1, None], "c": {"d": None, "e": 2}}


def test_an_index_is_not_put_among_pictures(
    edje, pictures: Path, run_folder: Path, photos: Path
) -> None:
    deep = pictures / "more" / "deeper"
    deep.mkdir()
    for folder in (pictures, pictures / "more"):
        status, _, err = edje("index", pictures, "--into", folder, "--reranker", run_folder)
        assert status == 1 and "is a folder of pictures" in err and "--into photos.edje" in err
        assert not (folder / "images.lance").exists()
    assert edje("index", pictures, "--into", deep, "--reranker", run_folder)[0] == 0
    (deep / "one.png").touch()
    assert edje("index", pictures, "--into", deep, "--reranker", run_folder)[0] == 0  # is one


def test_an_indexing_that_can_read_nothing_fails(
    edje, tmp_path: Path, run_folder: Path, photos: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    for _ in range(2):
        status, _, err = edje(
            "index", tmp_path / "notes.txt", "--into", photos, "--reranker", run_folder
        )
        assert status == 1 and err.endswith("none of these files can be read as a picture.\n")


def test_many_small_additions_are_put_together(
    edje,
    ranker: Reranker,
    photos: Path,
    pictures: Path,
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(indexing, "FRAGMENTS", 3)
    for name, fragments in (("000", 1), ("001", 2), ("002", 1)):
        edje("index", pictures / f"{name}.png", "--into", photos, "--reranker", run_folder)
        assert ImageIndex.open(photos, ranker).stats().fragments == fragments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "absent.edje", "red"], "Error: absent.edje: there is no index. Make it: edje"),
        (["index", "absent", "--into", "{photos}"], "Error: absent: there is no file or folder"),
        (["index", "{photos}", "--into", "x", "--reranker", "absent"], "Error: checkpoint=absent"),
    ],
)
def test_mistakes_end_as_one_message(
    edje,
    ranker: Reranker,
    photos: Path,
    run_folder: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(indexing, "RERANKER", str(run_folder))
    status, out, err = edje(*(one.format(photos=photos) for one in arguments))
    assert (status, out) == (1, "") and err.startswith(message)
    assert len(err.splitlines()) <= 2 and not photos.exists()


def test_an_index_whose_reranker_has_moved_says_how_to_name_it(
    edje, photos: Path, pictures: Path, run_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(run_folder / "pretrained", tmp_path / "former")
    edje("index", pictures / "000.png", "--into", photos, "--reranker", tmp_path / "former")
    (tmp_path / "former").rename(tmp_path / "moved")
    status, _, err = edje("search", photos, "red")
    assert status == 1 and f"checkpoint={tmp_path / 'former'}: found no checkpoint there" in err
    assert err.endswith(
        f"The index {photos} was built with this reranker; if it has moved, name its present "
        "place: --reranker <path>.\n"
    )
    assert edje("search", photos, "red", "--reranker", tmp_path / "moved")[0] == 0


@pytest.mark.parametrize("top", ["0", "-1", "x"])
def test_numbers_are_checked(edje, top: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        edje("search", "photos.edje", "red", "--top", top)
    assert f"{top!r} is not a whole number" in capsys.readouterr().err


@pytest.mark.serving
def test_both_commands_run_where_hydra_and_lightning_are_missing(
    run_folder: Path, photos: Path, pictures: Path
) -> None:
    pytest.importorskip("lancedb", reason="LanceDB is not installed (pip install 'edje[index]')")
    code = (
        "import sys; sys.modules |= dict.fromkeys(['hydra', 'omegaconf', 'lightning']); "
        "from edje import command; sys.exit(command.main())"
    )
    make_picture(pictures / "a 'b' \"c\".png", 1)

    def shell(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "always::DeprecationWarning", "-c", code, *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )

    done = shell("index", pictures, "--into", photos, "--reranker", run_folder)
    assert (done.returncode, done.stdout) == (0, f"{photos}: 13 pictures\n"), done.stderr
    assert done.stderr == f"{pictures}: 13 new\n"
    done = shell("search", photos, "two dogs")
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (0, 10, "")


def test_a_version_is_that_of_edje(edje) -> None:
    assert edje("--version") == (0, f"edje {__version__}\n", "")


@pytest.mark.parametrize(
    ("word", "says"),
    [("searh", "Did you mean search?"), ("indx", "Did you mean index?"), ("hello", "")],
)
def test_a_word_that_is_no_command_names_the_nearest(edje, word: str, says: str) -> None:
    status, out, err = edje(word, "x")
    assert (status, out) == (1, "") and err.startswith(f"Error: there is no command {word!r}.")
    assert says in err and "index, search and serve" in err and err.count("Did") == len(says[:1])


def test_anything_else_is_a_run(edje, monkeypatch: pytest.MonkeyPatch) -> None:
    from edje import cli

    monkeypatch.setattr(cli, "main", lambda: 7)
    lines = ([], ["task=evaluate"], ["--help"], ["-m", "seed=1,2"], ["~trainer"], ["+a=1"])
    assert [edje(*line)[0] for line in lines] == [7] * 6
