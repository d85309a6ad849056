"""Responses that last: server-sent events, plain text, and an answer that is waited for.

They speak ASGI themselves. What they send is written when it comes, a batch at a time; a reader that is slow makes the
server's `send` wait, and then its events wait in Redis, not here.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runstream.tasks import cancel
from runstream_gateway.errors import ApiError
from runstream_gateway.frames import HEARTBEAT, Frame

_PIECE = 64 * 1024
_AGAIN = 0.1
SSE_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class Source(Protocol):
    """Gives what is to be sent, batch by batch."""

    async def batch(self) -> list[Frame] | None:
        """The next frames; None after the last."""


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

    def check_open(self) -> None:
        """Refuse what others have to do, since the process shuts down; clients that come again reach another gateway.

        Raises:
            ApiError: 503, it does.
        """
        if self._closing:
            raise ApiError(503, "the gateway shuts down", {"retry-after": "1"})

    def close(self) -> None:
        """Break all streams off; their readers come back, to this gateway's successor or another."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            # As `runstream.tasks.cancel`: what calls Redis may lose a cancellation that comes with the answer.
            asyncio.get_running_loop().call_later(_AGAIN, self.close)

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
        leaving.add_done_callback(lambda done: None if done.cancelled() else self._end(task))
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

    def _end(self, task: asyncio.Task[Any]) -> None:
        """Cancel a stream's task, until it is none any more."""
        if task in self._tasks:
            task.cancel()
            asyncio.get_running_loop().call_later(_AGAIN, self._end, task)


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


class _LastingResponse(Response):
    """An answer that is written while it comes, for as long as the client is there.

    Args:
        streams: the caller's.
        slot: what the stream holds, and gives back when it is over.
        kind: the content type.
        headers: of the response.
    """

    def __init__(
        self, streams: TimedStreams, slot: AsyncExitStack, kind: str, headers: Mapping[str, str] | None
    ) -> None:
        super().__init__(status_code=200, headers=dict(headers or {}))
        self.headers["content-type"] = kind
        del self.headers["content-length"]
        self._streams = streams
        self._slot = slot
        self._has_begun = False
        self._said_at = 0.0
        # A frame may go out in pieces, between which nothing else may stand.
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        """Answer."""
        try:
            async with self._slot, self._streams.entered(receive):
                last = await self._answer(send)
        except ReaderLeft:
            # An answer that breaks off is one that clients ask for again; an orderly end would be the run's. Where none
            # has begun the server would make it a 500, at which they make another run: `Location` has them come back.
            if not self._has_begun:
                await self._begin(send)
            return
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _answer(self, send: Send) -> bytes:
        """Begin, say all but the last of it, and give that."""
        raise NotImplementedError

    async def _begin(self, send: Send) -> None:
        self._has_begun = True
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

    async def _say(self, send: Send, *pieces: bytes) -> None:
        async with self._turn:
            for piece in pieces:
                for at in range(0, len(piece), _PIECE):
                    # What is handed to the server is its to keep until the client reads.
                    body = piece[at : at + _PIECE]
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            self._said_at = asyncio.get_running_loop().time()

    @asynccontextmanager
    async def _beating(self, send: Send, beat: bytes, seconds: float) -> AsyncIterator[None]:
        """Say something whenever nothing has been said for so long. What is being waited for goes on meanwhile."""
        loop = asyncio.get_running_loop()

        async def go_on() -> None:
            while True:
                left = self._said_at + seconds - loop.time()
                if left > 0:
                    await asyncio.sleep(left)
                else:
                    await self._say(send, beat)

        self._said_at = loop.time()
        beating = asyncio.create_task(go_on(), name="gateway-heartbeat")
        try:
            yield
        finally:
            await cancel([beating])


class FrameResponse(_LastingResponse):
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
        super().__init__(streams, slot, "text/event-stream; charset=utf-8", {**SSE_HEADERS, **(headers or {})})
        self._source = source
        self._heartbeat = heartbeat

    async def _answer(self, send: Send) -> bytes:
        async with self._source() as source:
            await self._begin(send)
            async with self._beating(send, HEARTBEAT, self._heartbeat):
                while (frames := await source.batch()) is not None:
                    for pieces in _in_pieces(frames):
                        await self._say(send, *pieces)
        return b""


class TextResponse(_LastingResponse):
    """The words of a run as they come, for `curl -N`.

    Args:
        pieces: opens what gives them.
        streams: the caller's.
        slot: what the stream holds, and gives back when it is over.
        headers: of the response.
    """

    def __init__(
        self,
        pieces: Callable[[], AsyncGenerator[str, None]],
        streams: TimedStreams,
        slot: AsyncExitStack,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(streams, slot, "text/plain; charset=utf-8", {**SSE_HEADERS, **(headers or {})})
        self._pieces = pieces

    async def _answer(self, send: Send) -> bytes:
        await self._begin(send)
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                await self._say(send, piece.encode())
        return b""


class AwaitedResponse(_LastingResponse):
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
        super().__init__(streams, slot, "application/json", headers)
        self._awaited = answer
        self._heartbeat = heartbeat

    async def _answer(self, send: Send) -> bytes:
        await self._begin(send)
        async with self._beating(send, b"\n", self._heartbeat):
            answer = await self._awaited()
        await self._say(send, answer)
        return b""


def _in_pieces(frames: Sequence[Frame]) -> Iterator[tuple[bytes, ...]]:
    """Frames as server-sent events: small ones together, a large one's data as it is, which its readers share."""
    piece: list[bytes] = []
    size = 0
    for frame in frames:
        if len(frame.data) >= _PIECE:
            yield b"".join(piece), frame.head, frame.data, frame.tail
            piece, size = [], 0
            continue
        piece.append(frame.sse)
        size += len(piece[-1])
        if size >= _PIECE:
            yield (b"".join(piece),)
            piece, size = [], 0
    if piece:
        yield (b"".join(piece),)
