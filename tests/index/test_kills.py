"""Claims about an index whose writer is killed. Interrupted additions: test_additions.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edje import ImageIndex, Reranker
from tests.index.indexed import contents
from tests.tiny.image_files import make_picture

SCRIPT = Path(__file__).parent / "killed.py"
NUMBERS = range(90)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder of 90 pictures, some of them broken."""
    for number in NUMBERS:
        path = make_picture(tmp_path / "many" / f"{number % 4}" / f"{number:03d}.png", number)
        if number % 17 == 3:
            path.write_bytes(path.read_bytes()[:-200])
    return tmp_path / "many"


def killed(
    run_folder: Path, work: str, folder: Path, pictures: Path, kills: int
) -> list[list[str]]:
    """What the program says of each kill: "True" where it came in time, pictures, the index."""
    done = subprocess.run(
        [sys.executable, SCRIPT, run_folder, work, folder, pictures, str(kills)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert len(lines) == kills
    return lines


@pytest.mark.kills
def test_an_index_added_through_kills_equals_one_added_in_peace(
    index: ImageIndex, ranker: Reranker, run_folder: Path, many: Path, tmp_path: Path
) -> None:
    lines = killed(run_folder, "add", index.folder, many, 20)
    in_time, counts = [line[0] for line in lines], [int(line[1]) for line in lines]
    assert in_time.count("True") >= 5, "the kills came too late"
    assert counts == sorted(counts) and -1 not in counts
    assert len(set(counts)) > 4, "the kills came at no different moments"
    index.refresh()
    index.add(many, batch_size=3)
    peace = ImageIndex.open(tmp_path / "peace.edje", ranker)
    peace.add(many, batch_size=3)
    assert contents(index) == contents(peace) and len(peace.problems()) == 6


def change(folder: Path) -> None:
    """Change a folder of `many` in all ways."""
    paths = sorted(folder.rglob("*.png"))
    for number, path in enumerate(paths):
        match number % 6:
            case 0:
                path.unlink()
            case 1:
                (folder / "moved").mkdir(exist_ok=True)
                path.rename(folder / "moved" / path.name)
            case 2:
                make_picture(path, 1000 + number)
            case 3:
                make_picture(path.with_name(f"new {path.name}"), 2000 + number)


@pytest.mark.kills
def test_an_index_synchronised_through_kills_equals_one_synchronised_in_peace(
    index: ImageIndex, ranker: Reranker, run_folder: Path, many: Path, tmp_path: Path
) -> None:
    index.add(many)
    shutil.copytree(index.folder, tmp_path / "peace.edje")
    before = contents(index)
    change(many)
    lines = killed(run_folder, "sync", index.folder, many, 5)
    assert [line[0] for line in lines].count("True") >= 3, "the kills came too late"
    index.refresh()
    index.sync(many, batch_size=3)
    peace = ImageIndex.open(tmp_path / "peace.edje", ranker)
    said = peace.sync(many, batch_size=3)
    assert min(said.new, said.changed, said.moved, said.removed) > 5
    assert contents(index) == contents(peace) != before


@pytest.mark.kills
def test_an_index_optimised_through_kills_is_the_same(
    index: ImageIndex, ranker: Reranker, run_folder: Path, many: Path
) -> None:
    for part in sorted(many.iterdir()):
        for path in sorted(part.iterdir())[:12]:
            index.add(path, prefix=part.name)
    index.remove(index.ids()[::5])
    before = contents(index)
    found = [hit.id for hit in index.search("red")]
    lines = killed(run_folder, "optimize", index.folder, many, 5)
    assert [line[0] for line in lines].count("True") >= 1, "the kills came too late"
    for _, _, folder in lines:
        after = ImageIndex.open(folder, ranker, exact_up_to=0)
        assert contents(after) == before
        assert [hit.id for hit in after.search("red")] == found
        after.optimize()
        assert contents(after) == before and after.stats().fragments == 1
        assert [hit.id for hit in after.search("red")] == found
