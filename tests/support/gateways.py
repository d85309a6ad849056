"""Workers and two gateways as processes, behind one address; and clients that read through it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.schema import StreamPart
from tests.support.forwarder import Forwarder
from tests.support.processes import Processes, Running, RunningWorker
from tests.support.waiting import until

PACED: Final = Path(__file__).parents[1] / "gateway" / "graphs" / "paced.py"
TARGETS: Final = (f"talk={PACED}:talk", f"flood={PACED}:flood")
MODES: Final = ["messages-tuple", "values"]
LONG: Final = 60.0
"""Seconds that may pass on a busy machine before a test gives up."""
_PER_CLIENT: Final = 20


class Fleet:
    """A few workers and gateways, which can be killed and started again.

    Args:
        processes: starts them.
        workers: how many.
        gateways: how many, each on a port of its own.
    """

    def __init__(self, processes: Processes, *, workers: int = 1, gateways: int = 2) -> None:
        self.processes = processes
        self.ports = _free_ports(gateways)
        self.gateways: dict[int, Running] = {}
        self.workers: list[RunningWorker] = []
        self.forwarder = Forwarder(self.ports)
        self._wanted = workers
        self._clients: list[LangGraphClient] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.forwarder)
            starting = [self.start_gateway(port) for port in self.ports]
            await asyncio.gather(*starting, *(self.start_worker() for _ in range(self._wanted)))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def start_gateway(self, port: int, *options: str) -> None:
        """Start one on its port, and wait until it serves."""
        gateway = await self.processes.start("gateway", "--json", *TARGETS, "--port", str(port), *options)
        self.gateways[port] = gateway
        ready = await gateway.json_line()
        assert ready["url"] == f"http://127.0.0.1:{port}"

    async def start_worker(self) -> None:
        """Start one more, and wait until it takes runs."""
        self.workers.append(await self.processes.worker(*TARGETS, "--concurrency", "200"))

    async def kill_gateway(self, port: int) -> None:
        """As `kill -9` does."""
        self.gateways[port].kill()
        await self.gateways[port].ended()

    async def terminate_gateway(self, port: int) -> None:
        """As an orchestrator does that wants it to leave."""
        self.gateways[port].terminate()
        ended = await self.gateways[port].ended()
        assert (ended.code, ended.out) == (0, "")

    async def client(self, *, alone: bool = False) -> LangGraphClient:
        """A client, alone or shared by a few readers: one has a hundred connections at most."""
        if alone:
            return await self._stack.enter_async_context(get_client(url=self.forwarder.url, api_key=None))
        if len(self._clients) % _PER_CLIENT == 0:
            self._clients.append(await self.client(alone=True))
        else:
            self._clients.append(self._clients[-1])
        return self._clients[-1]

    def file(self, name: str) -> Path:
        """A file in the folder of the processes."""
        return self.processes.folder / name


@dataclass
class Reading:
    """What a client has read so far."""

    parts: list[StreamPart] = field(default_factory=list)
    ended: bool = False

    async def read(self, stream: AsyncIterator[StreamPart]) -> None:
        async for part in stream:
            self.parts.append(part)
        self.ended = True

    @property
    def run_id(self) -> str:
        """Of which run, as its first part tells."""
        assert self.parts[0].event == "metadata"
        return str(self.parts[0].data["run_id"])

    def is_saying(self, topic: str, attempt: int = 1) -> bool:
        """Whether an attempt has come to this answer."""
        return any(
            part.event == "messages" and part.data[0]["content"].startswith(topic) and attempt_of(part) == attempt
            for part in reversed(self.parts)
        )


def attempt_of(part: StreamPart) -> int:
    """The attempt that a part with an id is of."""
    assert part.id is not None
    return int(part.id.split("-")[0])


async def all_go_on(readings: Sequence[Reading], by: int = 3) -> None:
    """Wait until each has read on: whoever was cut off has come back."""
    marks = [len(reading.parts) + by for reading in readings]
    await until(
        lambda: all(len(reading.parts) >= mark for reading, mark in zip(readings, marks, strict=True)),
        "all readers go on",
        LONG,
    )


def with_ids(parts: Sequence[StreamPart]) -> list[tuple[str, str, Any]]:
    """Id, name and data of the parts that have an id of their own."""
    return [(str(part.id), part.event, part.data) for at, part in enumerate(parts) if not _is_without_id(parts, at)]


def _is_without_id(parts: Sequence[StreamPart], at: int) -> bool:
    """Whether a frame came without an id; the client shows it with the last one that came.

    Such are the state that a later attempt begins with, the messages that it takes back, and an error.
    """
    if parts[at].event == "error" or _takes_back(parts[at]):
        return True
    behind = at
    while parts[behind].event == "values" and behind + 1 < len(parts):
        behind += 1
    return behind > at and parts[behind].event == "metadata"


def _takes_back(part: StreamPart) -> bool:
    """Whether a frame takes back a message that has become void."""
    return part.event.partition("|")[0] == "messages" and part.data[0]["type"] == "remove"


def check_ids(parts: Sequence[StreamPart], *, after: tuple[int, int] | None = None) -> None:
    """The ids of a whole stream: `attempt-seq` without gaps, every one once, up to the end.

    Args:
        parts: what was read.
        after: the id that the reader began behind; the start when left out.
    """
    ids = [tuple(map(int, id_.split("-"))) for id_, _, _ in with_ids(parts)]
    attempt, seq = after or (1, -1)
    for got in ids:
        assert got in ((attempt, seq + 1), (attempt + 1, 0)), f"{got} behind {attempt}-{seq}"
        attempt, seq = got
    assert parts[-1].event == "end"
    assert [part.event for part in parts].count("end") == 1


class Folded:
    """What a user interface shows that follows a stream: values replace, chunks of messages are appended by id.

    By the rules that the gateway's page tells, and by no code of ours.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._chunks: dict[str, list[tuple[str, str, str]]] = {}  # by message: event id, task, text

    def apply(self, part: StreamPart) -> None:
        match part.event:
            case "values":
                self.values = part.data
            case "messages":
                message, about = part.data
                if message["type"] == "remove":
                    # What is void is left out by the rule of the attempt, which follows.
                    return
                task = about["langgraph_checkpoint_ns"].rpartition(":")[2]
                self._chunks.setdefault(message["id"], []).append((str(part.id), task, message["content"]))
            case "metadata" if part.data["attempt"] > 1:
                self._leave_out(part.data["voids"])

    def _leave_out(self, voids: dict[str, Any]) -> None:
        tasks, events = {task["id"] for task in voids.get("tasks", ())}, set(voids.get("events", ()))
        if voids.get("all"):
            self._chunks.clear()
        for message_id, chunks in list(self._chunks.items()):
            left = [chunk for chunk in chunks if chunk[1] not in tasks and chunk[0] not in events]
            self._chunks[message_id] = left
            if not left:
                del self._chunks[message_id]

    @property
    def texts(self) -> dict[str, str]:
        """The text of each streamed message, by id, in their order."""
        return {message_id: "".join(text for _, _, text in chunks) for message_id, chunks in self._chunks.items()}

    @property
    def shown(self) -> dict[str, str]:
        """The text of each message that is on the screen: the state's, and behind them those that grow."""
        shown = {message["id"]: message["content"] for message in self.values.get("messages", ())}
        return {**shown, **self.texts}


def folded(parts: Iterable[StreamPart]) -> Folded:
    """The whole of a stream, folded."""
    result = Folded()
    for part in parts:
        result.apply(part)
    return result


def saved(state: Any) -> dict[str, str]:
    """The messages of a thread's state."""
    return {message["id"]: message["content"] for message in state["values"]["messages"]}


def answers(state: Any) -> dict[str, str]:
    """Those of them that a model gave."""
    return {message["id"]: message["content"] for message in state["values"]["messages"] if message["type"] == "ai"}


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
