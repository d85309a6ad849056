"""What happens to every request before its route sees it. Plain ASGI, so that streams pass untouched."""

from __future__ import annotations

import logging

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runstream_gateway.incoming import BodyBudget, IncomingBody
from runstream_gateway.jsonbytes import dumps

_logger = logging.getLogger("runstream.gateway")
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
        except ClientDisconnect:
            # It has left before its request was complete.
            return
        except Exception:
            if begun:
                raise
            _logger.exception("a request failed")
            await send({"type": "http.response.start", "status": 500, "headers": [_JSON]})
            await send({"type": "http.response.body", "body": dumps({"detail": "internal error"})})


class Bodies:
    """Limits the bodies of requests, and lets them pass for JSON whatever the client called them.

    LangGraph Studio sends JSON as text/plain, so that the browser asks no questions before. A body is not read here: a
    route reads it when it knows who calls (`routes.strict`). What is refused before that is not received at all.

    Args:
        app: what comes next.
        budget: how much the process keeps of all bodies.
        timeout: seconds that a body may take to arrive; then 408.
    """

    def __init__(self, app: ASGIApp, *, budget: BodyBudget, timeout: float) -> None:
        self._app = app
        self._budget = budget
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = IncomingBody(scope, receive, self._budget, timeout=self._timeout)
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
        try:
            await self._app(body.enter({**scope, "headers": [*headers, _JSON]}), body.receive, body.answering(send))
        finally:
            body.release()
