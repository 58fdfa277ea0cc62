"""Claims about a split with everything cached."""

from pathlib import Path

import numpy as np
import pytest
import torch

import edje
from edje.backbones.protocol import Backbone
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


def collected(root: Path, backbone: Backbone | None = None, devices: int = 1) -> Collection:
    source = FolderSource(name="folder", root=str(root), images="images", bad_images="skip")
    cache = Cache(
        root / f"cache of {devices}", Storage(num_workers=0), (torch.device("cpu"),) * devices
    )
    return cached_collection(cache, source, backbone or edje.load_backbone("shapes"), "val")


@pytest.mark.clusters
def test_several_devices_encode_with_the_backbone_that_was_given(tmp_path: Path) -> None:
    root, backbone = make_images(tmp_path), edje.load_backbone("shapes")
    several, alone = (collected(root, backbone, devices).store for devices in (2, 1))
    rows = np.arange(len(alone))
    assert np.array_equal(several.read_cells(rows), alone.read_cells(rows))


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
