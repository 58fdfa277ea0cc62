"""Claims about task=index, through the command line's own entry."""

import json
import sys
import tarfile
from pathlib import Path

import pytest

from edje.cli import run
from edje.errors import EdjeError
from tests.tiny.image_files import make_picture

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def index(folder: Path, *arguments: str) -> dict:
    """What the task's report says."""
    run(["task=index", f"hydra.run.dir={folder}", "index.reranker=shapes", *arguments])
    return json.loads((folder / "index.json").read_text())


def test_sources_go_into_an_index_and_what_cant_be_read_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("lancedb", reason="LanceDB is not installed (pip install 'edje[index]')")
    picture = make_picture(tmp_path / "pictures" / "a.png", 1)
    (tmp_path / "pictures" / "b.png").write_bytes(b"no picture")
    with tarfile.open(tmp_path / "tar.tar", "w") as tar:
        tar.add(picture, "c.png")
    into = tmp_path / "shapes.edje"
    sources = f"index.source=[{tmp_path / 'pictures'},{tmp_path / '*.tar'}]"
    report = index(tmp_path / "run", sources, f"index.into={into}")
    assert (report["index"], report["images"]) == (str(into), 2)
    assert [one["id"] for one in report["problems"]] == ["b.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], r"index\.source is missing: task=index index\.source="),
        (["index.source=pictures"], r"index\.into is missing"),
        (
            ["index.source=pictures", "index.into=i", "engine=ray", "index.sync=true"],
            r"index\.sync=true needs engine=local",
        ),
        (["engine=spark"], "engine=spark .*expected one of local, ray"),
        (["engine=ray", "ray.unit=0"], r"ray: unit=0, expected a whole number of 1 or more"),
    ],
)
def test_what_is_missing_or_wrong_is_named(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    with pytest.raises(EdjeError, match=words):
        index(tmp_path / "run", *arguments)


@pytest.mark.parametrize("library", ["ray", "lance"])
def test_without_ray_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    pytest.importorskip("lancedb", reason="LanceDB is not installed (pip install 'edje[index]')")
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'edje[ray]')")
    make_picture(tmp_path / "a.png", 1)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(EdjeError, match=r"needs Ray and pylance .*pip install 'edje\[ray\]'"):
        index(
            tmp_path / "run",
            f"index.source={tmp_path}",
            f"index.into={tmp_path / 'shapes.edje'}",
            "engine=ray",
        )
