"""Claims about a split with everything cached."""

from pathlib import Path

import pytest

import edje
from edje.data.sources.folder import FolderSource
from edje.pipeline import Cache, Collection, cached_collection
from edje.pipeline.storage import Storage
from tests.tiny.world import make_images

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::UserWarning",
    "ignore:.*LeafSpec.*:FutureWarning",  # Lightning on a newer torch than it knows
)
HEIC = b"\0\0\0\x18ftypheic" + bytes(100)


def collected(root: Path) -> Collection:
    source = FolderSource(name="folder", root=str(root), images="images", bad_images="skip")
    cache = Cache(root / "cache", Storage(num_workers=0))
    return cached_collection(cache, source, edje.load_backbone("shapes"), "val")


def test_what_a_store_lacks_is_said_each_time_and_when_it_could_be_read_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_images(tmp_path)
    for name in ("002.png", "005.png"):
        (root / "images" / name).write_bytes(HEIC)
    monkeypatch.setattr("edje.images.decoder.reads_heif", lambda: False)
    for _ in range(2):
        caplog.clear()
        assert collected(root).split.skipped == ("002.png", "005.png")
        assert "lacks 2 of 8 images of split val" in caplog.text
        assert "written: 002.png, 005.png" in caplog.text and "by now" not in caplog.text
    asked: list[str] = []
    monkeypatch.setattr("edje.images.decoder.problem_of", asked.append)
    assert len(collected(root).split.images) == 6
    assert "002.png is readable by now. Delete the store" in caplog.text
    assert asked == [str(root / "images" / "002.png")]
