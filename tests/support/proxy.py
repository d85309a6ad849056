"""A way to Redis that can be cut, blocked, or made to lose replies."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """A TCP proxy in front of a Redis; `url` is the way through it."""

    def __init__(self, redis_url: str) -> None:
        self._target = urlsplit(redis_url)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._forgotten: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._refusing = False
        self._losing = False
        self.lost_replies = 0

    @property
    def url(self) -> str:
        """The Redis behind the proxy."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        user = f":{self._target.password}@" if self._target.password else ""
        return urlunsplit(self._target._replace(netloc=f"{user}127.0.0.1:{port}"))

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.restore()
        await self.cut()
        await self._server.wait_closed()

    async def cut(self) -> None:
        """Cut every connection that there is."""
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def take_away(self) -> None:
        """Cut every connection, and every one that is made from now on."""
        self._refusing = True
        await self.cut()

    def lose_replies(self) -> None:
        """Deliver what is sent, and cut the connection instead of delivering the reply."""
        self._losing = True

    def forget(self) -> None:
        """Let nothing more through on the connections that there are, without closing them; new ones work."""
        self._forgotten |= self._connections

    def block(self) -> None:
        """Let nothing through, without closing anything."""
        self._open.clear()

    def restore(self) -> None:
        """Let everything through again."""
        self._refusing = self._losing = False
        self._open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if not self._refusing:
                await self._connect(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._connections.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        upstream_reader, upstream_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        ways = {
            asyncio.create_task(self._pass_on(reader, upstream_writer, connection, replies=False)),
            asyncio.create_task(self._pass_on(upstream_reader, writer, connection, replies=True)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            upstream_writer.transport.abort()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        connection: asyncio.Task[None] | None,
        *,
        replies: bool,
    ) -> None:
        while data := await reader.read(1 << 16):
            await self._open.wait()
            if connection in self._forgotten:
                continue
            if replies and self._losing:
                self.lost_replies += 1
                return
            writer.write(data)
            await writer.drain()
