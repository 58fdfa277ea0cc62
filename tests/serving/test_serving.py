"""Claims about `edje serve` as a process: others' tools, load, odd requests, and its end."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from edje import ImageIndex
from edje.serving.gate import HEADERS
from tests.serving.served import Reply, Served

pytestmark = pytest.mark.serving
QUERY = "a red circle above a blue square"


class Process(Served):
    """`edje serve` of an index, once it has said where it is."""

    def __init__(self, index: ImageIndex, *more: str):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        command = [sys.executable, "-m", "edje", "serve", str(index.folder)]
        command += ["--port", "0", "--precision", "fp32"]
        self.process = subprocess.Popen(
            [*command, *more], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().decode()
        assert "http://127.0.0.1:" in self.said, self.said
        self.headers = {}
        self.web = None
        self.port = int(self.said.rsplit(":", 1)[1])

    def memory(self) -> int:
        """Bytes that it holds."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def end(self, number: int = signal.SIGTERM) -> tuple[int, float, str]:
        """Send a signal: the exit status, the seconds that it took, and what it said."""
        began = time.monotonic()
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, time.monotonic() - began, err.decode()


@pytest.fixture(scope="module")
def process(index: ImageIndex) -> Iterator[Process]:
    found = Process(index)
    yield found
    if found.process.poll() is None:
        status, seconds, _ = found.end()
        assert status == 0 and seconds < 5


def test_coheres_client_reranks_stored_and_sent_pictures(
    process: Process, index: ImageIndex
) -> None:
    httpx = pytest.importorskip("httpx", reason="httpx, cohere's, is not installed")
    cohere = pytest.importorskip("cohere", reason="cohere is not installed")
    ids = index.ids()
    with httpx.Client() as http:
        client = cohere.ClientV2(api_key="any", base_url=process.url, httpx_client=http)
        answer = client.rerank(model="shapes", query=QUERY, documents=ids, top_n=4)
        with pytest.raises(cohere.UnprocessableEntityError, match="nothing"):
            client.rerank(model="shapes", query=QUERY, documents=["nothing"])
    hits = index.rerank(QUERY, ids)[:4]
    assert [ids[one.index] for one in answer.results] == [hit.id for hit in hits]
    assert [one.relevance_score for one in answer.results] == pytest.approx(
        [hit.probability for hit in hits], abs=1e-4
    )


def test_haystacks_client_of_text_embeddings_inference_reranks(
    process: Process, index: ImageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    rankers = pytest.importorskip(
        "haystack_integrations.components.rankers.huggingface_api",
        reason="huggingface-api-haystack is not installed",
    )
    from haystack import Document

    ids = index.ids()
    documents = [Document(content=name) for name in ids]
    for raw in (False, True):
        ranker = rankers.HuggingFaceTEIRanker(url=process.url, top_k=5, raw_scores=raw, token=None)
        found = ranker.run(query=QUERY, documents=documents)["documents"]
        hits = index.rerank(QUERY, ids)[:5]
        assert [one.content for one in found] == [hit.id for hit in hits]
        assert [one.score for one in found] == pytest.approx(
            [hit.score if raw else hit.probability for hit in hits], abs=1e-4
        )


def test_two_thousand_odd_requests_get_no_error_of_the_server(
    process: Process, tmp_path: Path
) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{process.url}/openapi.json"),
        *("--checks", "not_a_server_error,status_code_conformance,content_type_conformance"),
        *(
            "--phases",
            "coverage,fuzzing",
            "--max-examples",
            "330",
            "--seed",
            "1",
        ),
        *("--suppress-health-check", "all", "--no-color", "--warnings", "off"),
        *("--report", "ndjson", "--report-ndjson-path", str(tmp_path / "report.ndjson")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    served = sum(
        float(line.rsplit(" ", 1)[1])
        for line in process.get("/metrics").body.decode().splitlines()
        if line.startswith("edje_requests_total")
    )
    assert served >= 2000
    assert process.get("/healthz").status == 200


def test_thirty_two_clients_are_all_answered_and_memory_stays(process: Process) -> None:
    names = ["red circle", "blue square", "green star", "yellow triangle"]
    queries = [f"a {one} above a {other}" for one in names for other in names]
    expected = {
        query: process.get(f"/v1/search?q={quote(query)}&k=10").json["reranked"][0]["score"]
        for query in queries
    }

    def client(number: int, end: float) -> list[Reply]:
        found = []
        while time.monotonic() < end:
            query = queries[(number + len(found)) % len(queries)]
            reply = process.get(f"/v1/search?q={quote(query)}&k=10")
            assert reply.status == 200, reply.body
            score = reply.json["reranked"][0]["score"]
            assert score == pytest.approx(expected[query], abs=1e-4)
            found.append(reply)
        return found

    def load(seconds: float) -> int:
        end = time.monotonic() + seconds
        with ThreadPoolExecutor(32) as pool:
            return sum(len(one) for one in pool.map(lambda at: client(at, end), range(32)))

    load(3)
    before = process.memory()
    assert load(6) > 64
    assert process.memory() - before < 64 << 20


def test_pictures_are_still_safe_in_a_process(process: Process) -> None:
    reply = process.get("/images/..%2f..%2f..%2fetc%2fpasswd")
    assert reply.status == 404 and b"root" not in reply.body
    assert {name: reply.headers[name] for name in HEADERS} == HEADERS


def ended_in_peace(process: Process, number: int) -> None:
    """End a server that has much in hand: that is answered, and it ends in five seconds."""
    with ThreadPoolExecutor(12) as pool:
        before = batches(process)
        asked = [pool.submit(process.get, "/v1/search?q=a+red+circle") for _ in range(12)]
        while batches(process) == before:
            time.sleep(0.005)
        status, seconds, _ = process.end(number)
        assert status == 0 and seconds < 5
        answered = [one for one in asked if one.exception() is None]
        assert answered and all(one.result().status == 200 for one in answered)
    with pytest.raises(OSError):
        process.get("/healthz")


def batches(process: Process) -> float:
    """How many it has begun."""
    lines = process.get("/metrics").body.decode().splitlines()
    return next(float(one.split()[1]) for one in lines if one.startswith("edje_batch_jobs_count"))


def test_a_killed_server_starts_again_and_answers_as_before(
    index: ImageIndex, gallery: Path
) -> None:
    process = Process(index)
    path = "/v1/search?q=a+red+circle&k=10"
    before = process.get(path).json
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                process.get(path)
            except OSError:
                return

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(ask)
        time.sleep(0.3)
        process.end(signal.SIGKILL)
        stop.set()
    again = Process(index)
    assert again.get(path).json["reranked"] == before["reranked"]
    content = base64.b64encode((gallery / "holiday.jpg").read_bytes()).decode()
    given = json.dumps({"query": QUERY, "documents": [{"image": content}]}).encode()
    assert again.post("/v1/rerank", given).status == 200
    ended_in_peace(again, signal.SIGTERM)


def test_what_is_in_hand_is_answered_at_the_end(process: Process) -> None:
    ended_in_peace(process, signal.SIGINT)
