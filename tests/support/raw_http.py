"""A client that is nothing but a socket: it reads as slowly as it likes, and leaves in every way there is."""

from __future__ import annotations

import asyncio
import ctypes
import json
import socket
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.gateways import LONG

_SO_ATTACH_FILTER = 26


class RawStream:
    """One request and what has come of its answer.

    Args:
        base_url: of the server.
        method: of the request.
        path: what is asked for.
        body: JSON to send along.
        receive_buffer: bytes that the system takes in before the program reads them; its default when left out.
    """

    def __init__(
        self,
        base_url: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        self._address = urlsplit(base_url)
        self._head = {"host": self._address.netloc, "content-type": "application/json", **(headers or {})}
        self._body = b"" if body is None else json.dumps(body).encode()
        self._line = f"{method} {path} HTTP/1.1"
        self._socket = socket.socket()
        self._socket.setblocking(False)
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.received = bytearray()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, (self._address.hostname, self._address.port))
        head = {**self._head, "content-length": str(len(self._body))}
        lines = [self._line, *(f"{name}: {value}" for name, value in head.items()), "", ""]
        await loop.sock_sendall(self._socket, "\r\n".join(lines).encode() + self._body)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    async def read(self, most: int = 1 << 16) -> None:
        """Wait for more.

        Raises:
            ConnectionError: the other side has closed.
        """
        data = await asyncio.get_running_loop().sock_recv(self._socket, most)
        if not data:
            raise ConnectionError("closed in the middle")
        self.received += data

    async def read_until(self, what: bytes) -> None:
        """Read until this has come."""
        async with asyncio.timeout(LONG):
            while what not in self.received:
                await self.read()

    async def read_to_the_end(self) -> None:
        """Read until the answer's end."""
        while not self.has_ended:
            await self.read()

    @property
    def has_ended(self) -> bool:
        """Whether all of the answer has come."""
        return self.received.endswith(b"\r\n0\r\n\r\n")

    def header(self, name: str) -> str:
        """A header of the answer."""
        head = self.received.split(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        return {key.lower(): value for key, _, value in (line.partition(": ") for line in head)}[name]

    @property
    def run_id(self) -> str:
        """The run that the answer is about."""
        return self.header("content-location").rpartition("/")[2]

    @property
    def body(self) -> bytes:
        """What has come of the answer's body, without what frames its chunks."""
        whole, place = bytearray(), self.received.index(b"\r\n\r\n") + 4
        while place < len(self.received):
            line = self.received.index(b"\r\n", place)
            size = int(self.received[place:line], 16)
            whole += self.received[line + 2 : line + 2 + size]
            place = line + 2 + size + 2
        return bytes(whole)

    def close(self) -> None:
        """Say goodbye."""
        self._socket.close()

    def reset(self) -> None:
        """Slam the door."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def vanish(self) -> None:
        """Be gone from one moment to the next: whatever comes is thrown away, and nothing acknowledged."""
        nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # a filter: let 0 bytes pass
        program = struct.pack("HL", 1, ctypes.addressof(nothing))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
