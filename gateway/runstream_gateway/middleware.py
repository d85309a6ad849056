"""What happens to every request before its route sees it. Plain ASGI, so that streams pass untouched."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runstream_gateway.jsonbytes import dumps

_logger = logging.getLogger("runstream.gateway")
_WITH_BODY = frozenset(("POST", "PUT", "PATCH", "DELETE"))
_JSON = (b"content-type", b"application/json")


class Failures:
    """Answers 500 where a request has failed unforeseen.

    Starlette's own handler of all exceptions raises them again, at which the server closes the connection; a client
    that keeps it for its next request fails with that one, too.

    Args:
        app: what comes next.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on. An answer that has begun cannot be taken back: it is cut off."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            if begun:
                raise
            _logger.exception("a request failed")
            await send({"type": "http.response.start", "status": 500, "headers": [_JSON]})
            await send({"type": "http.response.body", "body": dumps({"detail": "internal error"})})


class Bodies:
    """Reads a request's body whole, within its limits, and lets it pass for JSON whatever the client called it.

    LangGraph Studio sends JSON as text/plain, so that the browser asks no questions before. The body is read before
    the route begins: who sends it slowly, or too much of it, keeps nothing else busy.

    Args:
        app: what comes next.
        max_bytes: a longer body is refused with 413.
        timeout: seconds that it may take to arrive; then 408.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] not in _WITH_BODY:
            await self._app(scope, receive, send)
            return
        if _length(scope["headers"]) > self._max_bytes:
            await self._refuse(send, 413, f"the body is larger than {self._max_bytes:,} bytes")
            return
        try:
            async with asyncio.timeout(self._timeout):
                body = await self._body(receive)
        except TimeoutError:
            await self._refuse(send, 408, f"the body did not arrive within {self._timeout:g} s")
            return
        if body is None:
            await self._refuse(send, 413, f"the body is larger than {self._max_bytes:,} bytes")
            return
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
        await self._app({**scope, "headers": [*headers, _JSON]}, _again(body, receive), send)

    async def _body(self, receive: Receive) -> bytes | None:
        """The body; None where it is too large."""
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_bytes:
                return None
            more = message.get("more_body", False)
        return b"".join(parts)

    async def _refuse(self, send: Send, status: int, detail: str) -> None:
        body = dumps({"detail": detail})
        headers = [_JSON, (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _length(headers: Iterable[tuple[bytes, bytes]]) -> int:
    told = next((value for name, value in headers if name == b"content-length"), b"")
    return int(told) if told.isdigit() else 0


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that has been read, and then what else comes."""
    first = True

    async def give() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return give
