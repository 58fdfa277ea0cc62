"""Claims about the visual tokens of an evaluation: which they are, and what memory they take."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shutil import disk_usage

import fsspec
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from edje.errors import EdjeError
from edje.inference.checkpoint import AdapterSpecification, build_reranker
from edje.inference.scorer import ScoringSet
from edje.language_model import tokenize
from edje.models.edje import EDJE
from edje.pipeline import shares
from edje.pipeline import visual_tokens as module
from edje.pipeline.collection import Collection
from edje.pipeline.shares import WORK, ScoringWork, score
from edje.pipeline.visual_tokens import visual_tokens
from edje.records import CandidateList, RetrievalSplit
from edje.tokens.codec import CodecName, make_codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.store import TokenStore
from edje.tokens.writer import write_store
from tests.tiny.encoders import tiny_language_model
from tests.tiny.rerankers import FACTS
from tests.tiny.words import tiny_captions, tiny_tokenizer

STATM = Path("/proc/self/statm")
MEGABYTE = 2**20
TOKENS, WIDTH = 64, 32
ADAPTER = AdapterSpecification(
    "edje.models.adapters.TokenCompressionAdapter", {"num_tokens": TOKENS, "hidden_width": 32}
)


def reranker() -> EDJE:
    torch.manual_seed(0)
    return build_reranker(ADAPTER, FACTS, tiny_language_model(), residual=False).eval()


def stored(folder: Path, images: int, **more: str) -> Collection:
    """Raw tokens of images, of which the collection has all but every seventh, backwards."""
    draws = torch.Generator().manual_seed(0)
    shape = (FACTS.num_tokens, FACTS.token_width)
    write_store(
        folder,
        Fingerprint({"backbone": "random"}),
        [f"{row:06d}" for row in range(images)],
        make_codec("bf16", *shape),
        1,
        lambda rows: (torch.randn(len(rows), *shape, generator=draws), torch.ones(len(rows), 1)),
    )
    return collection_of(folder, [row for row in range(images) if row % 7][::-1])


def collection_of(folder: Path | str, rows: list[int]) -> Collection:
    none = torch.empty(0, 1)
    split = RetrievalSplit("made", "val", (), ())
    return Collection(split, (), TokenStore.open(folder), torch.tensor(rows), none, none)


@pytest.fixture
def few(tmp_path: Path) -> Collection:
    return stored(tmp_path / "raw", 150)


def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda device: 0)


@pytest.mark.parametrize("place", ["memory", "file"])
@pytest.mark.parametrize("name", ["bf16", "int8", "int4"])
def test_raw_tokens_become_the_adapters_as_a_store_gives_them_back(few, name, place, monkeypatch):
    if place == "file":
        no_memory(monkeypatch)
    model, codec = reranker(), make_codec(name, TOKENS, WIDTH)
    with torch.inference_mode():
        expected = torch.cat(
            [model.compress(few.store.read(rows)) for rows in few.store_rows.split(64)]
        )
    expected = codec.decode(torch.from_numpy(codec.encode(expected)))
    rows = torch.tensor([5, 0, 127, 5])
    before = set(few.store.folder.parent.iterdir())
    with visual_tokens(model, few, codec) as visual:
        assert (len(visual), visual.num_tokens) == (len(few.store_rows), TOKENS)
        assert torch.equal(visual.read(torch.arange(len(visual))), expected)
        assert torch.equal(visual.read(rows, dtype=torch.bfloat16), expected[rows].bfloat16())
        order = torch.randperm(len(visual), generator=torch.Generator().manual_seed(0))
        assert torch.equal(visual.permuted(order).read(rows), expected[order][rows])
        files = set(few.store.folder.parent.iterdir()) - before
        assert len(files) == (place == "file")
    assert set(few.store.folder.parent.iterdir()) == before


def compressed(folder: Path, images: int, name: CodecName = "bf16") -> Collection:
    """Adapter's tokens of images, and all but every seventh of them backwards."""
    draws = torch.Generator().manual_seed(1)
    write_store(
        folder,
        Fingerprint({"adapter": "random"}),
        [f"{row:06d}" for row in range(images)],
        make_codec(name, TOKENS, WIDTH),
        1,
        lambda rows: (
            torch.randn(len(rows), TOKENS, WIDTH, generator=draws),
            torch.ones(len(rows), 1),
        ),
    )
    return collection_of(folder, [row for row in range(images) if row % 7][::-1])


@pytest.mark.parametrize("place", ["folder", "url", "url, in a file"])
def test_a_compressed_store_gives_its_own_cells(tmp_path, monkeypatch, place):
    collection = compressed(tmp_path / "store", 150, "int8")
    expected = collection.store.read(collection.store_rows)
    files = fsspec.filesystem("memory")
    try:
        if place != "folder":
            files.put(str(tmp_path / "store"), "/visual", recursive=True)
            collection = replace(collection, store=TokenStore.open("memory://visual"))
        if place == "url, in a file":
            no_memory(monkeypatch)
            monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        codec = make_codec("int8", TOKENS, WIDTH)
        with visual_tokens(reranker(), collection, codec) as visual:
            assert torch.equal(visual.read(torch.arange(len(visual))), expected)
            assert (visual.source is collection.store) == (place == "folder")
            assert len(list(tmp_path.glob("visual-*"))) == (place == "url, in a file")
        assert not list(tmp_path.glob("visual-*"))
    finally:
        if files.exists("/visual"):
            files.rm("/visual", recursive=True)


def test_a_disk_without_room_is_found_before_anything_is_compressed(few, monkeypatch):
    no_memory(monkeypatch)
    free = disk_usage(few.store.folder)._replace(free=100_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    model = reranker()
    monkeypatch.setattr(model, "compress", lambda tokens: pytest.fail("compressed"))
    said = (
        r"take 0\.0 GB, which is more than a quarter .* has 0\.0 GB left .* "
        r"storage\.compressed_codec=int8"
    )
    with (
        pytest.raises(EdjeError, match=said),
        visual_tokens(model, few, make_codec("bf16", TOKENS, WIDTH)),
    ):
        pass


def test_the_file_is_gone_after_an_error_too(few, monkeypatch):
    no_memory(monkeypatch)
    codec = make_codec("bf16", TOKENS, WIDTH)
    with pytest.raises(RuntimeError), visual_tokens(reranker(), few, codec):
        raise RuntimeError
    assert [path.name for path in few.store.folder.parent.iterdir()] == ["raw"]


class AnonymousMemory(TorchDispatchMode):
    """The most anonymous memory that this process has after any operation of torch, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self.now()

    @staticmethod
    def now() -> int:
        _, resident, of_files = map(int, STATM.read_text().split()[:3])
        return (resident - of_files) * os.sysconf("SC_PAGE_SIZE")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.most = max(self.most, self.now())
        return result


@contextmanager
def grows_less_than(megabytes: float) -> Iterator[None]:
    """Claims that the block takes no more anonymous memory at any time."""
    before = AnonymousMemory.now()
    with AnonymousMemory() as memory:
        yield
    grown = (memory.most - before) / MEGABYTE
    assert grown < megabytes, f"{grown:.0f} MB"


IMAGES = 4000  # of which 13 MB of cells, 27 MB of tokens in float32 are read


def work_on(model: EDJE, visual: object) -> ScoringWork:
    """300 images from all over, as candidates of ten captions."""
    text = tokenize(tiny_tokenizer(), tiny_captions(10))
    candidates = torch.linspace(0, len(visual) - 1, 300).long().view(10, 30)
    lists = CandidateList(
        "t2i", candidates, torch.zeros(10, 30), torch.zeros(10, 30).bool(), torch.ones(10).long()
    )
    return ScoringWork(model, ScoringSet(text, visual), torch.float32, 25, [lists])


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Collection]:
    folder = tmp_path_factory.mktemp("many")
    both = {"raw": stored(folder / "raw", IMAGES), "compressed": compressed(folder / "s", IMAGES)}
    codec = make_codec("bf16", TOKENS, WIDTH)
    for collection in both.values():  # what is imported and kept by the first use
        few = replace(collection, store_rows=collection.store_rows[:1000])
        with visual_tokens(reranker(), few, codec) as visual:
            score(work_on(reranker(), visual), lambda _: None)
    return both


@pytest.mark.skipif(not STATM.exists(), reason="/proc is Linux's")
@pytest.mark.parametrize("tier", ["raw", "compressed"])
def test_memory_does_not_grow_with_the_images_of_a_store(many, tier, monkeypatch):
    no_memory(monkeypatch)
    model, codec = reranker(), make_codec("bf16", TOKENS, WIDTH)
    with grows_less_than(6), visual_tokens(model, many[tier], codec) as visual:
        (lists,), _ = score(work_on(model, visual), lambda _: None)
    assert lists.joint.isfinite().all()


@pytest.mark.skipif(not STATM.exists(), reason="/proc is Linux's")
def test_in_memory_they_take_their_stored_bytes(many):
    codec = make_codec("bf16", TOKENS, WIDTH)
    with grows_less_than(20), visual_tokens(reranker(), many["raw"], codec) as visual:
        score(work_on(reranker(), visual), lambda _: None)


@pytest.mark.skipif(not STATM.exists(), reason="/proc is Linux's")
@pytest.mark.parametrize("place", ["memory", "file", "store"])
def test_another_process_holds_no_copy_of_all_tokens(many, place, tmp_path, monkeypatch):
    """What each of several processes does, done in this one: its memory counts from here."""
    model, codec = reranker(), make_codec("bf16", TOKENS, WIDTH)
    tier = "compressed" if place == "store" else "raw"
    done = torch.zeros(1, dtype=torch.long)
    with visual_tokens(model, many[tier], codec, in_memory=place == "memory") as visual:
        work = work_on(model, visual)
        torch.save(work, tmp_path / WORK)
        with grows_less_than(6):
            shares._part(0, tmp_path, (torch.device("cpu"),), done)
        (alone,), _ = score(work, lambda _: None)
    ((joint,), _) = torch.load(tmp_path / "scores_0.pt", weights_only=True)
    torch.testing.assert_close(joint, alone.joint, rtol=0, atol=1e-6)
    assert joint.std() > 1e-4 and done.item() == 300
    in_the_work = (tmp_path / WORK).stat().st_size > 6 * MEGABYTE
    assert in_the_work == (place == "memory")
