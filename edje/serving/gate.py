"""Checks of every request: its Host, its origin and token, its size."""

import asyncio
import hashlib
import hmac
import ipaddress
import time
from collections.abc import Callable, Iterable
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BODY = 16 << 20  # bytes of a request's body
TOO_LARGE = f"a body of more than {MOST_BODY >> 20} MiB."
BODIES_AT_ONCE = 128 << 20  # bytes of all bodies in memory
BODY_SECONDS = 30.0  # time limit for receiving a body
OPEN = ("/", "/healthz")  # paths that need no token, as do those under /static/
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error response, in the same form for all errors."""
    return JSONResponse(
        {"error": {"message": message}, "message": message}, status, headers=headers
    )


def cookie_of(token: str) -> tuple[str, str]:
    """Name and value of the cookie that a browser keeps instead of the token.

    Servers on other ports of a host share its cookies, so each token has a name of its own.
    """
    value = hashlib.sha256(f"edje serve {token}".encode()).hexdigest()
    return f"edje_token_{value[:8]}", value


class Gate:
    """Refuses requests that may not pass, and adds security headers to every answer.

    Args:
        app: the application behind it.
        names: hosts by which the server may be called, beside localhost and plain addresses. This
            refuses pages of other sites whose names are made to point here (DNS rebinding).
        token: must be sent as a bearer token or by the page's cookie; None requires no token.
        observe: called with the route, the status and the seconds of each request.
    """

    def __init__(
        self,
        app: ASGIApp,
        names: Iterable[str] = (),
        token: str | None = None,
        observe: Callable[[str, int, float], object] = lambda route, status, seconds: None,
    ):
        self.app = app
        self.names = {"localhost", *map(_name, names)}
        self.token = token
        self.observe = observe
        self._held = 0  # bytes of bodies in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # as GET; the server sends no body
            scope = {**scope, "method": "GET"}
        began = time.perf_counter()

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                self.observe(route, message["status"], time.perf_counter() - began)
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refused = self._refused(scope)
        if refused is not None:
            await refused(scope, receive, guarded)
            return
        body = bytearray()
        try:
            refused = await self._read(receive, body)
            if refused is not None:
                await refused(scope, receive, guarded)
            else:
                await self.app(scope, _replayed(bytes(body), receive), guarded)
        except ClientDisconnect:
            return
        finally:
            self._held -= len(body)

    async def _read(self, receive: Receive, body: bytearray) -> Response | None:
        """Read a whole body, or return why it is refused."""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    part = message.get("body", b"")
                    if len(body) + len(part) > MOST_BODY:
                        return refusal(413, TOO_LARGE)
                    if self._held + len(part) > BODIES_AT_ONCE:
                        return refusal(429, "too much is being sent at once.", {"Retry-After": "1"})
                    body += part
                    self._held += len(part)
                    more = message.get("more_body", False)
        except TimeoutError:
            return refusal(408, "the body didn't come in time.")
        except asyncio.CancelledError:  # uvicorn's last step before it ends
            return refusal(503, "the server is stopping; try again later.")
        return None

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._is_ours(headers.getlist("host")):
            return refusal(
                400, "this Host isn't served here. Start edje serve with --allow-host <name>."
            )
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and scope["path"] != "/":
            return refusal(403, "requests from other sites are refused.")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MOST_BODY:
            return refusal(413, TOO_LARGE)
        path = scope["path"]
        if self.token is None or path in OPEN or path.startswith("/static/"):
            return None
        if not self._knows(headers, self.token):
            return refusal(
                401,
                "a token is needed: Authorization: Bearer <token>, or open /?token=<token> once.",
                {"WWW-Authenticate": "Bearer"},
            )
        return None

    def _is_ours(self, given: list[str]) -> bool:
        if len(given) != 1:
            return False
        name = _name(given[0])
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _knows(self, headers: Headers, token: str) -> bool:
        kind, _, shown = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return hmac.compare_digest(shown.strip().encode(), token.encode())
        name, value = cookie_of(token)
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(name)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), value.encode())


def _name(host: str) -> str:
    """A host in small letters, without a port, brackets or a dot at its end."""
    host = host.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    if host.count(":") == 1:  # more are a plain address
        host = host.partition(":")[0]
    return host.rstrip(".")


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
