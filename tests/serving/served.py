"""A server in this process, and requests to it as they are, without a client's tidying."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from edje.serving.serve_command import bound
from edje.serving.web_app import WebApp

SECONDS = 60
ODD = (
    "<img src=x onerror=alert(1)>.jpg",
    'it\'s 100% "odd" & more?.jpg',
    "émigré/写真 #1.jpg",
    "a+b%2Fc.jpg",
    "line\nbreak.jpg",
)

TWIN = "twin.png"  # the first scene again


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """The one line of an error."""
        found = self.json
        assert found["error"]["message"] == found["message"]
        assert "\n" not in found["message"] and 0 < len(found["message"]) < 500
        return found["message"]


@dataclass
class Served:
    port: int
    web: WebApp
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            found = connection.getresponse()
            names = {name.lower(): value for name, value in found.getheaders()}
            return Reply(found.status, names, found.read())
        finally:
            connection.close()

    def get(self, path: str, headers: dict[str, str] | None = None) -> Reply:
        return self.call("GET", path, headers=headers)

    def post(self, path: str, given: Any, headers: dict[str, str] | None = None) -> Reply:
        body = given if isinstance(given, bytes) else json.dumps(given).encode()
        return self.call(
            "POST", path, body, {"Content-Type": "application/json", **(headers or {})}
        )


@contextmanager
def serving(web: WebApp) -> Iterator[Served]:
    """Serve at a free port; ends the index's thread, too."""
    listening = bound("127.0.0.1", 0)
    config = uvicorn.Config(web.app, log_config=None, access_log=False, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield Served(listening.getsockname()[1], web)
    finally:
        server.should_exit = True
        thread.join(10)
        assert web.close(10)


def photograph(path: Path, seed: int = 0, size: tuple[int, int] = (60, 40)) -> Path:
    """A JPEG that tells where it was taken, by whom, and more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x013B] = "SECRET artist"
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 29.0)
    Image.fromarray(pixels).save(
        path, "JPEG", exif=exif, comment=b"SECRET comment", icc_profile=b"SECRET profile"
    )
    return path
