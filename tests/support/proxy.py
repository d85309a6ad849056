"""A way to a server that can be cut, blocked, slowed down, or made to lose replies; and that can be watched."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit, urlunsplit


class Watcher(Protocol):
    """Looks at what goes through a proxy, and decides whether it does."""

    def request(self, connection: object, command: bytes) -> bool:
        """Whether this command, as it travels, is passed on; if not, its connection is cut."""

    def reply(self, connection: object, data: bytes) -> bool:
        """Whether this part of a reply is passed on; if not, its connection is cut."""


class Proxy:
    """A TCP proxy in front of a Redis or another server; `url` is the way through it."""

    def __init__(self, redis_url: str, watcher: Watcher | None = None) -> None:
        self._target = urlsplit(redis_url)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._forgotten: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._refusing = False
        self._losing = False
        self._delay = 0.0
        self._watcher = watcher
        self.lost_replies = 0

    @property
    def url(self) -> str:
        """The Redis behind the proxy."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        user, at, _ = self._target.netloc.rpartition("@")
        return urlunsplit(self._target._replace(netloc=f"{user}{at}127.0.0.1:{port}"))

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

    def lead_to(self, redis_url: str) -> None:
        """Have connections that are made from now on lead to another Redis, as an address does that was moved."""
        self._target = urlsplit(redis_url)

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

    def delay(self, seconds: float) -> None:
        """Let everything through later, in both directions."""
        self._delay = seconds

    def block(self) -> None:
        """Let nothing through, without closing anything."""
        self._open.clear()

    def restore(self) -> None:
        """Let everything through again."""
        self._refusing = self._losing = False
        self._delay = 0.0
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
        commands = Commands()
        while data := await reader.read(1 << 16):
            if self._delay:
                await asyncio.sleep(self._delay)
            await self._open.wait()
            if connection in self._forgotten:
                continue
            if replies and self._losing:
                self.lost_replies += 1
                return
            if self._watcher is None:
                writer.write(data)
            elif replies:
                if not self._watcher.reply(connection, data):
                    return
                writer.write(data)
            else:
                for command in commands.feed(data):
                    if not self._watcher.request(connection, command):
                        return
                    writer.write(command)
            await writer.drain()


class Commands:
    """Cuts what a client sends into commands, each as it travels: an array of texts, with their lengths."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take in what has come; the commands that are complete with it."""
        self._rest += data
        while (end := _end_of_command(self._rest)) is not None:
            command, self._rest = self._rest[:end], self._rest[end:]
            yield command


def _end_of_command(data: bytes) -> int | None:
    """Where the first command ends; None when it is not complete."""
    count, place = _number(data, 0)
    for _ in range(count):
        if place is None:
            return None
        length, place = _number(data, place)
        if place is not None:
            place += length + 2
    return place if place is not None and place <= len(data) else None


def _number(data: bytes, place: int) -> tuple[int, int | None]:
    """The number in the line that begins here, behind its sign; and where the next line begins."""
    end = data.find(b"\r\n", place)
    return (0, None) if end < 0 else (int(data[place + 1 : end]), end + 2)
