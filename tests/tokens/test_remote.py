"""Claims about a store behind a URL: the same tokens, by ranges, in every process."""

import functools
import pickle
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from edje.errors import EdjeError
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.store import TokenStore
from edje.tokens.verification import verify
from tests.tiny.stores import FINGERPRINT, IDS, NUM_IMAGES, StoreRows, make_store


class RangeServer(SimpleHTTPRequestHandler):
    """A folder over HTTP; serves ranges as object stores do, and notes what it sent."""

    ranges = True
    sent: list[tuple[str, int]]

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content, status = path.read_bytes(), 200
        asked = self.headers.get("Range")
        if asked and self.ranges:
            start, end = asked.removeprefix("bytes=").split("-")
            content, status = content[int(start) : int(end) + 1], 206
        self.sent.append((path.name, len(content)))
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class WholeServer(RangeServer):
    ranges = False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("stores") / "store")


def serve(handler: type[RangeServer], folder: Path) -> Iterator[str]:
    handler.sent = []
    serving = functools.partial(handler, directory=str(folder.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), serving) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{folder.name}"
        server.shutdown()
        thread.join()


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    yield from serve(RangeServer, folder)


@pytest.fixture
def in_memory(folder: Path) -> Iterator[str]:
    files = fsspec.filesystem("memory")
    files.put(str(folder), "/stores/copy", recursive=True)
    yield "memory://stores/copy"
    files.rm("/stores", recursive=True)


def same(store: TokenStore, folder: Path) -> None:
    local = TokenStore.open(folder)
    rows = torch.tensor([49, 0, 17, 17, 8, 7, 9, 0, 16])  # repeats, and across shards of 8
    assert torch.equal(store.read(rows), local.read(rows))
    assert torch.equal(store.read(torch.arange(NUM_IMAGES)), local.read(torch.arange(NUM_IMAGES)))
    assert store.read(torch.tensor([], dtype=torch.int64)).shape == (0, 4, 6)
    assert store.image_ids == tuple(IDS)
    assert torch.equal(store.features(), local.features())
    assert store.rows_of(["030.jpg"]).tolist() == [30]
    for row in (-1, NUM_IMAGES):
        with pytest.raises(IndexError, match="store of 50"):
            store.read(torch.tensor([row]))


def test_a_store_in_memory_reads_the_same(in_memory: str, folder: Path) -> None:
    same(TokenStore.open(in_memory, FINGERPRINT), folder)


def test_a_store_over_http_reads_the_same(url: str, folder: Path) -> None:
    same(TokenStore.open(f"{url}/", FINGERPRINT), folder)


def test_a_file_url_is_the_local_folder(folder: Path) -> None:
    assert TokenStore.open(f"file://{folder}").folder == folder


def test_only_the_cells_asked_for_travel_and_neighbours_together(url: str) -> None:
    store = TokenStore.open(url)
    RangeServer.sent.clear()
    store.read(torch.tensor([3, 20, 4, 3, 5, 8]))
    assert sorted(RangeServer.sent) == [
        ("shard-00000.arrow", 3 * store.cell_bytes),
        ("shard-00001.arrow", store.cell_bytes),
        ("shard-00002.arrow", store.cell_bytes),
    ]
    RangeServer.sent.clear()
    assert store.image_ids == tuple(IDS)
    cells = NUM_IMAGES * store.cell_bytes
    everything = sum(shard.bytes for shard in store.manifest.shards)
    assert sum(size for _, size in RangeServer.sent) == everything - cells


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_read_over_connections_of_their_own(url: str, folder: Path, method: str) -> None:
    store = TokenStore.open(url)
    store.read(torch.tensor([0]))  # this process has a connection and a thread before the fork
    loader = DataLoader(
        StoreRows(store), batch_size=None, num_workers=1, multiprocessing_context=method
    )
    assert torch.equal(torch.stack(list(loader)), TokenStore.open(folder).read(torch.arange(3)))


def test_pickling_carries_the_url_alone(in_memory: str) -> None:
    store = TokenStore.open(in_memory)
    store.read(torch.arange(NUM_IMAGES))
    copy = pickle.loads(pickle.dumps(store))
    assert set(vars(copy)) == {"folder", "manifest"}
    assert np.array_equal(copy.read_cells(np.array([5])), store.read_cells(np.array([5])))


def test_another_fingerprint_is_refused_there_too(in_memory: str) -> None:
    with pytest.raises(EdjeError, match="layer: store has -1, run needs -2"):
        TokenStore.open(in_memory, Fingerprint({**FINGERPRINT.fields, "layer": -2}))


def test_a_cut_off_and_a_missing_shard_are_found_on_opening(in_memory: str) -> None:
    files = fsspec.filesystem("memory")
    files.rm("/stores/copy/shard-00006.arrow")
    path = "/stores/copy/shard-00002.arrow"
    files.pipe_file(path, files.cat_file(path)[:-1])
    with pytest.raises(EdjeError, match=r"00002\.arrow has .* expected .*00006\.arrow is missing"):
        TokenStore.open(in_memory)


def test_places_without_a_store_are_named(url: str) -> None:
    with pytest.raises(EdjeError, match=r"memory://nothing doesn't exist\. Build it with"):
        TokenStore.open("memory://nothing")
    with pytest.raises(EdjeError, match=r"http://127.*/nothing doesn't exist"):
        TokenStore.open(f"{url}/nothing")
    with pytest.raises(EdjeError, match=r"nosuch://place can't be read .*nosuch"):
        TokenStore.open("nosuch://place")


def test_a_server_that_is_gone_is_named(folder: Path) -> None:
    serving = serve(RangeServer, folder)
    store = TokenStore.open(next(serving))
    next(serving, None)
    with pytest.raises(EdjeError, match=r"^http://127.*/store can't be read \(.*Check the address"):
        store.read(torch.tensor([0]))


def test_a_package_that_an_address_needs_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(EdjeError, match=r"s3://bucket/store needs .*s3fs.*'edje\[s3\]'"):
        TokenStore.open("s3://bucket/store")


def test_a_server_without_ranges_is_named_with_the_way_out(folder: Path, tmp_path: Path) -> None:
    for url in serve(WholeServer, folder):
        store = TokenStore.open(url)
        with pytest.raises(EdjeError, match=r"requested 48 bytes, got .* simplecache::http"):
            store.read(torch.tensor([1]))
        same(TokenStore.open(f"simplecache::{url}"), folder)


def test_a_remote_store_is_no_dataset(in_memory: str) -> None:
    with pytest.raises(EdjeError, match=r"memory://stores/copy: only a local store opens as"):
        TokenStore.open(in_memory).as_dataset()
    with pytest.raises(EdjeError, match=r"only a local store can be preloaded\. Copy it"):
        TokenStore.open(in_memory).preload()


def test_a_remote_store_is_not_verified(in_memory: str) -> None:
    with pytest.raises(
        EdjeError, match=r"memory://stores/copy: only a local store can be verified"
    ):
        verify(in_memory)
