"""Claims about task=compress, and about evaluating from a compressed store."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import pandas as pd
import pytest
import torch

from edje.cli import run
from edje.errors import EdjeError
from edje.inference.reranker import Reranker
from edje.tokens.fingerprint import Fingerprint, store_folder
from edje.tokens.manifest import read_manifest
from edje.tokens.store import TokenStore
from edje.tokens.verification import verify
from tests.tiny.stores import contents, locked_elsewhere
from tests.tiny.world import make_world

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with a finished run in `run`, whose adapter `compressed` has applied."""
    folder = tmp_path_factory.mktemp("world")
    run(make_world(folder))
    compress(folder, "compressed")
    return folder


def compress(root: Path, name: str, *more: str) -> Path:
    """The store that task=compress leaves."""
    checkpoint = f"checkpoint={root / 'run'}"
    run(["task=compress", checkpoint, f"hydra.run.dir={root / name}", *more])
    return Path(json.loads((root / name / "compress.json").read_text())["store"])


def evaluate(root: Path, name: str, *more: str) -> Path:
    checkpoint = f"checkpoint={root / 'run'}"
    run(["task=evaluate", checkpoint, f"hydra.run.dir={root / name}", *more])
    return root / name


def store_of(root: Path) -> Path:
    return Path(json.loads((root / "compressed" / "compress.json").read_text())["store"])


def test_the_store_holds_what_the_adapter_makes_of_the_raw_tokens(root: Path) -> None:
    folder = store_of(root)
    store = TokenStore.open(folder)
    assert folder.parent == root / "cache" / "folder-val" and verify(folder) == []
    assert (len(store), store.num_tokens, store.width, store.cell_bytes) == (8, 4, 32, 4 * 32 * 2)
    raw = TokenStore.open(next((root / "cache" / "folder-val").glob("raw-*")))
    rows = torch.arange(8)
    expected = Reranker.from_pretrained(root / "run").compress(raw.read(rows)).bfloat16().float()
    torch.testing.assert_close(store.read(rows), expected, rtol=1e-2, atol=1e-5)
    assert store.image_ids == raw.image_ids and torch.equal(store.features(), raw.features())


def test_no_vision_tower_is_needed_and_a_second_run_keeps_the_store(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*arguments: object, **named: object) -> None:
        raise AssertionError("a backbone was built")

    monkeypatch.setattr("edje.backbones.huggingface.HuggingFaceBackbone.__init__", forbidden)
    before = (store_of(root) / "store.json").stat().st_mtime_ns
    assert compress(root, "again") == store_of(root)
    assert (store_of(root) / "store.json").stat().st_mtime_ns == before


def test_evaluating_from_it_gives_the_runs_scores_without_the_raw_tier(root: Path) -> None:
    raw = next((root / "cache" / "folder-val").glob("raw-*"))
    raw.rename(root / "aside")
    elsewhere = fsspec.filesystem("memory")
    elsewhere.put(str(store_of(root)), "/compressed", recursive=True)
    try:
        found = evaluate(root, "found")
        given = evaluate(root, "given", f"store={store_of(root)}")
        remote = evaluate(root, "remote", "store=memory://compressed")
        assert not raw.exists(), "the vision tower ran again"
    finally:
        (root / "aside").rename(raw)
        elsewhere.rm("/compressed", recursive=True)
    keys = ["direction", "query_id", "candidate_id"]
    scores = pd.read_parquet(root / "run" / "candidates.parquet").set_index(keys)["final"]
    for folder in (found, given, remote):
        again = pd.read_parquet(folder / "candidates.parquet").set_index(keys)["final"]
        pd.testing.assert_series_equal(again.sort_index(), scores.sort_index(), atol=1e-2)


def test_raw_tokens_behind_a_url_are_evaluated_and_compressed(root: Path, tmp_path: Path) -> None:
    elsewhere = fsspec.filesystem("memory")
    raw = next((root / "cache" / "folder-val").glob("raw-*"))
    elsewhere.put(str(raw), "/raw", recursive=True)
    given = ["store=memory://raw", f"cache_dir={tmp_path / 'cache'}"]
    try:
        evaluate(root, str(tmp_path / "evaluated"), *given)
        assert not list((tmp_path / "cache").glob("*/raw-*")), "the vision tower ran again"
        compressed = compress(root, str(tmp_path / "compressed"), *given)
    finally:
        elsewhere.rm("/raw", recursive=True)
    assert contents(compressed) == contents(store_of(root))
    metrics, expected = (
        json.loads((folder / "metrics.json").read_text())
        for folder in (tmp_path / "evaluated", root / "run")
    )
    assert metrics["t2i"] == expected["t2i"]


def test_what_is_made_of_a_raw_store_of_a_former_fingerprint_bears_it_and_is_found(
    root: Path, tmp_path: Path
) -> None:
    raw = next((root / "cache" / "folder-val").glob("raw-*"))
    manifest = read_manifest(raw / "store.json")
    fields = dict(manifest.fingerprint.fields)
    del fields["decoder"]
    fingerprint = Fingerprint(fields)
    there = store_folder(tmp_path / "cache", "folder", "val", "raw", fingerprint)
    shutil.copytree(raw, there)
    replace(manifest, fingerprint=fingerprint).write(there / "store.json")
    cache = f"cache_dir={tmp_path / 'cache'}"
    compressed = compress(root, str(tmp_path / "compressed"), cache)
    fields = TokenStore.open(compressed).manifest.fingerprint.fields
    present = TokenStore.open(store_of(root)).manifest.fingerprint.fields
    assert fields == {name: value for name, value in present.items() if name != "decoder"}
    shutil.rmtree(there)
    evaluate(root, str(tmp_path / "evaluated"), cache)
    assert not list(there.parent.glob("raw-*")), "the vision tower ran again"


DOTTED = "edje.models.adapters.TokenCompressionAdapter"
IN_FULL = "edje.models.adapters.compression.TokenCompressionAdapter"


@pytest.mark.parametrize(
    ("spelt", "stored"),
    [("compression", DOTTED), (DOTTED, DOTTED), (IN_FULL, DOTTED), (IN_FULL, IN_FULL)],
)
def test_a_store_is_found_however_its_checkpoint_spells_the_adapter(
    root: Path, tmp_path: Path, spelt: str, stored: str
) -> None:
    """Also one that an earlier version made, which kept the checkpoint's own spelling."""
    checkpoint = tmp_path / "model.ckpt"
    content = torch.load(root / "run" / "checkpoints" / "model.ckpt", weights_only=True)
    assert content["edje"]["adapter"]["target"] == "compression"
    content["edje"]["adapter"]["target"] = spelt
    torch.save(content, checkpoint)
    made = store_of(root)
    manifest = read_manifest(made / "store.json")
    assert manifest.fingerprint.fields["adapter"] == DOTTED, "as in the stores of before"
    fingerprint = Fingerprint({**manifest.fingerprint.fields, "adapter": stored})
    there = store_folder(tmp_path / "cache", "folder", "val", "compressed", fingerprint)
    shutil.copytree(made, there)
    replace(manifest, fingerprint=fingerprint).write(there / "store.json")
    cache = f"cache_dir={tmp_path / 'cache'}"
    run(["task=evaluate", f"checkpoint={checkpoint}", cache, f"hydra.run.dir={tmp_path / 'run'}"])
    assert not list(there.parent.glob("raw-*")), "the vision tower ran again"


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("storage.compressed_codec=int8", "codec: store has bf16, run needs int8"),
        ("storage.raw_codec=fp16", "raw_codec: store has bf16, run needs fp16"),
        ("data.split=train", "images: store has"),
    ],
)
def test_a_compressed_store_of_another_kind_is_refused(
    root: Path, tmp_path: Path, change: str, difference: str
) -> None:
    with pytest.raises(EdjeError, match=f"{difference}.* Build the right one .*task=compress"):
        evaluate(root, str(tmp_path / "a"), f"store={store_of(root)}", change)


def test_a_compressed_store_of_another_adapter_is_refused_and_not_found(
    root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root / "run" / "checkpoints", tmp_path / "other" / "checkpoints")
    path = tmp_path / "other" / "checkpoints" / "model.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.adapter.query"] += 1
    torch.save(content, path)
    given = ["task=evaluate", f"checkpoint={path}", f"store={store_of(root)}"]
    with pytest.raises(EdjeError, match=r"needs: adapter_weights: store has \w+, run needs \w+"):
        run([*given, f"hydra.run.dir={tmp_path / 'a'}"])
    stores = set((root / "cache" / "folder-val").glob("compressed-*"))
    run(["task=compress", f"checkpoint={path}", f"hydra.run.dir={tmp_path / 'b'}"])
    assert len(set((root / "cache" / "folder-val").glob("compressed-*")) - stores) == 1


def test_a_compressed_store_that_is_being_written_is_an_error(root: Path) -> None:
    folder = compress(root, "int8", "storage.compressed_codec=int8")
    shutil.rmtree(folder)
    folder.mkdir()
    with locked_elsewhere(folder) as other:
        said = rf"is being written by process {other.pid} on"
        with pytest.raises(EdjeError, match=said):
            compress(root, "int8_again", "storage.compressed_codec=int8")
    shutil.rmtree(folder)


def test_without_the_raw_tier_there_is_nothing_to_compress(root: Path, tmp_path: Path) -> None:
    with pytest.raises(EdjeError, match=r"raw-\w+ doesn't exist. Build it with: .*task=cache"):
        compress(root, str(tmp_path / "a"), f"cache_dir={tmp_path}")
