"""A client of LangGraph's HTTP API that costs next to nothing, so that what is measured is the server.

HTTP/1.1 over one connection at a time; knows just what the servers of this API send: chunks, or a length.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import orjson

_END_OF_FRAME = re.compile(rb"\r\n\r\n|\n\n")
_LONGEST_LINE = 4 * 1024 * 1024


class Refused(RuntimeError):
    """The server has answered with an error."""


class Frame(NamedTuple):
    """A server-sent event; comments are left out."""

    event: str
    data: bytes
    id: str | None

    @property
    def json(self) -> Any:
        """What its data says."""
        return orjson.loads(self.data)


class Connection:
    """One connection to a server, used for one request after the other; an async context manager."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._prefix = parts.path.rstrip("/")
        self._reader = asyncio.StreamReader()
        self._writer: asyncio.StreamWriter | None = None
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=_LONGEST_LINE)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    async def json(self, method: str, path: str, body: object = None) -> Any:
        """Make a request and read its answer.

        Raises:
            Refused: it is an error.
        """
        await self._send(method, path, body, {})
        status = await self._head()
        parts = [part async for part in self._body()]
        if status >= 400:
            raise Refused(f"{method} {path}: {status} {b''.join(parts)[:300]!r}")
        return orjson.loads(b"".join(parts) or b"null")

    async def stream(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Frame]:
        """Make a request and read its answer frame by frame.

        Raises:
            Refused: it is an error.
        """
        await self._send(method, path, body, headers or {})
        status = await self._head()
        rest = b""
        async for part in self._body():
            if status >= 400:
                raise Refused(f"{method} {path}: {status} {part[:300]!r}")
            *whole, rest = _END_OF_FRAME.split(rest + part)
            for text in whole:
                frame = _frame(text)
                if frame is not None:
                    yield frame

    async def _send(self, method: str, path: str, body: object, headers: Mapping[str, str]) -> None:
        if self._writer is None:
            raise RuntimeError("the connection has not been entered")
        text = b"" if body is None else orjson.dumps(body)
        lines = [f"{method} {self._prefix}{path} HTTP/1.1", f"host: {self._host}:{self._port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += ["content-type: application/json", f"content-length: {len(text)}", "", ""]
        self._writer.write("\r\n".join(lines).encode() + text)
        await self._writer.drain()

    async def _head(self) -> int:
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines if line)
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}
        return int(first.split()[1])

    async def _body(self) -> AsyncIterator[bytes]:
        if self.headers.get("transfer-encoding") != "chunked":
            yield await self._reader.readexactly(int(self.headers.get("content-length", 0)))
            return
        while size := int(await self._reader.readline(), 16):
            chunk = await self._reader.readexactly(size + 2)
            yield chunk[:-2]
        await self._reader.readline()


def _frame(text: bytes) -> Frame | None:
    event, data, event_id = "", b"", None
    for line in text.splitlines():
        name, _, value = line.partition(b": ")
        if name == b"event":
            event = value.decode()
        elif name == b"data":
            data += value
        elif name == b"id":
            event_id = value.decode()
    return Frame(event, data, event_id) if event else None
