"""Claims about a server that is asked more than it can answer, or for what fails."""

import base64
import http.client
import json
import logging
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from edje import ImageIndex, Reranker
from edje.errors import EdjeError
from edje.serving.searcher import Job, Searcher
from edje.serving.web_app import Limits, WebApp
from tests.serving.served import Reply, Served, photograph, serving

LIMITS = Limits(waiting=3, batch=16, seconds=20)


class Slow(Searcher):
    """Answers when it may; notes the sizes of its batches. Some queries fail."""

    def __init__(self, index: ImageIndex):
        super().__init__(index)
        self.may = threading.Event()
        self.began = threading.Semaphore(0)
        self.batches: list[int] = []

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        self.batches.append(len(jobs))
        self.began.release()
        assert self.may.wait(30)
        for job in jobs:
            if job.query == "memory is full":
                raise MemoryError("no more")
            if job.query == "damaged":
                raise EdjeError("can't read the index /home/somebody/photos.edje")
        return super().run(jobs)


@pytest.fixture
def slow(index: ImageIndex, shapes: Reranker) -> Iterator[tuple[Served, Slow]]:
    searcher = Slow(ImageIndex.open(index.folder, shapes))
    with serving(WebApp(searcher, limits=LIMITS)) as found:
        try:
            yield found, searcher
        finally:
            searcher.may.set()


def search(served: Served, query: str = "a+red+circle") -> Reply:
    return served.get(f"/v1/search?q={query}&k=5")


def waits(served: Served, count: int) -> None:
    """Until so many wait in the queue."""
    for _ in range(400):
        if served.web.batcher.waiting == count:
            return
        threading.Event().wait(0.02)
    raise AssertionError(f"{served.web.batcher.waiting} wait, expected {count}")


def test_what_waits_is_answered_together_and_what_fails_fails_alone(
    slow: tuple[Served, Slow], caplog: pytest.LogCaptureFixture
) -> None:
    served, searcher = slow
    with ThreadPoolExecutor(8) as pool, caplog.at_level(logging.ERROR):
        first = pool.submit(search, served)
        assert searcher.began.acquire(timeout=20)
        good = pool.submit(search, served, "a+blue+square")
        waits(served, 1)
        bad = pool.submit(search, served, "memory+is+full")
        waits(served, 2)
        unknown = pool.submit(served.post, "/rerank", {"query": "a", "texts": ["nothing"]})
        waits(served, 3)
        refused = search(served)
        assert refused.status == 429 and refused.headers["retry-after"] == "1"
        assert "try again" in refused.message
        assert served.get("/healthz").status == 200  # which waits for nobody
        assert served.get("/images/holiday.jpg").status == 200
        searcher.may.set()
        assert first.result(20).status == good.result(20).status == 200
        assert bad.result(20).status == 500 and "no more" not in bad.result().message
        assert unknown.result(20).status == 422 and "nothing" in unknown.result().message
    assert searcher.batches == [1, 3, 1, 1, 1]
    assert "MemoryError" in caplog.text
    assert good.result().json["reranked"] == search(served, "a+blue+square").json["reranked"]


def test_what_takes_too_long_is_given_up(index: ImageIndex, shapes: Reranker) -> None:
    searcher = Slow(ImageIndex.open(index.folder, shapes))
    with serving(WebApp(searcher, limits=Limits(waiting=3, seconds=0.3))) as served:
        for _ in range(2):
            reply = search(served)
            assert reply.status == 504 and "0.3 s" in reply.message
        searcher.may.set()
        waits(served, 0)
        assert searcher.batches == [1]  # the second was given up before it began
        threading.Event().wait(0.1)
        assert search(served).status == 200


class SlowPictures(Searcher):
    """Decodes the pictures of requests when it may."""

    def __init__(self, index: ImageIndex):
        super().__init__(index)
        self.may = threading.Event()
        self.began = threading.Semaphore(0)
        self.seen = 0

    def prepared(self, picture: bytes) -> Tensor:
        self.seen += 1
        self.began.release()
        assert self.may.wait(30)
        return super().prepared(picture)


def test_pictures_of_a_request_hold_nobody_up_and_are_left_when_it_is_gone(
    index: ImageIndex, shapes: Reranker, gallery: Path
) -> None:
    searcher = SlowPictures(ImageIndex.open(index.folder, shapes))
    searcher.warm()
    sent = base64.b64encode((gallery / "holiday.jpg").read_bytes()).decode()
    given = {"query": "a", "documents": [{"image": sent}] * 3}
    with serving(WebApp(searcher, limits=Limits(seconds=3))) as served:
        client = http.client.HTTPConnection("127.0.0.1", served.port)
        client.request("POST", "/rerank", json.dumps(given), {"Content-Type": "application/json"})
        assert searcher.began.acquire(timeout=20)
        assert search(served).status == 200
        client.close()
        threading.Event().wait(0.2)
        searcher.may.set()
        threading.Event().wait(0.2)
        assert searcher.seen == 1
        assert len(served.post("/rerank", given).json["results"]) == 3
        searcher.may.clear()
        assert served.post("/rerank", given).status == 504
        searcher.may.set()


def test_an_index_that_cannot_be_read_is_told_without_its_path(
    slow: tuple[Served, Slow], caplog: pytest.LogCaptureFixture
) -> None:
    served, searcher = slow
    searcher.may.set()
    with caplog.at_level(logging.ERROR):
        reply = search(served, "damaged")
    assert reply.status == 503 and "somebody" not in reply.message
    assert "/home/somebody/photos.edje" in caplog.text
    assert search(served).status == 200


def test_what_others_add_is_found_soon(
    shapes: Reranker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = ImageIndex.open(tmp_path / "own.edje", shapes)
    own.add({"one": photograph(tmp_path / "one.jpg", 1)})
    searcher = Searcher(ImageIndex.open(own.folder, shapes))
    monkeypatch.setattr("edje.serving.searcher.REFRESH_SECONDS", 0.0)
    with serving(WebApp(searcher)) as served:
        assert search(served).json["index"] == {"images": 1}
        own.add({"two": photograph(tmp_path / "two.jpg", 2)})
        found = search(served).json
        assert found["index"] == {"images": 2} and len(found["reranked"]) == 2
        assert served.get("/images/two").status == 200
        own.remove(["one"])
        assert [one["id"] for one in search(served).json["reranked"]] == ["two"]
        assert served.get("/images/one").status == 404


def test_an_index_made_anew_is_served_and_health_tells_when_it_cannot_be_read(
    shapes: Reranker,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edje.serving.web_app.HEALTH_SECONDS", 20)  # machines may be busy
    folder = tmp_path / "own.edje"
    for name in ("one", "two"):
        ImageIndex.open(folder, shapes).add({name: photograph(tmp_path / f"{name}.jpg")})
    searcher = Searcher(ImageIndex.open(folder, shapes))
    searcher.warm()
    with serving(WebApp(searcher)) as served:
        assert served.get("/images/one").status == 200
        shutil.rmtree(folder)
        assert [search(served).status for _ in range(3)] == [503] * 3
        assert caplog.text.count("own.edje is gone") == 1
        assert served.get("/images/one").status == 503
        failing = served.get("/healthz")
        assert (failing.status, failing.json) == (503, {"status": "the index can't be read"})
        ImageIndex.open(folder, shapes).add({"three": tmp_path / "two.jpg"})
        assert served.get("/healthz").json == {"status": "ok"}
        assert [one["id"] for one in search(served).json["reranked"]] == ["three"]
        assert served.get("/images/three").status == 200


def test_health_tells_that_the_index_is_gone_before_any_request_has_failed(
    shapes: Reranker,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edje.serving.web_app.HEALTH_SECONDS", 20)
    own = ImageIndex.open(tmp_path / "own.edje", shapes)
    own.add({name: photograph(tmp_path / f"{name}.jpg") for name in ("one", "two")})
    searcher = Searcher(ImageIndex.open(own.folder, shapes))
    with serving(WebApp(searcher)) as served:
        assert served.get("/healthz").status == 200 and not searcher.is_due
        shutil.rmtree(own.folder)
        assert served.get("/healthz").status == 200  # it has just looked
        searcher._due = 0.0  # as some seconds later
        assert [served.get("/healthz").status for _ in range(2)] == [503, 503]
        assert caplog.text.count("own.edje is gone") == 1


def test_health_of_a_busy_server_is_what_was_last_known(slow: tuple[Served, Slow]) -> None:
    served, searcher = slow
    for _ in range(2):
        assert searcher.is_due and served.get("/healthz").status == 200
    assert searcher.began.acquire(timeout=20)
    assert searcher.batches == [1]  # both calls wait for one look
    served.web.problem = "it was being copied"
    assert served.get("/healthz").status == 503
    searcher.may.set()
    for _ in range(400):
        if served.get("/healthz").status == 200:
            break
        threading.Event().wait(0.02)
    assert served.web.problem is None


def test_a_look_that_takes_too_long_does_not_make_a_server_ill(
    index: ImageIndex, shapes: Reranker
) -> None:
    searcher = Slow(ImageIndex.open(index.folder, shapes))
    with serving(WebApp(searcher, limits=Limits(waiting=3, seconds=0.1))) as served:
        assert served.get("/healthz").status == 200
        assert search(served).status == 504
        searcher.may.set()


def test_an_index_of_given_embeddings_reranks_and_says_why_it_does_not_search(
    shapes: Reranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edje.serving.web_app.HEALTH_SECONDS", 20)
    paths = [photograph(tmp_path / f"{at}.jpg", at) for at in range(3)]
    given = ImageIndex.from_embeddings(
        tmp_path / "given.edje", shapes, np.eye(3, dtype=np.float32), paths
    )
    searcher = Searcher(given)
    searcher.warm()
    with serving(WebApp(searcher)) as served:
        reply = search(served)
        assert reply.status == 422 and "/v1/rerank" in reply.message
        served.web.problem = "it was being copied"
        assert served.get("/healthz").status == 200 and served.web.problem is None
        answer = served.post("/rerank", {"query": "a", "texts": given.ids()})
        assert answer.status == 200 and len(answer.json) == 3
