"""Claims about `edje index` and `edje search`."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edje import ImageIndex, Reranker, command
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
    expected = [hit.id for query in ("red", "blue star") for hit in index.search(query, top=2)]
    assert (status, err) == (0, "")
    assert [line.split()[1] for line in out.splitlines()] == expected


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


def test_anything_else_is_a_run(edje, monkeypatch: pytest.MonkeyPatch) -> None:
    from edje import cli

    monkeypatch.setattr(cli, "main", lambda: 7)
    assert [edje(*line)[0] for line in ([], ["task=evaluate"], ["--help"])] == [7, 7, 7]
