"""What it costs to tail many runs in one process: over one shared read, and over a connection for each run."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from redis.asyncio import Redis

from bench.figure import Ground, Measurement, Target
from bench.processes import Answers, Role, start
from bench.roles import client
from runstream import RunSpec
from runstream.client import connect
from runstream.codec import Decoder
from runstream.keys import Keys
from runstream.scripts import Append, Claimed, Hold, Scripts

_EVENTS_PER_SECOND = 10_000
_AT_ONCE = 50
"""So many runs get their next event in one round trip."""
_FIRST = (
    b'{"m":"messages","d":[{"type":"AIMessageChunk","content":"this ","id":"lc_run--1"},{"langgraph_node":"model"}]}'
)
_NEXT = b'{"b":"1-1","t":"token "}'


class _Cost(NamedTuple):
    connections: int
    per_event: float


async def tailing(ground: Ground) -> list[Measurement]:
    """1,000 runs that get ten events a second each."""
    runs, events = ground.size(1000, 50), ground.size(60, 10)
    shared = await _tail(ground, _shared, runs, events)
    separate = await _tail(ground, _separate, runs, events)
    return [
        Measurement(f"tailing: connections for {runs} runs", shared.connections, "connections", Target("<=", 3)),
        Measurement("tailing: reader's CPU", shared.per_event, "µs/event"),
        Measurement("tailing: one connection per run: connections", separate.connections, "connections"),
        Measurement("tailing: one connection per run: reader's CPU", separate.per_event, "µs/event"),
    ]


async def _tail(ground: Ground, role: Role, runs: int, events: int) -> _Cost:
    async with (
        client(ground.redis_url, ground.namespace) as producer,
        start(_writer, ground.redis_url, ground.namespace) as writer,
        Redis.from_url(ground.redis_url) as redis,
    ):
        enqueued = await producer.enqueue_many([RunSpec("written", {}, {})] * runs)
        run_ids = [run.run_id for run in enqueued]
        await writer.ask("claim", runs)
        before = {one["id"] for one in await _connections(redis)}
        async with start(role, ground.redis_url, ground.namespace) as reader:
            await reader.ask("open", run_ids)
            cpu = await reader.cpu()
            await writer.ask("write", events)
            received = await reader.ask("received", runs * events)
            cpu = await reader.cpu() - cpu
            connections = {one["id"] for one in await _connections(redis)} - before
            await writer.ask("finish", events)
    return _Cost(len(connections), cpu * 1e6 / received)


async def _connections(redis: Redis) -> list[dict[str, Any]]:
    connections: list[dict[str, Any]] = await redis.client_list()
    return connections


@asynccontextmanager
async def _writer(url: str, namespace: str) -> AsyncIterator[Answers]:
    redis = connect(url, connections=1)
    scripts = Scripts(redis, Keys(namespace))
    claimed: list[Claimed] = []

    def hold(run: Claimed) -> Hold:
        return Hold(run.run_id, run.attempt, "writer")

    async def claim(count: int) -> None:
        claimed.clear()
        while len(claimed) < count:
            reply = await scripts.claim("writer", ["written"], limit=100, lease=600_000, running_ttl=600_000)
            claimed.extend(reply.claimed)

    async def write(events: int) -> None:
        due = time.monotonic()
        for number in range(1, events + 1):
            for at in range(0, len(claimed), _AT_ONCE):
                some = claimed[at : at + _AT_ONCE]
                event = _FIRST if number == 1 else _NEXT
                await scripts.append([Append(hold(run), number, [event]) for run in some], byte_limit=2**30)
                due += len(some) / _EVENTS_PER_SECOND
                await asyncio.sleep(due - time.monotonic())

    async def finish(events: int) -> None:
        for run in claimed:
            await scripts.finish(
                hold(run),
                end_seq=events + 1,
                event=b'{"m":"end","d":{"status":"success"}}',
                status="success",
                record={},
            )

    yield {"claim": claim, "write": write, "finish": finish}
    await redis.aclose()


class _Counter:
    """Counts what the readers of a process receive."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._awaited = ("", 0)
        self._arrived = asyncio.Event()

    def add(self, mode: str) -> None:
        """Count an event."""
        self._counts[mode] += 1
        if (mode, self._counts[mode]) == self._awaited:
            self._arrived.set()

    async def all_open(self, runs: int) -> None:
        """Wait until every reader has come to the event that opens its run's attempt, and to its blocking read."""
        await self._reach("attempt", runs)
        await asyncio.sleep(1.0)

    async def received(self, messages: int) -> int:
        """Wait for so many events of the mode `messages`."""
        await self._reach("messages", messages)
        return self._counts["messages"]

    async def _reach(self, mode: str, number: int) -> None:
        self._awaited = (mode, number)
        self._arrived.clear()
        if self._counts[mode] < number:
            await self._arrived.wait()


@asynccontextmanager
async def _shared(url: str, namespace: str) -> AsyncIterator[Answers]:
    counter, tasks = _Counter(), list[asyncio.Task[None]]()
    async with client(url, namespace) as consumer:

        async def read(run_id: str) -> None:
            async for event in consumer.tail(run_id):
                counter.add(event.mode)

        async def open_all(run_ids: list[str]) -> None:
            tasks.extend(asyncio.create_task(read(run_id)) for run_id in run_ids)
            await counter.all_open(len(run_ids))

        yield {"open": open_all, "received": counter.received}
        await _end(tasks)


@asynccontextmanager
async def _separate(url: str, namespace: str) -> AsyncIterator[Answers]:
    counter, tasks, keys = _Counter(), list[asyncio.Task[None]](), Keys(namespace)

    async def read(run_id: str) -> None:
        key, position, decoder = keys.events(run_id), b"0-0", Decoder()
        async with connect(url, connections=1) as redis:
            while True:
                for _, entries in await redis.xread({key: position}, count=500, block=5000) or ():
                    for event_id, fields in entries:
                        counter.add(decoder.decode(event_id.decode(), fields).mode)
                        position = event_id

    async def open_all(run_ids: list[str]) -> None:
        tasks.extend(asyncio.create_task(read(run_id)) for run_id in run_ids)
        await counter.all_open(len(run_ids))

    yield {"open": open_all, "received": counter.received}
    await _end(tasks)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
