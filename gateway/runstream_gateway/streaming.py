"""Responses that last: server-sent events, plain text, and an answer that is waited for.

They speak ASGI themselves. What they send is written when it comes, a batch at a time; a reader that is slow makes the
server's `send` wait, and then its events wait in Redis, not here.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from runstream_gateway.frames import HEARTBEAT, Frame

_PIECE = 64 * 1024
SSE_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class Source(Protocol):
    """Gives what is to be sent, batch by batch."""

    async def batch(self) -> list[Frame] | None:
        """The next frames; None after the last. May be cancelled and called again."""


class OpenStreams:
    """The streams that a process has open, which end when it shuts down."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def closing(self) -> bool:
        """Whether the process shuts down."""
        return self._closing

    def close(self) -> None:
        """Break all streams off; their readers come back, to this gateway's successor or another."""
        self._closing = True
        for task in self._tasks:
            task.cancel()

    @asynccontextmanager
    async def entered(self, receive: Receive, until: float = math.inf) -> AsyncIterator[None]:
        """Run the block until it ends; earlier, if the client leaves, the process shuts down, or its time has come.

        Args:
            receive: what the client says.
            until: when it ends at the latest, in seconds since 1970.

        Raises:
            ReaderLeft: it was ended early.
        """
        task = asyncio.current_task()
        if task is None or self._closing:
            raise ReaderLeft
        self._tasks.add(task)
        leaving = asyncio.create_task(_disconnected(receive, until - time.time()), name="gateway-disconnect")
        leaving.add_done_callback(lambda done: None if done.cancelled() else task.cancel())
        try:
            yield
        except asyncio.CancelledError:
            if not (leaving.done() or self._closing):
                raise
            task.uncancel()
            raise ReaderLeft from None
        finally:
            self._tasks.discard(task)
            leaving.cancel()


@dataclass(frozen=True)
class TimedStreams:
    """The streams of one caller, which end when its time does.

    Attributes:
        streams: the process's.
        until: when, in seconds since 1970; never where that is infinite.
    """

    streams: OpenStreams
    until: float

    def entered(self, receive: Receive) -> AbstractAsyncContextManager[None]:
        """As `OpenStreams.entered`, for no longer than that."""
        return self.streams.entered(receive, self.until)


class ReaderLeft(Exception):
    """The client has gone, or is sent away; caught by the response."""


async def _disconnected(receive: Receive, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(None if seconds == math.inf else seconds):
            while (await receive())["type"] not in ("http.disconnect", "websocket.disconnect"):
                pass


class FrameResponse(Response):
    """Frames as server-sent events, with a comment now and then while there are none.

    Args:
        source: opens what gives the frames.
        streams: the caller's.
        slot: what the stream holds, and gives back when it is over.
        heartbeat: seconds between comments.
        headers: of the response.
    """

    def __init__(
        self,
        source: Callable[[], AbstractAsyncContextManager[Source]],
        streams: TimedStreams,
        slot: AsyncExitStack,
        *,
        heartbeat: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status_code=200, headers={**SSE_HEADERS, **(headers or {})})
        self.headers["content-type"] = "text/event-stream; charset=utf-8"
        del self.headers["content-length"]
        self._source = source
        self._streams = streams
        self._slot = slot
        self._heartbeat = heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        """Answer."""
        try:
            async with self._slot, self._streams.entered(receive), self._source() as source:
                await send(_start(self))
                await self._pump(source, send)
        except ReaderLeft:
            # An answer that breaks off is one that clients ask for again; an orderly end would be the run's.
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, source: Source, send: Send) -> None:
        while True:
            try:
                async with asyncio.timeout(self._heartbeat):
                    frames = await source.batch()
            except TimeoutError:
                await send(_part(HEARTBEAT))
                continue
            if frames is None:
                return
            for piece in _pieces(frames):
                await send(_part(piece))


class TextResponse(Response):
    """The words of a run as they come, for `curl -N`.

    Args:
        pieces: opens what gives them.
        streams: the caller's.
        slot: what the stream holds, and gives back when it is over.
        headers: of the response.
    """

    def __init__(
        self,
        pieces: Callable[[], AsyncIterator[str]],
        streams: TimedStreams,
        slot: AsyncExitStack,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status_code=200, headers={**SSE_HEADERS, **(headers or {})})
        self.headers["content-type"] = "text/plain; charset=utf-8"
        del self.headers["content-length"]
        self._pieces = pieces
        self._streams = streams
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        """Answer."""
        try:
            async with self._slot, self._streams.entered(receive):
                await send(_start(self))
                async for piece in self._pieces():
                    await send(_part(piece.encode()))
        except ReaderLeft:
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class AwaitedResponse(Response):
    """JSON that takes a while to come. Until then a line break now and then keeps the connection.

    Args:
        answer: waits for it and gives it as bytes.
        streams: the caller's.
        slot: what the stream holds, and gives back when it is over.
        heartbeat: seconds between line breaks.
        headers: of the response.
    """

    def __init__(
        self,
        answer: Callable[[], Awaitable[bytes]],
        streams: TimedStreams,
        slot: AsyncExitStack,
        *,
        heartbeat: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status_code=200, headers=dict(headers or {}))
        self.headers["content-type"] = "application/json"
        del self.headers["content-length"]
        self._answer = answer
        self._streams = streams
        self._slot = slot
        self._heartbeat = heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        """Answer."""
        try:
            async with self._slot, self._streams.entered(receive):
                await send(_start(self))
                body = await self._awaited(send)
        except ReaderLeft:
            return
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _awaited(self, send: Send) -> bytes:
        answering = asyncio.ensure_future(self._answer())
        try:
            while not (await asyncio.wait([answering], timeout=self._heartbeat))[0]:
                await send(_part(b"\n"))
            return answering.result()
        finally:
            if not answering.done():
                answering.cancel()
                await asyncio.wait([answering])


def _pieces(frames: Sequence[Frame]) -> Iterator[bytes]:
    """Frames as server-sent events, some at a time: what is handed to the server is its to keep until it is read."""
    piece: list[bytes] = []
    size = 0
    for frame in frames:
        piece.append(frame.sse)
        size += len(piece[-1])
        if size >= _PIECE:
            yield b"".join(piece)
            piece, size = [], 0
    if piece:
        yield b"".join(piece)


def _start(response: Response) -> Message:
    return {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}
