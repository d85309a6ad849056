"""One address in front of several servers, as a load balancer is: a connection goes to the next that is there."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK = 1 << 16


class Forwarder:
    """Passes TCP connections on to ports of this machine, in turns; a port on which nobody listens is left out.

    Args:
        ports: of the servers.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self._next = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.open: Counter[int] = Counter()

    @property
    def url(self) -> str:
        """The one address."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            # The forwarder is closed; asyncio would report it as an error of this connection.
            pass
        finally:
            writer.transport.abort()
            self._connections.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in self._ports:
            port = self._ports[self._next % len(self._ports)]
            self._next += 1
            try:
                upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                continue
            self.open[port] += 1
            try:
                await _join(reader, upstream_writer, upstream_reader, writer)
            finally:
                self.open[port] -= 1
                upstream_writer.transport.abort()
            return


async def _join(
    client: asyncio.StreamReader,
    to_server: asyncio.StreamWriter,
    server: asyncio.StreamReader,
    to_client: asyncio.StreamWriter,
) -> None:
    """Pass on in both directions until one side has closed; what it said last is delivered."""
    ways = {asyncio.create_task(_pass_on(client, to_server)), asyncio.create_task(_pass_on(server, to_client))}
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
