"""Receivers of webhooks: real HTTP servers that answer as a test wants them to, or not at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.support.waiting import until

SECRET = "between the two of us"  # noqa: S105 - a test's
Respond = Callable[[asyncio.StreamWriter], Awaitable[None]]


def status(code: int, *headers: str) -> Respond:
    """Answers with a status."""

    async def respond(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {code} Said", "content-length: 0", *headers, "", ""]
        writer.write("\r\n".join(lines).encode())
        await writer.drain()

    return respond


async def say_nothing(writer: asyncio.StreamWriter) -> None:
    """Keeps the connection and never answers."""
    await asyncio.Event().wait()


async def drip(writer: asyncio.StreamWriter) -> None:
    """Answers with a header that never ends, a byte at a time."""
    writer.write(b"HTTP/1.1 200 Said\r\nx-long: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.2)


async def answer_without_end(writer: asyncio.StreamWriter) -> None:
    """Answers 200, with a body that never ends."""
    writer.write(b"HTTP/1.1 200 Said\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class Call:
    """What a receiver was sent."""

    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_signed(self, secret: str = SECRET) -> bool:
        """Whether the receiver that docs/GATEWAY.md shows would take it."""
        return bool(receivers_check()(secret, self.headers["runstream-signature"], self.body))


def receivers_check() -> Callable[..., bool]:
    """The function that docs/GATEWAY.md shows to receivers."""
    page = (Path(__file__).parents[2] / "docs" / "GATEWAY.md").read_text("utf-8")
    code = next(part for part in page.split("```python\n")[1:] if "def is_genuine(" in part).partition("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - our own page
    check: Callable[..., bool] = names["is_genuine"]
    return check


@dataclass
class Receiver:
    """A real HTTP server that answers as its path says, else what it was told to in turn, and 200 after that."""

    answers: Sequence[Respond] = field(default_factory=list)
    by_path: Mapping[str, Respond] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    address: str = "127.0.0.1"
    port: int = 0
    _server: asyncio.Server | None = None
    _open: set[asyncio.Task[Any]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.address, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    def url(self, path: str = "/ended?token=hidden") -> str:
        return f"http://{self.address}:{self.port}{path}"

    async def called(self, times: int = 1) -> list[Call]:
        """Wait until it was called so often."""
        await until(lambda: len(self.calls) >= times, f"{times} calls of the webhook")
        return self.calls

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        # Cancelled: the test is over. Streams tell of it as of an error.
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers["content-length"]))
            call = Call(head[0].split(" ")[1], headers, body)
            self.calls.append(call)
            respond = self.by_path.get(call.target)
            if respond is None:
                respond, self.answers = (self.answers[0], self.answers[1:]) if self.answers else (status(200), ())
            await respond(writer)
        writer.close()
        with suppress(ConnectionError, asyncio.CancelledError):
            await writer.wait_closed()
