"""Claims about an index on a bad day: disks, folders, damaged tables, other processes."""

import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from edje import ImageIndex, Reranker
from edje.errors import EdjeError
from edje.index.additions import Added
from edje.index.lance_library import explained, lance
from edje.tokens.lock import writer_lock
from tests.index.indexed import contents
from tests.tiny.image_files import make_picture

HOLD = """
import sys
from pathlib import Path
from edje.tokens.lock import writer_lock
with writer_lock(Path(sys.argv[1]), what="index"):
    print("held", flush=True)
    sys.stdin.readline()
"""
ADD = """
import sys
import edje
reranker = edje.Reranker.from_pretrained(sys.argv[1], device="cpu")
index = edje.ImageIndex.open(sys.argv[2], reranker)
reranker.picture_encoder
print("ready", flush=True)
sys.stdin.readline()
for path in sys.argv[3:]:
    index.add(path, batch_size=1)
"""


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_second_writer_waits_or_is_told_who_writes(
    index: ImageIndex, ranker: Reranker, pictures: Path
) -> None:
    index.add(pictures / "more")
    other = python(HOLD, index.folder)
    try:
        assert said(other) == "held"
        impatient = ImageIndex.open(index.folder, ranker, wait=False)
        for write in (
            lambda: impatient.add(pictures),
            lambda: impatient.sync(pictures),
            lambda: impatient.remove(impatient.ids()),
            impatient.optimize,
        ):
            with pytest.raises(EdjeError, match=rf"the index .* written by process {other.pid} on"):
                write()
        assert len(impatient.search("red")) == 4  # a reader needs no lock
    finally:
        other.communicate("\n", timeout=60)
    assert impatient.add(pictures / "000.png") == Added(new=1)


def test_two_processes_that_begin_one_index_at_once_both_get_their_pictures_in(
    index: ImageIndex, run_folder: Path, pictures: Path
) -> None:
    paths = sorted(pictures.rglob("*.png"))
    other = python(ADD, run_folder, index.folder, *paths[:6])
    assert said(other) == "ready"
    assert other.stdin is not None
    other.stdin.write("\n")
    other.stdin.flush()
    for path in paths[6:]:
        index.add(path, batch_size=1)
    other.communicate(timeout=240)
    assert other.returncode == 0
    index.refresh()
    assert index.ids() == [path.name for path in paths]


@pytest.mark.parametrize("is_like", [Exception, BaseException])
def test_a_panic_of_lance_is_an_error_of_the_users(is_like: type[BaseException]) -> None:
    panic = type("PanicException", (is_like,), {})
    said = r"can't read the index photos\.edje: not yet implemented"
    with pytest.raises(EdjeError, match=said), lance("photos.edje"):
        raise panic("not yet implemented")
    with pytest.raises(KeyboardInterrupt), lance("photos.edje"):
        raise KeyboardInterrupt


def test_words_of_a_filter_in_the_name_of_an_index_blame_no_filter() -> None:
    said = "LanceError(IO): No space left on device: data/SQL Operator/index/data/x.lance"
    for folder in ("/data/SQL Operator/index", Path("/data/SQL Operator/index")):
        assert "Free some space" in explained(OSError(said), folder, "write to")
    assert "invalid filter" in explained(OSError(f"{said}: sql parser"), folder, "read")


def test_a_full_disk_is_named_and_what_was_written_is_kept(
    index: ImageIndex, ranker: Reranker, pictures: Path, tmp_path: Path
) -> None:
    index.add(pictures / "more", prefix="more")
    before = contents(index)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(EdjeError, match=r"can't write to the index .* Free some space and"):
            index.add(pictures)
        with pytest.raises(EdjeError, match=r"can't write to the index .* Free some space and"):
            index.remove(["more/008.png"])
        with pytest.raises(EdjeError, match="Free some space"):
            ImageIndex.open(tmp_path / "other.edje", ranker).add(pictures)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(index) == before
    assert index.add(pictures).unchanged == 4
    other = ImageIndex.open(tmp_path / "other.edje", ranker)
    assert other.add(pictures) == Added(new=12)


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="/sys is Linux's")
def test_a_place_where_not_even_root_may_write_is_named(ranker: Reranker, pictures: Path) -> None:
    index = ImageIndex.open("/sys/kernel/photos.edje", ranker)
    with pytest.raises(EdjeError, match=r"can't make the index /sys/kernel/photos\.edje"):
        index.add(pictures)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_index_in_a_read_only_folder_is_searched_and_not_written(
    index: ImageIndex, ranker: Reranker, pictures: Path
) -> None:
    index.add(pictures / "more")
    folders = [index.folder, *(path for path in index.folder.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        again = ImageIndex.open(index.folder, ranker)
        assert len(again.search("red")) == 4
        with pytest.raises(EdjeError, match="Make the folder writable"):
            again.add(pictures)
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.parametrize("part", ["_versions", "data"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_table_is_an_error_that_says_what_to_do(
    index: ImageIndex, ranker: Reranker, pictures: Path, part: str, damage: str
) -> None:
    index.add(pictures)
    for path in (index.folder / "images.lance" / part).iterdir():
        content = path.read_bytes()
        match damage:
            case "cut":
                path.write_bytes(content[: len(content) // 2])
            case "changed":
                path.write_bytes(bytes(byte ^ 0x55 for byte in content))
            case "gone":
                path.unlink()
    with pytest.raises(EdjeError, match="index the pictures into a new folder"):
        ImageIndex.open(index.folder, ranker).search("red")


def broken(path: Path, draws: random.Random) -> None:
    """Break a picture's file in a way that is drawn: cut, flipped bits, or something else in it."""
    content = bytearray(path.read_bytes())
    match draws.randrange(3):
        case 0:
            content = content[: draws.randrange(len(content) // 2)]
        case 1:
            for _ in range(40):
                place = draws.randrange(len(content))
                content[place] ^= 1 << draws.randrange(8)
        case 2:
            content = bytearray(draws.choice([b"%PDF-1.4", b"<html>", b"\xff\xd8\xff", b"PK"]) * 9)
    path.write_bytes(content)


def test_200_broken_pictures_end_no_addition_and_each_is_found_or_listed(
    index: ImageIndex, tmp_path: Path
) -> None:
    """Flipped bits may leave a picture that can be read; whatever cannot is listed."""
    draws = random.Random(0)
    folder = tmp_path / "broken"
    for number in range(200):
        ending = ("png", "jpg", "webp", "gif", "bmp", "tif")[number % 6]
        broken(make_picture(folder / f"{number:03d}.{ending}", number), draws)
    for number in range(5):
        make_picture(folder / f"sound {number}.png", number)
    added = index.add(folder)
    problems = {one.id: one.reason for one in index.problems()}
    assert all(problems.values())
    assert problems.keys() | set(index.ids()) == {path.name for path in folder.iterdir()}
    assert not problems.keys() & set(index.ids())
    assert added.problems == len(problems) > 130
    assert {f"sound {number}.png" for number in range(5)} <= set(index.ids())
    assert index.add(folder) == Added(unchanged=205)


def test_this_process_writes_an_index_once_at_a_time(index: ImageIndex, pictures: Path) -> None:
    index.add(pictures / "more")
    with (
        writer_lock(index.folder),
        pytest.raises(EdjeError, match=r"already writing .* Write one index at a time"),
    ):
        index.add(pictures)
