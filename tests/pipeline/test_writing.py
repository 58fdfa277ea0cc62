"""Claims about filling a store through Lightning's predict loop."""

import json
import pickle
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.data.sources.folder import FolderSource
from edje.errors import EdjeError
from edje.parallel.environment import Launched
from edje.pipeline.collection import VisionWork, raw_fingerprints
from edje.pipeline.encoding import Encoding
from edje.pipeline.storage import Storage
from edje.pipeline.writing import fill_store
from edje.retrieval.exact import products_in
from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.store import TokenStore
from tests.tiny.stores import FINGERPRINT, NUM_TOKENS, WIDTH, contents, make_store, run_script
from tests.tiny.towers import make_siglip
from tests.tiny.work import TinyWork
from tests.tiny.world import make_images

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::UserWarning",
    "ignore:.*LeafSpec.*:FutureWarning",  # Lightning on a newer torch than it knows
)

CPU = torch.device("cpu")


def fill(folder: Path, work: TinyWork, devices: int = 1, **settings: Any) -> Path:
    storage = Storage(**({"batch_size": 3, "num_workers": 0} | settings))
    codec = make_codec("fp16", NUM_TOKENS, WIDTH)
    fill_store(folder, FINGERPRINT, codec, lambda: work, storage, [CPU] * devices)
    return folder


@pytest.fixture(autouse=True)
def short_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edje.tokens.writer._SHARD_ROWS", 8)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_predict_loop_writes_what_the_writer_alone_writes(
    tmp_path: Path, num_workers: int
) -> None:
    filled = fill(tmp_path / "a", TinyWork(), num_workers=num_workers)
    assert contents(filled) == contents(make_store(tmp_path / "b"))


def test_the_first_image_says_how_many_processes_shared_memory_has_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch of TinyWork has eight bytes per row."""
    for name in ("room", "whole"):
        monkeypatch.setattr(f"edje.data.datamodules.workers.{name}", lambda: 5 * 3 * 8)
    monkeypatch.setattr("edje.data.datamodules.workers.cores", lambda: 16)
    for device, batch_size, workers in (
        ("cuda", 3, 2),
        ("cuda", 8, 0),
        ("cpu", 3, 1),
        ("cpu", 8, 0),
    ):
        storage = Storage(batch_size=batch_size)
        encoding = Encoding.of(TinyWork(), None, storage, [torch.device(device)])
        assert encoding.num_workers == workers, (device, batch_size)
    asked = Storage(batch_size=3, num_workers=3)
    with pytest.raises(EdjeError, match=r"storage\.num_workers=3: .* Use storage\.num_workers=0"):
        Encoding.of(TinyWork(), None, asked, [CPU])


def test_no_image_is_read_ahead_where_nothing_loads_in_processes_of_its_own() -> None:
    unreadable = TinyWork(0, "error")
    with pytest.raises(EdjeError, match=r"020\.jpg is not readable"):
        Encoding.of(unreadable, None, Storage(), [CPU])
    assert Encoding.of(unreadable, None, Storage(num_workers=0), [CPU]).num_workers == 0


@pytest.mark.clusters
def test_two_processes_write_the_bytes_of_one(tmp_path: Path) -> None:
    filled = fill(tmp_path / "a", TinyWork(), devices=2)
    assert contents(filled) == contents(make_store(tmp_path / "b"))


@pytest.mark.clusters
@pytest.mark.parametrize(
    ("does", "message"),
    [("error", r"^image 020\.jpg is not readable"), ("kill", "was killed .* is kept")],
)
def test_a_failing_process_gives_one_message_and_the_store_can_be_continued(
    tmp_path: Path, does: str, message: str
) -> None:
    with pytest.raises(EdjeError, match=message):
        fill(tmp_path / "a", TinyWork(20, does), devices=2)
    assert not (tmp_path / "a" / "store.json").exists()
    fill(tmp_path / "a", TinyWork())
    assert contents(tmp_path / "a") == contents(make_store(tmp_path / "b"))


@pytest.mark.parametrize(
    ("does", "raised"),
    [("error", EdjeError), ("interrupt", KeyboardInterrupt), ("terminate", SystemExit)],
)
def test_a_stopped_writer_raises_what_the_command_line_expects_and_is_continued(
    tmp_path: Path, does: str, raised: type[BaseException]
) -> None:
    with pytest.raises(raised) as stopped:
        fill(tmp_path / "a", TinyWork(20, does))
    assert does != "terminate" or stopped.value.code == 143  # type: ignore[attr-defined]
    assert (tmp_path / "a" / "shard-00001.arrow").exists()
    assert not (tmp_path / "a" / "store.json").exists()
    fill(tmp_path / "a", TinyWork(3, "error"))  # row 3 is not encoded again
    assert contents(tmp_path / "a") == contents(make_store(tmp_path / "b"))


def test_an_error_in_a_loading_process_keeps_its_words(tmp_path: Path) -> None:
    with pytest.raises(EdjeError, match=r"^image 020\.jpg is not readable\. Mend it\.$"):
        fill(tmp_path, TinyWork(20, "error"), num_workers=1)


@pytest.mark.clusters
def test_a_run_that_joins_writes_what_the_leading_run_leaves(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    leader = run_script("lead", str(folder))
    try:
        fill(folder, TinyWork(), join=True)
    finally:
        leader.communicate(timeout=60)
    assert contents(folder) == contents(make_store(tmp_path / "b"))


def test_a_run_that_joins_none_says_so_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edje.pipeline.writing._LEADER_SECONDS", 0.7)
    with pytest.raises(EdjeError, match=r"no run writes .*Start one without storage\.join"):
        fill(tmp_path, TinyWork(), join=True)
    assert caplog.text.count(f"no run writes {tmp_path}; waiting for one to help") == 1


@pytest.mark.clusters
def test_a_run_that_joins_ends_when_its_leader_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = run_script("lead", str(tmp_path))
    while not (tmp_path / "plan.json").exists():
        time.sleep(0.02)

    def kill(*_: Any) -> None:
        leader.kill()
        leader.wait()

    monkeypatch.setattr("edje.pipeline.writing.encode", kill)
    monkeypatch.setattr("edje.pipeline.writing._LEADER_SECONDS", 0.7)
    with pytest.raises(EdjeError, match="no run writes"):
        fill(tmp_path, TinyWork(), join=True)


def test_a_rank_that_would_write_another_store_than_rank_0_says_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for a leader for ever; a complete store of rank 0 changes nothing."""
    theirs = Fingerprint({**FINGERPRINT.fields, "images": "others"})
    make_store(tmp_path / "raw-theirs", fingerprint=theirs)
    first = json.dumps({"store": "raw-theirs", "facts": theirs.fields})
    monkeypatch.setattr("edje.pipeline.writing.launched", lambda: Launched("srun", 1, 0, 2, 2))
    monkeypatch.setattr("edje.pipeline.writing.of_rank_0", lambda process, own: first)
    codec = make_codec("fp16", NUM_TOKENS, WIDTH)

    def helped(name: str, fingerprint: Fingerprint) -> None:
        folder, storage = tmp_path / name, Storage()
        fill_store(folder, fingerprint, codec, pytest.fail, storage, [CPU], by_all_ranks=True)

    said = r"is raw-mine, but rank 0 writes raw-theirs; they differ in images\. Give every node"
    with pytest.raises(EdjeError, match=said):
        helped("raw-mine", FINGERPRINT)
    helped("raw-theirs", theirs)


def test_a_complete_store_costs_nothing(tmp_path: Path) -> None:
    make_store(tmp_path)
    codec = make_codec("fp16", NUM_TOKENS, WIDTH)
    fill_store(tmp_path, FINGERPRINT, codec, pytest.fail, Storage(), [CPU])


def test_another_process_gets_no_weights_and_encodes_the_same(tmp_path: Path) -> None:
    make_images(tmp_path)
    split = FolderSource(name="folder", root=str(tmp_path), images="images").read("val")
    rebuild = partial(HuggingFaceBackbone, pretrained=str(make_siglip(tmp_path / "siglip")))
    work = VisionWork(split, rebuild(), "tf32", rebuild)
    sent = pickle.dumps(work)
    assert len(sent) < 5000
    first, second = (
        one.encoder().predict_step(one.dataset()[range(3)], 0) for one in (work, pickle.loads(sent))
    )
    assert torch.equal(first.tokens, second.tokens) and first.tokens.shape == (3, 16, 32)
    assert torch.equal(first.features, second.features)


def test_a_store_of_another_backbone_layer_resolution_or_codec_is_refused(tmp_path: Path) -> None:
    make_images(tmp_path)
    split = FolderSource(name="folder", root=str(tmp_path), images="images").read("val")
    plain, other = (make_siglip(tmp_path / f"siglip{seed}", seed) for seed in (0, 1))
    identity = HuggingFaceBackbone(pretrained=str(plain)).identity()
    stored = raw_fingerprints(split, identity, Storage())[0]
    make_store(tmp_path / "store", "bf16", fingerprint=stored)
    TokenStore.open(tmp_path / "store", stored)
    coarse = raw_fingerprints(split, identity, Storage(tower_precision="bf16"))[0]
    with pytest.raises(EdjeError, match=r"tower_precision: store has .*, run needs bf16"):
        TokenStore.open(tmp_path / "store", coarse)
    exact = raw_fingerprints(split, identity, Storage(tower_precision="fp32"))[0]
    TokenStore.open(tmp_path / "store", exact)
    for backbone, codec, difference in (
        (HuggingFaceBackbone(pretrained=str(other)), "bf16", r"weights: store has \w+, run needs"),
        (HuggingFaceBackbone(pretrained=str(plain), layer=-2), "bf16", "layer: store has last"),
        (with_resolution(plain, 24), "bf16", r"preprocessing: store has .*32.*, run needs .*24"),
        (HuggingFaceBackbone(pretrained=str(plain)), "int8", "codec: store has bf16, run needs"),
    ):
        asked = raw_fingerprints(split, backbone.identity(), Storage(raw_codec=codec))[0]
        with pytest.raises(EdjeError, match=f"other tokens than this run needs: {difference}"):
            TokenStore.open(tmp_path / "store", asked)


@pytest.mark.parametrize("here", [True, False])
def test_a_tower_computes_in_bf16_when_it_is_asked_to_and_there_are_instructions_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    """Whose tokens differ from those of float32 by a fraction of their deviation, and only then."""
    monkeypatch.setattr("edje.pipeline.encoding.has_bf16", lambda device: here)
    make_images(tmp_path)
    source = FolderSource(name="folder", root=str(tmp_path), images="images")
    split = source.read("val")
    backbone = HuggingFaceBackbone(pretrained=str(make_siglip(tmp_path / "siglip")))
    stores = {}
    for precision in ("fp32", "tf32", "bf16"):
        work = VisionWork(split, backbone, precision)
        storage = Storage(raw_codec="fp16", tower_precision=precision, num_workers=0)
        stores[precision] = tmp_path / precision
        fill_store(
            stores[precision],
            raw_fingerprints(split, backbone.identity(), storage)[0],
            make_codec("fp16", backbone.num_tokens, backbone.token_width),
            lambda work=work: work,
            storage,
            [CPU],
        )
    read = {key: TokenStore.open(folder).read(torch.arange(3)) for key, folder in stores.items()}
    assert torch.equal(read["fp32"], read["tf32"])
    error = (read["bf16"] - read["fp32"]).square().mean().sqrt() / read["fp32"].std()
    assert 1e-4 < error < 0.02 if here else error == 0


def test_tf32_is_for_the_work_on_a_gpu_alone() -> None:
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)

    def settings() -> list[str]:
        return [backend.fp32_precision for backend in backends]

    before = settings()
    with products_in("tf32", torch.device("cpu")):
        assert settings() == before
    for precision in ("tf32", "bf16"):
        with products_in(precision, torch.device("cuda", 0)):
            assert settings() == ["tf32", "tf32"]
    with products_in("fp32", torch.device("cuda", 0)):
        assert settings() == ["ieee", "ieee"]
    with pytest.raises(RuntimeError), products_in("tf32", torch.device("cuda", 0)):
        raise RuntimeError
    assert settings() == before


def with_resolution(folder: Path, side: int) -> HuggingFaceBackbone:
    backbone = HuggingFaceBackbone(pretrained=str(folder))
    backbone.image_processor.size = {"height": side, "width": side}
    return backbone
