"""What happens to every request before its route sees it. Plain ASGI, so that streams pass untouched."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runstream_gateway.errors import ApiError
from runstream_gateway.jsonbytes import dumps

_logger = logging.getLogger("runstream.gateway")
_WITH_BODY = frozenset(("POST", "PUT", "PATCH", "DELETE"))
_JSON = (b"content-type", b"application/json")
_LINGERS = 5.0
_MOST_ARRIVING = 32
"""As many bodies of the largest size may be on their way at once."""


class _Gone(Exception):
    """The client has left before its request was complete."""


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
        self._arriving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] not in _WITH_BODY:
            await self._app(scope, receive, send)
            return
        try:
            body = await self._body(scope, receive)
        except ApiError as error:
            await _refuse(error, receive, send)
            return
        except _Gone:
            return
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
        again = _again(body, receive)
        del body
        await self._app({**scope, "headers": [*headers, _JSON]}, again, send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The body.

        Raises:
            ApiError: 408, 413, 503.
        """
        if _length(scope["headers"]) > self._max_bytes:
            raise self._too_large()
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._timeout):
                await self._read(receive, parts)
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {self._timeout:g} s") from None
        finally:
            self._arriving -= sum(map(len, parts))
        return b"".join(parts)

    async def _read(self, receive: Receive, parts: list[bytes]) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                # What has come may be JSON by itself, and was not all that was to be said.
                raise _Gone
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            self._arriving += len(part)
            if size > self._max_bytes:
                raise self._too_large()
            if self._arriving > self._max_bytes * _MOST_ARRIVING:
                raise ApiError(503, "too many large bodies arrive at once", {"retry-after": "1"})
            more = message.get("more_body", False)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self._max_bytes:,} bytes")


async def _refuse(error: ApiError, receive: Receive, send: Send) -> None:
    """Answer, and then let go by what is still being sent: a connection that is reset takes the answer with it."""
    body = dumps({"detail": error.detail})
    others = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    headers = [_JSON, (b"content-length", str(len(body)).encode()), (b"connection", b"close"), *others]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGERS):
            while (await receive()).get("more_body", False):
                pass
    await send({"type": "http.response.body", "body": b""})


def _length(headers: Iterable[tuple[bytes, bytes]]) -> int:
    told = next((value for name, value in headers if name == b"content-length"), b"")
    return int(told) if told.isdigit() else 0


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that has been read, and then what else comes. It is not kept: a stream may last for hours."""
    parts = [body]

    async def give() -> Message:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}
        return await receive()

    return give
