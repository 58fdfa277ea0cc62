"""`edje serve photos.edje`: a page and endpoints over an index, until it is stopped."""

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edje.errors import EdjeError
from edje.index.index_commands import positive
from edje.index.indexing import check_there, opened

TOKEN = "EDJE_SERVE_TOKEN"  # environment variable, which other users can't see
SHORTEST_TOKEN = 16
LAST_PORT = 65535
IN_HAND_SECONDS = 3.0  # time after a signal for answering running requests …
AT_ONCE_SECONDS = 4.5  # … and after which the process ends in any case
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServeChoices:
    """What is served, where, and to whom; see the command's help."""

    index: str
    reranker: str | None = None
    device: str | None = None
    precision: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    allow_host: Sequence[str] = ()
    queue: int = 64
    batch: int = 16
    timeout: float = 30.0


def run(arguments: list[str]) -> None:
    """Run `serve …`; the process ends with the server.

    Raises:
        EdjeError: as `serve`.
    """
    given = vars(parser().parse_args(arguments))
    serve(ServeChoices(**{name: value for name, value in given.items() if value is not None}))
    end_process()


def parser() -> ArgumentParser:
    """The command's arguments."""
    both = ArgumentParser(prog="edje", allow_abbrev=False)
    commands = both.add_subparsers(required=True, metavar="serve")
    command = commands.add_parser("serve", help="a page and endpoints", allow_abbrev=False)
    command.add_argument("index", help="the index: photos.edje")
    command.add_argument("--reranker", help="name or path (by default the index's)")
    command.add_argument("--device", help="where it computes (by default CUDA, if there is one)")
    command.add_argument("--precision", help="fp32, bf16, fp16 or int8 (by default as in its run)")
    command.add_argument("--host", help="address to bind (127.0.0.1)")
    command.add_argument("--port", type=int, help="8000; 0 takes a free one")
    command.add_argument(
        "--token", help=f"that requests must send; or in {TOKEN}. Needed if others can reach it"
    )
    command.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME",
        help="a name by which it may be called, for instance behind a proxy",
    )
    command.add_argument("--queue", type=positive, help="requests that may wait (64)")
    command.add_argument("--batch", type=positive, help="requests scored together (16)")
    command.add_argument("--timeout", type=positive_seconds, help="seconds per request (30)")
    return both


def positive_seconds(text: str) -> float:
    """A number of seconds above 0."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return found


def serve(chosen: ServeChoices) -> None:
    """Open the index, print the address and answer requests until a signal comes.

    Raises:
        EdjeError: the extra isn't installed, a host open to others has no token, the port is
            taken, or the index can't be opened.
    """
    try:
        import uvicorn

        from edje.serving.searcher import Searcher
        from edje.serving.web_app import Limits, WebApp
    except ImportError as error:
        raise EdjeError(
            f"serving needs FastAPI and uvicorn ({error}). Install them: pip install 'edje[serve]'."
        ) from error
    token = chosen.token or os.environ.get(TOKEN) or None
    host = chosen.host.removeprefix("[").removesuffix("]")  # as addresses of IPv6 are written
    check_reachable(host, token)
    check_there(chosen.index)
    with bound(host, chosen.port) as listening:
        searcher = Searcher(opened(chosen.index, chosen.reranker, chosen.device, chosen.precision))
        searcher.warm()
        limits = Limits(waiting=chosen.queue, batch=chosen.batch, seconds=chosen.timeout)
        names = [host, *chosen.allow_host]
        web = WebApp(searcher, token=token, names=names, limits=limits)
        config = uvicorn.Config(
            web.app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=4,
            limit_concurrency=1000,
        )
        server: Any = uvicorn.Server(config)
        server.capture_signals = lambda: ending(server, web.ending)
        sys.stdout.write(
            f"{chosen.index}: {len(searcher.index):,} pictures at {address(listening)}\n"
        )
        if token is not None:
            sys.stdout.write("Open it once with /?token=<the token>.\n")
        sys.stdout.flush()
        asyncio.run(server.serve(sockets=[listening]))


def end_process() -> None:
    """End at once: torch may be busy with a batch, and a normal exit would take time."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def check_reachable(host: str, token: str | None) -> None:
    """Refuse a host that others can reach without a token.

    Raises:
        EdjeError: there is no token, or it is too short; or the host is empty.
    """
    if not host:
        raise EdjeError("--host is empty. Name an address of this machine, or leave --host out.")
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii()):
        raise EdjeError(
            f"--token: expected at least {SHORTEST_TOKEN} plain characters that nobody can guess: "
            f"{TOKEN}=$(openssl rand -hex 16)"
        )
    if token is None and not is_loopback(host):
        raise EdjeError(
            f"--host {host} can be reached from other machines, and would show them the pictures. "
            f"Give a token, {TOKEN}=$(openssl rand -hex 16), or leave --host out."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        EdjeError: the port is taken or none, or this machine doesn't have the address.
    """
    if not 0 <= port <= LAST_PORT:
        raise EdjeError(f"port {port}: expected 1 to {LAST_PORT}, or 0 for a free one.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = found[0]
        return socket.create_server(place[:2], family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        raise EdjeError(
            f"can't listen at {host}, port {port}: {error}. Choose another: --port 8001."
        ) from error


def address(listening: socket.socket) -> str:
    """The http:// address of a socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def ending(server: Any, given_up: asyncio.Event) -> Iterator[None]:
    """End a server gracefully on Ctrl-C or SIGTERM; on a second signal, at once."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        if server.should_exit:
            end_process()
        server.should_exit = True
        loop.call_later(IN_HAND_SECONDS, given_up.set)
        last = threading.Timer(AT_ONCE_SECONDS, end_process)
        last.daemon = True
        last.start()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, end)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
