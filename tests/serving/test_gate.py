"""Claims about who may ask, and what never leaves: hosts, tokens, paths, places in pictures."""

import asyncio
import io
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image
from starlette.datastructures import Headers

from edje import ImageIndex, Reranker
from edje.serving import gate
from edje.serving.gate import Gate
from edje.serving.searcher import Searcher
from edje.serving.web_app import WebApp
from tests.serving.served import ODD, Served, serving

TOKEN = "0123456789abcdef-token"
PLANTED = "PLANTED beside the index"
CLOSED = ("/v1/info", "/v1/search?q=a", "/metrics", "/images/holiday.jpg", "/openapi.json")


@pytest.fixture(scope="module")
def planted(index: ImageIndex, gallery: Path) -> Path:
    """Files that nobody may have: beside the index, within it, beside and among the pictures."""
    for folder in (index.folder.parent, index.folder, gallery.parent, gallery):
        (folder / "planted.txt").write_text(PLANTED)
    return index.folder.parent / "planted.txt"


def ways(planted: Path, index: ImageIndex, gallery: Path) -> list[str]:
    """Thirty and more ways to ask for a planted file."""
    name, whole = planted.name, str(planted)
    up, deep = f"../{name}", "../" * 12 + whole.lstrip("/")
    tricks = [
        name, whole, up, f"../../{name}", deep, f"./{name}", f"/{name}", f"//{name}",
        f"..\\{name}", f"....//{name}", f"..;/{name}", f"{name}\0", f"{name}\0.jpg",
        f"holiday.jpg/../{name}", f"holiday.jpg\0../{name}", f"file://{whole}", f"~/{name}",
        f"{index.folder.name}/{name}", str(index.folder / name), str(gallery / name),
        f"%2e%2e/{name}", f"..%2f{name}", f"..%252f{name}", f"..%c0%af{name}", f"．．/{name}",
        "' OR '1'='1", f"' UNION SELECT path FROM images WHERE id = '{name}", "holiday.jpg' --",
        "$HOME", "{0}", "*", "%", "..", ".",
    ]  # fmt: skip
    raw = [f"/images/{trick}" for trick in tricks if trick.isascii() and "\0" not in trick]
    raw = [path.replace(" ", "%20") for path in raw]
    quoted = [f"/images/{quote(trick, safe='')}" for trick in tricks]
    static = [f"/static/{quote(trick, safe='')}" for trick in tricks]
    others = [
        f"/static/../{name}", f"/static/..%2f..%2f{name}", f"/{name}", f"/..%2f{name}",
        f"/images/holiday.jpg?size={quote(up)}", f"/images?id={quote(whole)}", f"/{whole}",
    ]  # fmt: skip
    return [*raw, *quoted, *static, *others]


def test_a_planted_file_is_had_in_no_way(
    served: Served, planted: Path, index: ImageIndex, gallery: Path
) -> None:
    asked = ways(planted, index, gallery)
    assert len(asked) > 90
    for path in asked:
        reply = served.get(path)
        expected = 422 if "?size=" in path else 404
        assert reply.status == expected, path
        shown = reply.body.decode()
        assert PLANTED not in shown and str(planted.parent) not in shown, path
        assert reply.message


def test_pictures_have_nothing_but_their_pixels(served: Served, gallery: Path) -> None:
    given = (gallery / "holiday.jpg").read_bytes()
    assert b"SECRET artist" in given and b"SECRET comment" in given and b"SECRET prof" in given
    for size in ("thumb", "large"):
        reply = served.get(f"/images/holiday.jpg?size={size}")
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert b"SECRET" not in reply.body and b"Exif" not in reply.body
        with Image.open(io.BytesIO(reply.body)) as image:
            assert not image.getexif() and not set(image.info) & {"comment", "icc_profile", "exif"}
            assert image.size == (60, 40)


def test_large_pictures_come_small(served: Served, index: ImageIndex, tmp_path: Path) -> None:
    Image.new("RGB", (2400, 1200), "red").save(tmp_path / "wide.png")
    index.add({"wide": tmp_path / "wide.png"})
    try:
        for size, longest in (("thumb", 400), ("large", 1600)):
            with Image.open(io.BytesIO(served.get(f"/images/wide?size={size}").body)) as image:
                assert image.size == (longest, longest // 2)
        (tmp_path / "wide.png").unlink()
        assert served.get("/images/wide?size=thumb").status == 404
        (tmp_path / "wide.png").write_text(PLANTED)
        reply = served.get("/images/wide")
        assert reply.status == 404 and str(tmp_path) not in reply.body.decode()
    finally:
        index.remove(["wide"])


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "",
     "127.0.0.1:80:80", "[evil]", "localhost@evil.example", "2130706433"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/v1/search?q=a", "/images/holiday.jpg", "/healthz"])
def test_a_name_that_leads_here_from_elsewhere_is_refused(
    served: Served, host: str, path: str
) -> None:
    reply = served.get(path, {"Host": host})
    assert reply.status == 400 and "Host" in reply.message


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "localhost.:8000", "127.0.0.1:1", "[::1]:8000", "::1"]
)
def test_its_own_names_are_served(served: Served, host: str) -> None:
    assert served.get("/healthz", {"Host": host}).status == 200


def test_a_name_may_be_allowed_with_its_port_or_a_dot_at_its_end(served: Served) -> None:
    gate_of = Gate(served.web.api, ["A.example:8000", "b.example.", "[::1]", "192.0.2.1:80"])
    assert all(gate_of._is_ours([host]) for host in ("a.example", "a.example:1", "b.example:80"))
    assert not gate_of._is_ours(["example:8000"]) and not gate_of._is_ours(["c.example"])


@pytest.mark.parametrize("path", ["/", "/healthz", "/images/holiday.jpg", "/static/page.js"])
def test_heads_are_told_without_their_bodies(served: Served, path: str) -> None:
    head, whole = served.call("HEAD", path), served.get(path)
    assert (head.status, head.body) == (200, b"")
    for name in ("content-type", "content-length", "x-content-type-options"):
        assert head.headers[name] == whole.headers[name]


def test_other_sites_may_not_ask(served: Served) -> None:
    for site in ("cross-site", "same-site"):
        headers = {"Sec-Fetch-Site": site, "Origin": "https://evil.example"}
        for path in CLOSED:
            reply = served.get(path, headers)
            assert reply.status == 403
            assert not [name for name in reply.headers if name.startswith("access-control")]
        assert served.get("/", headers).status == 200  # a link to the page
    preflight = served.call("OPTIONS", "/v1/rerank", headers={"Origin": "https://evil.example"})
    assert preflight.status == 405
    plain = {"Content-Type": "text/plain"}
    assert served.post("/rerank", {"query": "a", "texts": ["holiday.jpg"]}, plain).status == 415


@pytest.mark.parametrize(
    "path", ["/", "/v1/info", "/images/holiday.jpg", "/images/none", "/nothing", "/metrics"]
)
def test_every_answer_tells_browsers_what_they_may_do(served: Served, path: str) -> None:
    headers = served.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    policy = dict(
        part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'" and policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'" and "unsafe" not in str(policy)
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_no_absolute_path_leaves(served: Served, index: ImageIndex, gallery: Path) -> None:
    every = [
        served.get("/v1/search?q=a+red+circle&k=100&top=100"),
        served.get("/v1/info"),
        served.get("/metrics"),
        served.get("/openapi.json"),
        served.get("/"),
        served.post("/v1/rerank", {"query": "a", "documents": ["nothing"]}),
    ]
    for reply in every:
        assert str(gallery.parent) not in reply.body.decode()
        assert str(index.folder) not in reply.body.decode()


def test_names_that_try_to_be_html_come_as_data(served: Served) -> None:
    reply = served.get("/v1/search?q=%3Cscript%3Ealert(1)%3C/script%3E&k=100&top=100")
    assert reply.headers["content-type"].startswith("application/json")
    assert set(ODD) <= {one["id"] for one in reply.json["reranked"]}
    assert reply.json["query"] == "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def locked(index: ImageIndex, shapes: Reranker) -> Iterator[Served]:
    """A server that asks for a token, and goes by a name."""
    searcher = Searcher(ImageIndex.open(index.folder, shapes))
    with serving(WebApp(searcher, token=TOKEN, names=["search.example"])) as found:
        yield found


def test_without_the_token_nothing_is_told(locked: Served) -> None:
    wrong = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer \xe9"},
        {"Cookie": f"{gate.cookie_of(TOKEN)[0]}={TOKEN}"},
        {"Cookie": f"{gate.cookie_of(TOKEN)[0]}="},
        {"Cookie": "\xe9;;==,"},
    ]
    for headers in wrong:
        for path in CLOSED:
            reply = locked.get(path, headers)
            assert reply.status == 401 and reply.headers["www-authenticate"] == "Bearer"
            assert "token" in reply.message
        assert locked.post("/rerank", {"query": "a", "texts": ["b"]}, headers).status == 401
    assert locked.get("/").status == locked.get("/healthz").status == 200


def test_the_token_opens_all_as_a_bearer(locked: Served) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}", "Host": "search.example:443"}
    for path in CLOSED:
        assert locked.get(path, bearer).status == 200
    assert locked.get("/v1/info", bearer).json["needs_token"] is True


def test_a_browser_logs_in_once(locked: Served) -> None:
    reply = locked.get(f"/?q=two+dogs&token={TOKEN}&k=5")
    assert (reply.status, reply.headers["location"]) == (303, "./?q=two+dogs&k=5")
    cookie, *attributes = reply.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(attributes)
    assert TOKEN not in cookie and TOKEN not in reply.headers["location"]
    assert locked.get("/v1/info", {"Cookie": cookie}).status == 200
    wrong = locked.get("/?token=wrong")
    assert wrong.status == 303 and wrong.headers["location"] == "./"
    assert "set-cookie" not in wrong.headers  # which would replace one that is right
    away = locked.get(f"/?token={TOKEN}&q=//evil.example").headers["location"]
    assert away == "./?q=%2F%2Fevil.example"


def test_a_browser_stays_logged_in_to_a_server_on_another_port_with_another_token() -> None:
    names = {gate.cookie_of(token)[0] for token in (TOKEN, f"{TOKEN} of another")}
    assert len(names) == 2
    both = "; ".join("=".join(gate.cookie_of(token)) for token in (f"{TOKEN} of another", TOKEN))
    assert Gate(None, token=TOKEN)._knows(Headers({"cookie": both}), TOKEN)


def test_the_schema_says_that_a_token_is_needed_where_it_is(locked: Served, served: Served) -> None:
    schema = locked.get("/openapi.json", {"Authorization": f"Bearer {TOKEN}"}).json
    (scheme,) = schema["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    needs = {
        path for path, ways in schema["paths"].items() for way in ways.values() if "security" in way
    }
    assert set(schema["paths"]) - needs == {"/healthz"}
    assert "security" not in served.get("/openapi.json").body.decode()


def sent(port: int, data: bytes) -> bytes:
    """What comes back for raw bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(data)
        found = b""
        while part := connection.recv(65536):
            found += part
            if b"}" in part:
                break
        return found


def test_a_body_that_is_too_large_is_not_read(served: Served) -> None:
    head = "POST /rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    length = gate.MOST_BODY + 1
    found = sent(served.port, f"{head}Content-Length: {length}\r\n\r\n".encode())
    assert found.startswith(b"HTTP/1.1 413") and b"16 MiB" in found
    size = 1 << 20
    chunk = f"{size:x}\r\n".encode() + b" " * size + b"\r\n"
    whole = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 17 + b"0\r\n\r\n"
    found = sent(served.port, whole)
    assert found.startswith(b"HTTP/1.1 413") and b"16 MiB" in found


def test_a_body_that_does_not_come_is_not_waited_for(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "BODY_SECONDS", 0.2)
    head = b"POST /rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    assert sent(served.port, head).startswith(b"HTTP/1.1 408")


def test_a_body_that_is_still_coming_when_the_server_ends_is_refused() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def ended() -> None:
        scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"[::1]")]}
        task = asyncio.ensure_future(Gate(None)(scope, receive, send))
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(ended())
    assert sent[0]["status"] == 503 and b"is stopping" in sent[1]["body"]


def test_many_large_bodies_at_once_are_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "BODIES_AT_ONCE", 3 << 20)
    body = b" " * (2 << 20)
    head = f"POST /rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as first:
        first.sendall(head.encode() + body[:-1])
        deadline = threading.Event()
        for _ in range(200):
            if served.web.app._held == len(body) - 1:
                break
            deadline.wait(0.05)
        reply = served.post("/rerank", body)
        assert reply.status == 429 and reply.headers["retry-after"] == "1"
        first.sendall(body[-1:])
        assert first.recv(100).startswith(b"HTTP/1.1 4")
    assert served.post("/rerank", body).status == 400


def test_requests_that_are_none_are_refused(served: Served) -> None:
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\r\n\r\n", os.urandom(100) + b"\r\n\r\n"):
        assert sent(served.port, data).startswith(b"HTTP/1.1 400")
    twice = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert sent(served.port, twice).startswith(b"HTTP/1.1 400")
    assert served.get("/healthz").status == 200
