"""The Python blocks of each page run in their order, with a tiny world in place of the reader's."""

import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml
from PIL import Image
from transformers import SiglipImageProcessor

from edje import ImageIndex, Reranker, TokenStore
from edje.analysis import write_trec
from edje.data.shapes.shapes_source import ShapesSource
from edje.part_kinds import lacking, lacking_when_built
from edje.serving.searcher import Searcher
from edje.serving.web_app import WebApp
from tests.docs.blocks import BLOCKS, ROOT
from tests.inference.straight_line import write_fixture
from tests.serving.served import serving
from tests.tiny.folder_hub import FolderHub
from tests.tiny.runs import write_run
from tests.tiny.towers import save_clip

ELSEWHERE = {"docs/python.md": "tests/pipeline/test_from_python.py"}  # without Hydra
SHIPPED = {'from_pretrained("photos")': 'from_pretrained("shapes", device="cpu")'}
STORE = ROOT / "tests" / "formats" / "0.1.0" / "stores" / "bf16"
QUERY = "a red circle to the left of a blue square"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("shapes")
    source = ShapesSource(cache_dir=str(folder), test_images=8, train_images=8, val_images=8)
    return [str(image.path) for image in source.read("test").images]


@pytest.fixture
def here(scenes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    """The reader's folder, with pictures in it and at home; the hub is a folder."""
    places = ["a.jpg", "b.jpg", "c.jpg", "Pictures/2019/IMG_0001.jpg", "Pictures/beach.jpg"]
    for scene, place in zip(scenes, places, strict=False):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.open(scene).save(tmp_path / place)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(FolderHub, "root", tmp_path / "hub", raising=False)
    monkeypatch.setattr(FolderHub, "private", None)
    for module in ("edje.inference.reranker", "edje.tokens.sharing"):
        monkeypatch.setattr(f"{module}.HfApi", FolderHub)
    with ExitStack() as stack:
        yield stack
    assert FolderHub.private is not False


def of_reranker(scenes: list[str], _: ExitStack) -> tuple[dict[str, str], dict[str, Any]]:
    """A tower and a checkpoint in the published format, of random weights."""
    fixture = write_fixture(Path("fixture"))
    square = {"height": 16, "width": 16}
    SiglipImageProcessor(size=square).save_pretrained(fixture / "vision_tower")
    replaced = {
        "<folder>": "fixture/vision_tower",
        '"checkpoint.pth"': '"fixture/compressed_checkpoint.pth"',
        "microsoft/MiniLM-L12-H384-uncased": "fixture/language_model",
        "google/siglip2-large-patch16-384": "fixture/vision_tower",
    }
    scores = torch.tensor([2.0, 0.5, -1.0])
    return SHIPPED | replaced, {"paths": scenes, "query": QUERY, "scores": scores}


def of_search(scenes: list[str], _: ExitStack) -> tuple[dict[str, str], dict[str, Any]]:
    """A tar of two pictures, and one in memory."""
    with tarfile.open("shard-0.tar", "w") as tar:
        for number, scene in enumerate(scenes[5:7]):
            tar.add(scene, f"{number}.png")
    return SHIPPED, {"picture": Image.open(scenes[7])}


def of_serving(scenes: list[str], stack: ExitStack) -> tuple[dict[str, str], dict[str, Any]]:
    """A server in this process."""
    index = ImageIndex.open("photos.edje", Reranker.from_pretrained("shapes", device="cpu"))
    index.add(["a.jpg", "b.jpg"])
    served = stack.enter_context(serving(WebApp(Searcher(index))))
    given = 'base_url="http://127.0.0.1:8000"'  # with a client that is closed in the end
    own = f'base_url="{served.url}", httpx_client=http'
    return {given: own}, {"http": stack.enter_context(httpx.Client())}


def of_stores(_: list[str], __: ExitStack) -> tuple[dict[str, str], dict[str, Any]]:
    """The store that an earlier version wrote."""
    shutil.copytree(STORE, "cache/store", copy_function=shutil.copyfile)
    ids = TokenStore.open("cache/store").image_ids[:2]
    return {"cache/folder-val/compressed-<12 digits>": "cache/store"}, {"image_ids": ids}


def of_sweeps(_: list[str], __: ExitStack) -> tuple[dict[str, str], dict[str, Any]]:
    """Two runs of a sweep, the lists of one as a rival's file, and an index."""
    for job in range(2):
        write_run(folder := Path(f"runs/shapes/sweep/{job}"), seed=job)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["adapter"]["num_tokens"] = 4 * (job + 1)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_trec("runs/shapes/sweep/1", "rival.txt")
    index = ImageIndex.open("photos.edje", Reranker.from_pretrained("shapes", device="cpu"))
    index.add(["a.jpg", "b.jpg"])
    named = {"<name>/<sweep>": "shapes/sweep", "<name>/<run>": "shapes/sweep/0"}
    return named, {"index": index}


def of_nothing(_: list[str], __: ExitStack) -> tuple[dict[str, str], dict[str, Any]]:
    return {}, {}


WORLDS: dict[str, Callable[[list[str], ExitStack], tuple[dict[str, str], dict[str, Any]]]] = {
    "README.md": lambda scenes, stack: (SHIPPED, {}),
    "docs/reranker.md": of_reranker,
    "docs/search.md": of_search,
    "docs/serving.md": of_serving,
    "docs/stores.md": of_stores,
    "docs/sweeps.md": of_sweeps,
    "docs/parts.md": of_nothing,
}
PAGES = sorted({block.document for block in BLOCKS if block.language == "python"})


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE])
def test_the_python_of_a_page_runs(page: str, scenes: list[str], here: ExitStack) -> None:
    assert page in WORLDS, "no world is made for this page"
    replaced, names = WORLDS[page](scenes, here)
    blocks = [block for block in BLOCKS if (block.document, block.language) == (page, "python")]
    texts = [block.text for block in blocks]
    assert not [given for given in replaced if given not in "".join(texts)]
    space = {"__name__": "page", **names}
    for block, text in zip(blocks, texts, strict=True):
        for given, own in replaced.items():
            text = text.replace(given, own)
        exec(compile("\n" * block.line + text, block.document, "exec"), space)


def test_the_backbone_of_the_page_is_one_wherever_its_files_are(tmp_path: Path) -> None:
    (text,) = (block.text for block in BLOCKS if "class DualEncoder" in block.text)
    exec(text, space := {"__name__": "page"})
    there = save_clip(tmp_path / "here")
    moved = shutil.copytree(there, tmp_path / "elsewhere")
    one, other = (space["DualEncoder"](pretrained=str(path)) for path in (there, moved))
    assert lacking("backbone", type(one)) is lacking_when_built("backbone", one) is None
    assert one.identity() == other.identity() and one.text_identity() == other.text_identity()
    changed = space["DualEncoder"](pretrained=str(save_clip(tmp_path / "changed", seed=1)))
    assert changed.identity() != one.identity()
    assert changed.text_identity() != one.text_identity()
    pictures = [Image.new("RGB", (20, 30), colour) for colour in ("red", "blue")]
    found = one.encode_images(torch.stack([one.preprocess(picture) for picture in pictures]))
    assert found.tokens.shape == (2, one.num_tokens, one.token_width)
    assert found.features.shape == (2, one.feature_width)
    features = one.encode_texts(["a red ball", "a ball"])
    assert features.shape == (2, one.text_width)
    for embeddings in (one.project_images(found.features), one.project_texts(features)):
        assert embeddings.shape == (2, one.embedding_width)
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))


def test_other_pages_run_in_tests_of_their_own() -> None:
    for page, test in ELSEWHERE.items():
        assert page in PAGES and f'"{page}"' in (ROOT / test).read_text("utf-8")
