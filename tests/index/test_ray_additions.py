"""Claims about additions on Ray: the same table as in one process, through kills too."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from edje import EdjeError, ImageIndex, Reranker
from edje.index import ray_additions
from edje.index.additions import Added
from edje.index.image_table import KEY
from edje.index.ray_engine import RayEngine, connected
from edje.inference.saved_folder import save_folder
from tests.index.blocked import BlockedPicture
from tests.index.indexed import contents
from tests.tiny.image_files import make_picture, make_tar

pytestmark = pytest.mark.ray
SCRIPT = Path(__file__).parent / "on_ray.py"
IN_FOURS = RayEngine(unit=4)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two workers of a cluster on this machine, of one thread each as the tests' own process."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'edje[ray]')")
    os.environ["OMP_NUM_THREADS"] = "1"
    with connected(RayEngine()):
        assert ray.is_initialized()
        yield


@pytest.fixture
def peace(ranker: Reranker, tmp_path: Path) -> ImageIndex:
    """An index to be added to in one process."""
    return ImageIndex.open(tmp_path / "peace.edje", ranker)


def test_the_table_is_the_one_that_a_process_alone_makes(
    index: ImageIndex, peace: ImageIndex, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "broken.jpg").write_bytes(b"no picture")
    tar = make_tar(tmp_path / "tar-1.tar", {f"{n}.png": n for n in range(7)})
    cut = make_tar(tmp_path / "tar-2.tar", {f"{n}.png": 20 + n for n in range(5)})
    cut.write_bytes(cut.read_bytes()[:-12_000])
    source = [pictures, tar, cut]
    columns = {"album": {"000.png": "Rome", "tar-1/3.png": "Oslo"}}
    said = index.add(source, batch_size=2, columns=columns, engine=IN_FOURS)
    assert said == peace.add(source, batch_size=2, columns=columns)
    assert (said.new, said.problems) == (23, 3)
    assert contents(index) == contents(peace)
    assert index.problems() == peace.problems()
    for where in ("album = 'Rome'", "album = 'Oslo'"):
        found = [[hit.id for hit in one.search("red", where=where)] for one in (index, peace)]
        assert found[0] == found[1] and len(found[0]) == 1
    version = index.stats().version
    assert index.add(source, batch_size=2, engine=IN_FOURS) == Added(unchanged=26)
    assert index.stats().version == version
    index.optimize()
    assert contents(index) == contents(peace) and index.stats().fragments == 1


def test_what_is_changed_moved_touched_or_copied_comes_out_the_same(
    index: ImageIndex, peace: ImageIndex, pictures: Path, tmp_path: Path
) -> None:
    tar = make_tar(tmp_path / "tar.tar", {f"{n}.png": n for n in range(6)})
    for one in (index, peace):
        one.add([pictures, tar], batch_size=2, columns={"album": "old"})
    (pictures / "more").rename(pictures / "moved")
    make_picture(pictures / "000.png", 100)
    make_picture(pictures / "new.png", 101)
    os.utime(pictures / "001.png", ns=(0, 10**18))
    shutil.copy(pictures / "002.png", pictures / "copy.png")
    make_tar(tar, {f"{n}.png": n if n else 50 for n in range(8)})
    said = index.add([pictures, tar], batch_size=2, engine=IN_FOURS)
    assert said == peace.add([pictures, tar], batch_size=2)
    assert said == Added(new=4, changed=2, moved=4, touched=6, unchanged=6)
    found, expected = contents(index), contents(peace)
    copies = [
        one.pop("copy.png") for one in (found, expected)
    ]  # is encoded again, in other company
    assert copies[0]["cell"] == copies[1]["cell"]
    assert copies[0]["embedding"] == pytest.approx(copies[1]["embedding"], abs=1e-6)
    assert found == expected
    assert keys(index) == sorted(set(keys(index)))
    old = [{hit.id for hit in one.search("red", where="album = 'old'")} for one in (index, peace)]
    assert old[0] == old[1]


def keys(index: ImageIndex) -> list[int]:
    """Keys of all rows, sorted."""
    assert index._table is not None
    return sorted(
        key for batch in index._table.scan([KEY]) for key in batch.column(KEY).to_pylist()
    )


def test_a_worker_that_is_killed_costs_its_unit_alone_which_another_one_takes(
    index: ImageIndex, peace: ImageIndex, pictures: Path
) -> None:
    blocked = BlockedPicture(pictures / "005.png")
    source = {path.name: path for path in sorted(pictures.rglob("*.png"))}
    kill = Thread(target=blocked.kill_reader, daemon=True)
    kill.start()
    assert index.add(source, batch_size=2, engine=IN_FOURS) == Added(new=12)
    kill.join()
    peace.add(source, batch_size=2)
    assert contents(index) == contents(peace)


def test_a_unit_whose_workers_die_is_told_and_the_rest_is_kept(
    index: ImageIndex, peace: ImageIndex, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = BlockedPicture(pictures / "005.png")
    source = {path.name: path for path in sorted(pictures.rglob("*.png"))}
    kill = Thread(target=blocked.kill_reader, daemon=True)
    kill.start()
    monkeypatch.setattr(ray_additions, "TRIES", 1)
    with pytest.raises(EdjeError, match=r"1 of 3 parts weren't added.*004\.png to 007"):
        index.add(source, batch_size=2, engine=IN_FOURS)
    kill.join()
    assert len(index) == 8
    assert index.add(source, batch_size=2, engine=IN_FOURS) == Added(new=4, unchanged=8)
    peace.add(source, batch_size=2)
    assert contents(index) == contents(peace)


def test_with_raise_an_addition_ends_at_a_picture_that_cant_be_read(
    index: ImageIndex, pictures: Path
) -> None:
    (pictures / "006.png").write_bytes(b"no picture")
    with pytest.raises(EdjeError, match=r"006\.png can't be read as a picture"):
        index.add(pictures, batch_size=2, on_error="raise", engine=RayEngine(unit=4, workers=1))
    assert {"000.png", "003.png", "004.png", "005.png"} <= set(index.ids())
    assert index.add(pictures, batch_size=2, engine=IN_FOURS).problems == 1


def test_a_worker_that_loads_another_reranker_is_refused(
    index: ImageIndex, ranker: Reranker, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranker, "name", "shapes")
    with pytest.raises(EdjeError, match="was built with another reranker"):
        index.add(pictures, engine="ray")
    assert len(index) == 0
    monkeypatch.setattr(ranker, "name", "")
    with pytest.raises(EdjeError, match="no name or path that workers could load"):
        index.add(pictures, engine="ray")
    monkeypatch.setattr(ranker, "name", "shapes")
    monkeypatch.setattr(ranker, "checkpoint", replace(ranker.checkpoint, config="{}"))
    with pytest.raises(EdjeError, match=r"doesn't say how its backbone.*engine=\"local\""):
        index.add(pictures, engine="ray")


def test_workers_read_as_many_tokens_as_the_reranker_that_sent_them(
    ranker: Reranker, pictures: Path, tmp_path: Path
) -> None:
    adapter = ranker.checkpoint.adapter
    nested = replace(adapter, choices={**adapter.choices, "budgets": (2, 4)})
    save_folder(replace(ranker.checkpoint, adapter=nested), tmp_path / "nested")
    few = Reranker.from_pretrained(tmp_path / "nested", device="cpu", num_tokens=2)
    index, peace = (ImageIndex.open(tmp_path / name, few) for name in ("a.edje", "b.edje"))
    assert index.add(pictures, engine=IN_FOURS) == peace.add(pictures) == Added(new=12)
    assert contents(index) == contents(peace)


def test_an_addition_whose_process_is_killed_goes_on_and_says_nothing_else(
    index: ImageIndex, peace: ImageIndex, run_folder: Path, pictures: Path
) -> None:
    peace.add({path.name: path for path in pictures.rglob("*.png")}, batch_size=2)
    blocked = BlockedPicture(pictures / "more" / "011.png")
    command = [sys.executable, str(SCRIPT), str(run_folder), str(index.folder), str(pictures)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    program = subprocess.Popen(command, env=environment)
    reader = blocked.reader()
    for _ in range(600):
        index.refresh()
        if len(index) == 8:
            break
        time.sleep(0.1)
    program.kill()
    program.wait()
    index.refresh()
    assert len(index) == 8  # what was finished
    for _ in range(600):
        if not Path(f"/proc/{reader}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{reader}").exists(), "its cluster outlives it"
    blocked.release()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("4 new, 8 unchanged\n", "")
    index.refresh()
    assert contents(index) == contents(peace)
