"""What every request passes: who may call, how much may come, and a line in the log.

A page in somebody's browser can send requests to this machine. It may not name another host than
ours (DNS rebinding), and a page of another origin may not call at all. When a client hangs up, its
request is cancelled and frees its place. A log line has the request's id, the endpoint, the status
and the seconds, and nothing that the client wrote.
"""

import asyncio
import hmac
import secrets
import time
import traceback
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import PurePath
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llava_rad.errors import ConfigError, shown
from llava_rad.serve.request_errors import RequestError, error_response, unexpected
from llava_rad.serve.service import HELD, Service

#: Seconds for the next piece of a body, and for all of it.
PIECE_SECONDS, BODY_SECONDS = 30.0, 300.0

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HUNG_UP = 499


class Guard:
    """Middleware around all endpoints.

    Args:
        app: what is guarded.
        service: with the settings and the measures.

    Raises:
        ConfigError: an allowed origin is none.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        settings = service.settings
        self._hosts = {name.lower() for name in (*_LOOPBACK, settings.host, *settings.allow_hosts)}
        self._origins = frozenset(origins(settings.allow_origins))
        self._token = None if settings.token is None else settings.token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no endpoint is a socket
        await _Guarded(self._service, scope, receive, send).answer(self._app, self._refusal(scope))

    def _refusal(self, scope: Scope) -> RequestError | None:
        headers, path = Headers(scope=scope), scope["path"]
        if path == "/health":
            return None
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _host_of(hosts[0]) not in self._hosts:
            return RequestError(
                "the request names a host that is not this server",
                status=403,
                kind="other_host",
                remedy="Start it with --allow-host and the name that it is called by",
            )
        origin = headers.get("origin")
        own = f"{scope.get('scheme', 'http')}://{hosts[0]}".lower()
        if origin is not None and origin.lower() not in {own, *self._origins}:
            return RequestError(
                "a page of another origin may not call",
                status=403,
                kind="other_origin",
                remedy="Start the server with --allow-origin and the page's origin",
            )
        if self._token is not None and not _is_page(scope["method"], path):
            kind, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._token)
            if kind.lower() != "bearer" or not right:
                return RequestError(
                    "the token is wrong" if given else "there is no token",
                    status=401,
                    kind="bad_token",
                    remedy="Send the header Authorization: Bearer TOKEN",
                )
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._service.settings.most_bytes:
            return _too_large(self._service)
        return None


class _Guarded:
    """One request on its way through."""

    def __init__(self, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        self._service, self._scope, self._receive, self._send = service, scope, receive, send
        self._id = secrets.token_hex(8)
        self._status = _HUNG_UP
        self._bytes = 0
        self._begun = time.monotonic()
        self._answered = False
        self._body_read = asyncio.Event()
        self._gone = asyncio.Event()

    async def answer(self, app: ASGIApp, refusal: RequestError | None) -> None:
        """Answer with the endpoint, or with a refusal."""
        failed = ""
        self._scope[HELD] = ExitStack()
        try:
            if refusal is not None:
                await error_response(refusal)(self._scope, self._receive, self._sent)
            else:
                await self._unless_gone(app)
        except ClientDisconnect:
            self._gone.set()
        except Exception as error:  # a defect; the words of libraries quote what was sent
            place = traceback.extract_tb(error.__traceback__)[-1]
            failed = f" {type(error).__name__} in {PurePath(place.filename).name}:{place.lineno}"
            if self._status == _HUNG_UP:
                await error_response(unexpected())(self._scope, self._receive, self._sent)
        finally:
            self._scope[HELD].close()
            if self._gone.is_set():
                self._status = _HUNG_UP
            seconds = time.monotonic() - self._begun
            route = self._scope.get("route")
            path = getattr(route, "path", None) or "other"
            self._service.measures.answered(path, self._status, seconds)
            if path not in ("/health", "/metrics") or failed:
                method = self._scope["method"]
                method = method if method in getattr(route, "methods", ()) else "-"
                self._service.settings.say(
                    f"{self._id} {method} {path} {self._status} {seconds:.3f} s{failed}"
                )

    async def _unless_gone(self, app: ASGIApp) -> None:
        async def run() -> None:
            await app(self._scope, self._pieces, self._sent)

        inner = asyncio.create_task(run())
        watch = asyncio.create_task(self._hang_up())
        try:
            await asyncio.wait({inner, watch}, return_when=asyncio.FIRST_COMPLETED)
            if self._gone.is_set():
                inner.cancel()
            with suppress(asyncio.CancelledError):
                await inner
        finally:
            inner.cancel()
            watch.cancel()

    async def _hang_up(self) -> None:
        """Return when the client has gone, or has its whole answer; its body was read before."""
        await self._body_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._answered:
            self._gone.set()

    async def _pieces(self) -> Message:
        """The body, within its limits."""
        if self._body_read.is_set():
            await self._gone.wait()
            return {"type": "http.disconnect"}
        left = self._begun + BODY_SECONDS - time.monotonic()
        try:
            async with asyncio.timeout(min(PIECE_SECONDS, left)):
                message = await self._receive()
        except TimeoutError:
            raise RequestError(
                "the request's body does not come", status=408, kind="upload_stalled"
            ) from None
        if message["type"] == "http.disconnect":
            self._body_read.set()
            self._gone.set()
            return message
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._service.settings.most_bytes:
            raise _too_large(self._service)
        if not message.get("more_body", False):
            self._body_read.set()
        return message

    async def _sent(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._id
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "no-referrer"
            headers.setdefault("Cache-Control", "no-store")
            if headers.get("content-type", "").startswith("text/html"):
                headers["Content-Security-Policy"] = _POLICY
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._answered = True
        await self._send(message)


def origins(given: Iterable[str]) -> list[str]:
    """Origins of pages, in the form in which browsers send them. Raises ConfigError."""
    found = []
    for text in given:
        try:
            parts = urlsplit(text.lower())
        except ValueError:  # half of an IPv6 address
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or f"{parts.scheme}://{parts.netloc}" != (
            text.lower().rstrip("/")
        ):
            raise ConfigError(
                f"{shown(text)} is no origin",
                where="--allow-origin",
                remedy="Write it as https://viewer.example or http://localhost:3000",
            )
        found.append(f"{parts.scheme}://{parts.netloc}")
    return found


def _is_page(method: str, path: str) -> bool:
    """The page itself, which holds no data; what it asks for needs the token."""
    return method in ("GET", "HEAD") and (path == "/" or path.startswith("/page/"))


def _host_of(header: str) -> str:
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.rpartition(":")[0] or name if name.count(":") == 1 else name


def _too_large(service: Service) -> RequestError:
    return RequestError(
        f"the request is larger than {service.settings.most_bytes} bytes",
        status=413,
        kind="upload_too_large",
        remedy="Send fewer files, or start the server with another --max-upload",
    )
