"""LangGraph's HTTP API: what a client sees of a gateway, or of any other server of this API.

Every measurement takes a base URL. The server has to have the assistants of `bench/langgraph.json`. Ours is started
here: a worker, a gateway and Redis, each a process of its own, with checkpoints, as by default; others are named on the
command line, and measured in turns with it.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from bench.figure import Ground, Measurement, Target, percentile
from bench.graphs import chat_input
from bench.processes import Answers, Remote, start
from bench.roles import gateway, redis_cpu, runners
from bench.sse import Connection, Frame

ASSISTANT = "chat"
_SLOTS = 1000
_OURS = ""


@dataclass(frozen=True)
class Served:
    """A server that is measured.

    Attributes:
        name: what it is called in the table; empty for ours.
        url: its base URL.
        ours: our processes, whose CPU and memory can be told.
    """

    name: str
    url: str
    ours: tuple[Remote, ...] = ()
    redis_url: str = ""

    def row(self, metric: str, value: float, unit: str, target: Target | None = None) -> Measurement:
        """A row of the table; targets are for ours."""
        who = f"{self.name}: " if self.name else ""
        return Measurement(f"http: {who}{metric}", value, unit, None if self.name else target)

    async def cpu(self) -> float:
        """Seconds of processor time that our worker, gateway and Redis have used so far."""
        async with Redis.from_url(self.redis_url) as redis:
            return sum([await one.cpu() for one in self.ours]) + await redis_cpu(redis)


async def http(ground: Ground) -> list[Measurement]:
    """Everything that is measured over HTTP."""
    parts: Sequence[Callable[[Ground, Served, Remote], Awaitable[list[Measurement]]]] = (
        first_token, tiny_runs, throughput, steady, one_run_many_readers, joiners, many_runs_many_readers,
    )  # fmt: skip
    rows: list[Measurement] = []
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(start(runners, ground.redis_url, ground.namespace, _SLOTS))
        server = await stack.enter_async_context(start(gateway, ground.redis_url, ground.namespace))
        clients = await stack.enter_async_context(start(http_clients))
        ours = Served(_OURS, await server.ask("url"), (worker, server), ground.redis_url)
        others = [Served(name, url) for name, url in ground.others]
        for part in parts:
            for served in (ours, *others):
                rows += await part(ground, served, clients)
    return rows


async def first_token(ground: Ground, served: Served, clients: Remote) -> list[Measurement]:
    """Runs one after the other on an idle system, each on a thread that is there: how long the first token takes."""
    times = await clients.ask("first_token", served.url, ground.size(50, 3))
    return [served.row("time to first token, median", statistics.median(times), "ms", Target("<=", 8))]


async def tiny_runs(ground: Ground, served: Served, clients: Remote) -> list[Measurement]:
    """Clients that make a thread and stream a run of five tokens, again and again."""
    seconds, runs = await clients.ask("tiny", served.url, ground.size(100, 4), ground.size(20, 2))
    return [served.row("runs of 5 tokens, 100 clients", runs / seconds, "runs/s", Target(">=", 200))]


async def throughput(ground: Ground, served: Served, clients: Remote) -> list[Measurement]:
    """Runs at full speed, all at once."""
    runs, tokens = ground.size(50, 3), 200
    before = await served.cpu() if served.ours else 0.0
    seconds, total = await clients.ask("at_once", served.url, runs, tokens)
    rows = [served.row(f"{runs} runs of {tokens} tokens at once", total / seconds, "tokens/s", Target(">=", 10_000))]
    if served.ours:
        used = (await served.cpu() - before) * 1e6 / total
        rows.append(served.row("the same, CPU of worker, gateway and Redis", used, "ms/1000 tokens", Target("<=", 100)))
    return rows


async def steady(ground: Ground, served: Served, clients: Remote) -> list[Measurement]:
    """100 runs at 50 tokens a second: from the token's making to the client."""
    times = await clients.ask("steady", served.url, ground.size(100, 3), ground.size(300, 20))
    return _latency(served, "100 runs, 50 tokens/s each", times, (10, 60))


async def one_run_many_readers(ground: Ground, served: Served, clients: Remote) -> list[Measurement]:
    """500 readers of one run of 500 tokens at 50 tokens a second."""
    readers, tokens = ground.size(500, 5), ground.size(500, 30)
    times, complete = await clients.ask("read_one", served.url, readers, tokens)
    told = served.row(f"{readers} readers of one run: complete", complete, "readers", Target(">=", readers))
    return [told, *_latency(served, f"{readers} readers of one run", times, (50, 250))]


async def joiners(ground: Ground, served: Served, clients: Remote) -> list[Measurement]:
    """Readers that join at random moments of a run of 1,500 tokens, a token each millisecond."""
    count, tokens = ground.size(100, 5), ground.size(1500, 100)
    missing, doubled = await clients.ask("join", served.url, count, tokens)
    return [
        served.row(f"{count} readers that join anywhere: tokens missing", missing, "tokens", Target("<=", 0)),
        served.row(f"{count} readers that join anywhere: tokens twice", doubled, "tokens", Target("<=", 0)),
    ]


async def many_runs_many_readers(ground: Ground, served: Served, clients: Remote) -> list[Measurement]:
    """2,000 readers of 500 runs in one gateway; and 5,000 that wait for nothing to happen."""
    if not served.ours:
        return []
    runs, idle = ground.size(500, 3), ground.size(5000, 10)
    server = served.ours[1]
    before = await server.ask("memory")
    held = await clients.ask("hold", served.url, idle)
    per_reader = (await server.ask("memory") - before) / idle / 1024
    async with Redis.from_url(served.redis_url) as redis:
        connections = len(await redis.client_list())
    await clients.ask("let_go")
    times = await clients.ask("read_many", served.url, runs, 4, ground.size(100, 20))
    return [
        served.row("idle readers held", held, "readers", Target(">=", idle)),
        served.row("memory of the gateway for an idle reader", per_reader, "kB"),
        served.row("connections to Redis of all processes meanwhile", connections, "connections"),
        *_latency(served, f"{runs * 4} readers of {runs} runs, 2 tokens/s each", times, None),
    ]


def _latency(served: Served, what: str, times: Sequence[float], most: tuple[float, float] | None) -> list[Measurement]:
    targets = (None, None) if most is None else (Target("<=", most[0]), Target("<=", most[1]))
    return [
        served.row(f"{what}, p50", percentile(times, 50), "ms", targets[0]),
        served.row(f"{what}, p99", percentile(times, 99), "ms", targets[1]),
    ]


# --- the clients' process ------------------------------------------------------------------------------------------


@asynccontextmanager
async def http_clients() -> AsyncIterator[Answers]:
    """A process that plays all clients."""
    async with AsyncExitStack() as held:

        async def hold(url: str, count: int) -> int:
            return len([await held.enter_async_context(_idle_reader(url)) for _ in range(count)])

        async def let_go() -> None:
            await held.aclose()

        yield {
            "first_token": _first_token,
            "tiny": _tiny,
            "at_once": _at_once,
            "steady": _steady,
            "read_one": _read_one,
            "join": _join,
            "read_many": _read_many,
            "hold": hold,
            "let_go": let_go,
        }


def _body(tokens: int, pause: float = 0.0) -> dict[str, Any]:
    return {
        "assistant_id": ASSISTANT,
        "input": chat_input(tokens, pause),
        "stream_mode": ["messages-tuple"],
        "stream_resumable": True,
    }


async def _new_thread(connection: Connection) -> str:
    thread: dict[str, str] = await connection.json("POST", "/threads", {})
    return thread["thread_id"]


def _text(frame: Frame) -> str:
    """The token that a frame has; empty for any other."""
    if not frame.event.startswith("messages"):
        return ""
    content = frame.json[0]["content"]
    return content if isinstance(content, str) else ""


async def _first_token(url: str, count: int) -> list[float]:
    times: list[float] = []
    async with Connection(url) as connection:
        threads = [await _new_thread(connection) for _ in range(count + 3)]
        for thread in threads:
            began = time.perf_counter()
            took = 0.0
            async for frame in connection.stream("POST", f"/threads/{thread}/runs/stream", _body(5)):
                if not took and _text(frame):
                    took = (time.perf_counter() - began) * 1000
            times.append(took)
    # The first ones open connections and fill caches.
    return times[3:]


async def _tiny(url: str, clients: int, each: int) -> tuple[float, int]:
    async def one() -> int:
        done = 0
        async with Connection(url) as connection:
            for _ in range(each):
                thread = await _new_thread(connection)
                frames = connection.stream("POST", f"/threads/{thread}/runs/stream", _body(5))
                done += any([bool(_text(frame)) async for frame in frames])
        return done

    began = time.perf_counter()
    done = sum(await asyncio.gather(*(one() for _ in range(clients))))
    return time.perf_counter() - began, done


async def _streamed(url: str, tokens: int, pause: float) -> list[str]:
    """The tokens of a new run on a new thread."""
    async with Connection(url) as connection:
        thread = await _new_thread(connection)
        frames = connection.stream("POST", f"/threads/{thread}/runs/stream", _body(tokens, pause))
        return [text async for frame in frames if (text := _text(frame))]


async def _at_once(url: str, runs: int, tokens: int) -> tuple[float, int]:
    began = time.perf_counter()
    each = await asyncio.gather(*(_streamed(url, tokens, 0.0) for _ in range(runs)))
    return time.perf_counter() - began, sum(len(one) for one in each)


async def _timed(frames: AsyncIterator[Frame]) -> list[float]:
    """For each token how long ago it was made, ms."""
    return [(time.time_ns() - int(text)) / 1e6 async for frame in frames if (text := _text(frame).strip())]


def _middle(times: list[float]) -> list[float]:
    """What lies between the beginning and the end, when all do the same at once."""
    tenth = len(times) // 10
    return times[tenth : len(times) - tenth]


async def _steady(url: str, runs: int, tokens: int) -> list[float]:
    async def one() -> list[float]:
        async with Connection(url) as connection:
            thread = await _new_thread(connection)
            path = f"/threads/{thread}/runs/stream"
            return _middle(await _timed(connection.stream("POST", path, _body(tokens, 0.02))))

    return [time_ for times in await asyncio.gather(*(one() for _ in range(runs))) for time_ in times]


async def _begun(url: str, tokens: int, pause: float) -> str:
    """A new run that is at work; the path of its stream."""
    async with Connection(url) as connection:
        thread = await _new_thread(connection)
        run = await connection.json("POST", f"/threads/{thread}/runs", _body(tokens, pause))
    return f"/threads/{thread}/runs/{run['run_id']}/stream"


async def _read_one(url: str, readers: int, tokens: int) -> tuple[list[float], int]:
    path = await _begun(url, tokens, 0.02)

    async def one() -> list[float]:
        async with Connection(url) as connection:
            return await _timed(connection.stream("GET", path, headers={"last-event-id": "-1"}))

    each = await asyncio.gather(*(one() for _ in range(readers)))
    return [time_ for times in each for time_ in _middle(times)], sum(len(times) == tokens for times in each)


async def _join(url: str, count: int, tokens: int) -> tuple[int, int]:
    path = await _begun(url, tokens, 0.001)
    dice = random.Random(20261125)  # noqa: S311 - no secret

    async def one() -> list[str]:
        await asyncio.sleep(dice.uniform(0, tokens / 600))
        async with Connection(url) as connection:
            frames = connection.stream("GET", path, headers={"last-event-id": "-1"})
            return [text async for frame in frames if (text := _text(frame))]

    each = await asyncio.gather(*(one() for _ in range(count)))
    missing = sum(tokens - len(set(texts)) for texts in each)
    return missing, sum(len(texts) - len(set(texts)) for texts in each)


async def _read_many(url: str, runs: int, readers: int, tokens: int) -> list[float]:
    paths = await asyncio.gather(*(_begun(url, tokens, 0.5) for _ in range(runs)))

    async def one(path: str) -> list[float]:
        async with Connection(url) as connection:
            # From now on: what was said before it joined tells nothing of the way.
            return await _timed(connection.stream("GET", path))

    each = await asyncio.gather(*(one(path) for path in paths for _ in range(readers)))
    return [time_ for times in each for time_ in _middle(times)]


@asynccontextmanager
async def _idle_reader(url: str) -> AsyncIterator[None]:
    """A reader of a run that is to begin in an hour."""
    async with Connection(url) as connection:
        run = await connection.json("POST", "/runs", {**_body(1), "after_seconds": 3600})
        path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/stream"
        reading = asyncio.create_task(anext(connection.stream("GET", path), None), name="idle")
        try:
            yield
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
