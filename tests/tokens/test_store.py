"""Claims about reading a store."""

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader

from edje.benchmark.pages import drop_pages, share_in_memory
from edje.errors import EdjeError
from edje.tokens import reused_memory, spanned_map
from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.store import TokenStore
from edje.tokens.verification import verify
from edje.tokens.writer import write_store
from tests.tiny.stores import (
    FINGERPRINT,
    IDS,
    NUM_IMAGES,
    NUM_TOKENS,
    WIDTH,
    StoreRows,
    features_of,
    make_store,
    refused,
    tokens_of,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("stores") / "store")


@pytest.fixture
def store(folder: Path) -> TokenStore:
    return TokenStore.open(folder, FINGERPRINT)


def test_a_round_trip_is_exact_at_its_precision(store: TokenStore) -> None:
    expected = tokens_of(range(NUM_IMAGES)).half()
    assert torch.equal(store.read(torch.arange(NUM_IMAGES)), expected.float())
    assert torch.equal(store.read(torch.arange(NUM_IMAGES), dtype=torch.float16), expected)
    assert (len(store), store.num_tokens, store.width, store.cell_bytes) == (50, 4, 6, 48)


@pytest.mark.usefixtures("threads")
def test_rows_come_in_the_asked_order_with_repeats(store: TokenStore) -> None:
    rows = torch.tensor([49, 0, 17, 17, 8, 7, 0])
    assert torch.equal(store.read(rows), tokens_of(rows.tolist()).half().float())
    assert store.read(torch.tensor([], dtype=torch.int64)).shape == (0, 4, 6)


def test_what_was_read_is_a_copy(store: TokenStore) -> None:
    rows = torch.tensor([3])
    store.read(rows, dtype=torch.float16).zero_()
    assert store.read(rows).abs().sum() > 0


@pytest.mark.usefixtures("threads")
def test_large_reads_give_the_same_and_leave_each_other_alone(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reused_memory, "_LEAST", 1)
    rows = [torch.randint(NUM_IMAGES, (40,)) for _ in range(6)]
    read = [store.read(row, dtype=torch.float16) for row in rows]
    for row, tokens in zip(rows, read, strict=True):
        assert torch.equal(tokens, tokens_of(row.tolist()).half())


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("row", [-1, NUM_IMAGES])
def test_a_row_outside_the_store_is_an_error(store: TokenStore, row: int) -> None:
    with pytest.raises(IndexError, match="store of 50"):
        store.read(torch.tensor([0, row]))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("row", [-1, -NUM_IMAGES, -NUM_IMAGES - 1, -2 * NUM_IMAGES])
def test_a_negative_row_is_an_error_also_when_all_rows_were_read(
    store: TokenStore, row: int
) -> None:
    store.read(torch.arange(NUM_IMAGES))
    with pytest.raises(IndexError, match="store of 50"):
        store.read(torch.tensor([row]))


def test_rows_may_be_any_whole_numbers_or_a_mask(store: TokenStore) -> None:
    expected = store.read(torch.tensor([1, 3]))
    mask = torch.zeros(NUM_IMAGES, dtype=torch.bool)
    mask[[1, 3]] = True
    for rows in ([1, 3], np.array([1, 3], np.uint8), torch.tensor([1, 3]).int(), mask):
        assert torch.equal(store.read(rows), expected)
    assert len(store.read([])) == 0


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (torch.tensor([True, False]), r"type bool and shape \(2,\)"),
        (torch.tensor([1.0]), r"type float32 and shape \(1,\)"),
        (torch.tensor([[1, 2]]), r"type int64 and shape \(1, 2\)"),
        (torch.tensor(1), r"type int64 and shape \(\)"),
    ],
)
def test_other_rows_are_refused_and_not_read_as_numbers(
    store: TokenStore, rows: torch.Tensor, told: str
) -> None:
    store.read(torch.arange(NUM_IMAGES))
    with pytest.raises(EdjeError, match=f"{told}, expected a list of whole .* mask of 50"):
        store.read(rows)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("codec", ["int8", "int4"])  # cells of 40 and 28 bytes
@pytest.mark.parametrize("addresses", [1 << 44, 0])  # files a huge page apart, or a page
def test_cells_of_any_size_are_found_in_every_shard(
    tmp_path: Path, codec: str, addresses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spanned_map, "_LARGEST_RANGE", addresses)
    store = TokenStore.open(make_store(tmp_path / "store", codec))
    cells = [row["tokens"] for row in store.as_dataset()]
    rows = np.arange(NUM_IMAGES)[::-1]
    assert store.read_cells(rows).tobytes() == b"".join(reversed(cells))


@pytest.mark.usefixtures("threads")
def test_a_row_is_asked_for_once_and_again_when_many_were_evicted(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    waits = iter([0, 0, 0, 0, 0, 1, 1, 1, 1])  # before a read, and after it if all are known
    monkeypatch.setattr(spanned_map, "read_ahead", lambda _, __, cells: asked.append(len(cells)))
    monkeypatch.setattr(spanned_map, "waits_for_disk", lambda: next(waits))
    monkeypatch.setattr(spanned_map, "_WATCHED", 1)  # every read is looked at
    for rows in ([1, 2, 3], [3, 2], [3, 4], [1, 4], [4], [4]):  # the fourth waited for the disk
        assert torch.equal(store.read(torch.tensor(rows)), tokens_of(rows).half().float())
    assert asked == [3, 1, 1]  # one wait is many in a store of 50


def test_a_cold_read_gives_what_a_warm_one_gives(folder: Path) -> None:
    files = list(folder.glob("*.arrow"))
    drop_pages(files)
    rows = torch.tensor([40, 3, 17])
    assert torch.equal(TokenStore.open(folder).read(rows), tokens_of([40, 3, 17]).half().float())


def test_a_preloaded_store_lies_in_memory(folder: Path) -> None:
    files = list(folder.glob("*.arrow"))
    drop_pages(files)
    if share_in_memory(files):
        pytest.skip("this file system keeps its pages in memory")
    TokenStore.open(folder).preload()
    assert share_in_memory(files) == 1


def test_ids_and_features_belong_to_the_rows(store: TokenStore) -> None:
    assert store.image_ids == tuple(IDS)
    assert torch.equal(store.features(), features_of(range(NUM_IMAGES)))
    assert store.rows_of(["030.jpg", "001.jpg"]).tolist() == [30, 1]
    with pytest.raises(EdjeError, match=r"lacks 1 of 2 images, such as cat\.jpg.*task=cache"):
        store.rows_of(["001.jpg", "cat.jpg"])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_dataloader_workers_read_the_same(store: TokenStore, method: str) -> None:
    store.read(torch.tensor([0]))  # maps are open before the worker starts
    loader = DataLoader(
        StoreRows(store), batch_size=None, num_workers=1, multiprocessing_context=method
    )
    assert torch.equal(torch.stack(list(loader)), store.read(torch.arange(3)))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [2], indirect=True)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_reads_what_is_stored_without_the_threads_it_lacks(tmp_path: Path) -> None:
    tokens = torch.randn(600, 4, 384).bfloat16()
    codec, ids = make_codec("bf16", 4, 384), [f"{row:03d}" for row in range(600)]
    write_store(
        tmp_path, FINGERPRINT, ids, codec, 1, lambda rows: (tokens[rows], torch.zeros(len(rows), 1))
    )
    store, rows = TokenStore.open(tmp_path), torch.arange(600)

    def read() -> None:
        found = store.read(rows, dtype=torch.bfloat16).view(torch.int16).numpy()
        assert np.array_equal(found, tokens.view(torch.int16).numpy())

    read()  # starts torch's threads
    child = multiprocessing.get_context("fork").Process(target=read)
    child.start()
    child.join(timeout=20)
    child.kill()
    child.join()
    assert child.exitcode == 0


def test_pickling_carries_no_data(store: TokenStore) -> None:
    store.read(torch.arange(NUM_IMAGES))
    copy = pickle.loads(pickle.dumps(store))
    assert torch.equal(copy.read(torch.tensor([5])), store.read(torch.tensor([5])))
    assert "_map" not in store.__getstate__()


def test_reading_keeps_no_file_open(store: TokenStore) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    store.read(torch.arange(NUM_IMAGES))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_shards_open_as_a_dataset(store: TokenStore) -> None:
    dataset = store.as_dataset()
    assert dataset["image_id"][:] == IDS
    cells = store.read_cells(np.arange(NUM_IMAGES))
    assert dataset[13]["tokens"] == cells[13].tobytes()
    assert dataset[13]["features"] == pytest.approx(features_of([13])[0].tolist())


def test_cells_begin_a_page_and_lie_where_arrow_has_them(store: TokenStore) -> None:
    shard = store.manifest.shards[1]
    content = (store.folder / shard.file).read_bytes()
    table = pa.ipc.open_stream(content).read_all()
    assert shard.cells_at % 4096 == 0
    first = content[shard.cells_at : shard.cells_at + store.cell_bytes]
    assert first == table["tokens"][0].as_py()


def test_a_store_of_another_fingerprint_is_refused_with_the_difference(folder: Path) -> None:
    asked = Fingerprint({**FINGERPRINT.fields, "layer": -2})
    message = r"layer: store has -1, run needs -2\. Build the right one with: make it so"
    with pytest.raises(EdjeError, match=message):
        TokenStore.open(folder, asked, rebuild="make it so")


def test_an_absent_store_is_refused_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(EdjeError, match=r"doesn't exist\. Build it with: .*task=cache"):
        TokenStore.open(tmp_path / "nothing")


@pytest.mark.parametrize("call", ["read_bytes", "is_file"])
def test_a_store_that_may_not_be_read_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(Path, call, refused)
    with pytest.raises(EdjeError, match=rf"can't read {folder}.*Permission denied.*readable"):
        TokenStore.open(folder)


def test_a_shard_that_may_not_be_read_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TokenStore.open(folder)
    monkeypatch.setattr("edje.tokens.spanned_map.os.open", refused)
    with pytest.raises(EdjeError, match=r"can't read .*shard-00000\.arrow"):
        store.read(torch.arange(3))


def test_an_empty_text_is_no_store() -> None:
    for opened in (TokenStore.open, verify):
        with pytest.raises(EdjeError, match="store='': expected a path"):
            opened("")


def test_an_unfinished_store_is_refused(tmp_path: Path) -> None:
    def stop(rows: range) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        make_store(tmp_path / "store", encode=stop)
    with pytest.raises(EdjeError, match="is unfinished"):
        TokenStore.open(tmp_path / "store")


@pytest.mark.parametrize("cut", [1, 48, 384])  # a byte, a cell, all rows but the schema
def test_a_shard_cut_off_is_found_on_opening(tmp_path: Path, cut: int) -> None:
    folder = make_store(tmp_path / "store")
    path = folder / "shard-00002.arrow"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(EdjeError, match=r"damaged: shard-00002\.arrow has .* bytes, expected"):
        TokenStore.open(folder)


def test_a_missing_shard_is_found_on_opening(tmp_path: Path) -> None:
    folder = make_store(tmp_path / "store")
    (folder / "shard-00006.arrow").unlink()
    with pytest.raises(EdjeError, match=r"shard-00006\.arrow is missing"):
        TokenStore.open(folder)


def test_a_damaged_store_file_is_found_on_opening(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store") / "store.json"
    text = path.read_text()
    path.write_text(text.replace('"width": 6', '"width": 7'))
    with pytest.raises(EdjeError, match=r"store\.json is damaged \(its checksum"):
        TokenStore.open(path.parent)
    path.write_text(text[:100])
    with pytest.raises(EdjeError, match="is damaged"):
        TokenStore.open(path.parent)
    path.write_text(text.replace("edje token store 2", "edje token store 9"))
    with pytest.raises(EdjeError, match="has format 'edje token store 9'"):
        TokenStore.open(path.parent)


@pytest.mark.parametrize("codec", ["bf16", "fp8", "int8", "int4"])
def test_every_codec_reads_back_across_shards(tmp_path: Path, codec: str) -> None:
    store = TokenStore.open(make_store(tmp_path / "store", codec))
    rows = torch.tensor([40, 3, 22])
    alone = make_codec(codec, NUM_TOKENS, WIDTH)  # type: ignore[arg-type]
    cells = torch.from_numpy(alone.encode(tokens_of(rows.tolist())))
    assert torch.equal(store.read(rows), alone.decode(cells))
    assert store.read(rows, dtype=torch.bfloat16).dtype == torch.bfloat16
