"""A gateway that is called in its own process: by a project's routes, its authentication, its factories of graphs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Scope

from runstream_gateway.auth.caller import Caller, Filter
from runstream_gateway.auth.guard import UNRESTRICTED, Action, Guard, Resource

_MARK: Final = "runstream.loopback"
_WAITING: Final = 16
"""How many pieces of a response wait for their reader before the route that sends them does."""


class Process:
    """The application that a process serves, for the clients that its own code makes."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def serve(self, app: ASGIApp) -> None:
        """Have clients call an application from now on, in the loop that runs."""
        self._app, self._loop = app, asyncio.get_running_loop()

    def transport(self) -> httpx.AsyncBaseTransport:
        """Return a transport to the application.

        Raises:
            RuntimeError: the gateway is not open.
        """
        if self._app is None or self._loop is None:
            raise RuntimeError(
                "get_client() without a URL: this gateway is not open yet; call it from a route or a task"
            )
        return _InProcess(self._app, self._loop)


class TrustingGuard:
    """Lets through what comes from within the process, as LangGraph's server does, and asks another guard of the rest.

    Args:
        guard: the other one.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._within = Caller("", user={"identity": "", "display_name": "", "is_authenticated": False})

    async def authenticate(self, connection: HTTPConnection) -> Caller:
        """As the other guard, unless nobody outside calls."""
        # Servers make the scope: no request can put this there.
        if connection.scope.get(_MARK) is True:
            return self._within
        return await self._guard.authenticate(connection)

    async def authorize(self, caller: Caller, resource: Resource, action: Action, value: dict[str, Any]) -> Filter:
        """As the other guard, unless nobody outside calls."""
        if caller is self._within:
            return UNRESTRICTED
        return await self._guard.authorize(caller, resource, action, value)


class _InProcess(httpx.AsyncBaseTransport):
    """Calls an application in the loop in which it is served, from whichever loop; responses come piece by piece."""

    def __init__(self, app: ASGIApp, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._loop = loop

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)  # noqa: S101 - an asynchronous client's
        body = b"".join([piece async for piece in request.stream])
        exchange = _Exchange(body, asyncio.get_running_loop(), self._loop)
        asyncio.run_coroutine_threadsafe(exchange.run(self._app, _scope(request)), self._loop)
        try:
            start = await exchange.next()
        except BaseException:
            exchange.leave()
            raise
        return httpx.Response(start["status"], headers=start.get("headers"), stream=exchange)


class _Exchange(httpx.AsyncByteStream):
    """One request and its response."""

    def __init__(self, body: bytes, here: asyncio.AbstractEventLoop, there: asyncio.AbstractEventLoop) -> None:
        self._body: bytes | None = body
        self._here = here
        self._there = there
        self._messages: asyncio.Queue[Message | BaseException | None] = asyncio.Queue(_WAITING)
        self._left = asyncio.Event()

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Have the application answer; in its loop."""
        end: BaseException | None = None
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:  # noqa: BLE001 - the client's caller gets it
            end = error
        finally:
            await self._put(end)

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self._put(message)

    async def _put(self, message: Message | BaseException | None) -> None:
        if self._left.is_set():
            return
        putting: asyncio.Future[Any] = asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(self._messages.put(message), self._here)
        )
        leaving: asyncio.Future[Any] = asyncio.ensure_future(self._left.wait())
        try:
            await asyncio.wait({putting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
            leaving.cancel()

    async def next(self) -> Message:
        """Return the application's next message; in the client's loop.

        Raises:
            RuntimeError: it has ended without one.
        """
        message = await self._messages.get()
        if isinstance(message, BaseException):
            raise message
        if message is None:
            raise RuntimeError("the gateway ended a response early")
        return message

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self.next()
            more = message.get("more_body", False)
            yield message.get("body", b"")

    async def aclose(self) -> None:
        """Let the application know that nobody reads on."""
        self.leave()

    def leave(self) -> None:
        """The same, without waiting for anything."""
        self._there.call_soon_threadsafe(self._left.set)


def _scope(request: httpx.Request) -> Scope:
    path, _, query = request.url.raw_path.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": path,
        "query_string": query,
        "server": (request.url.host, request.url.port),
        "client": None,
        "root_path": "",
        "state": {},
        _MARK: True,
    }
