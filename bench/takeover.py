"""How long readers wait when a worker dies or leaves; and how long a stop takes while the model is silent."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, cast

from bench.figure import Ground, Measurement, Target, percentile
from bench.graphs import chat, chat_in_steps, chat_input, silent
from bench.processes import FORKSERVER
from bench.roles import client
from runstream import Client, Event, RunSpec
from runstream_worker.app import serve_process
from runstream_worker.graphs import graph_source
from runstream_worker.settings import WorkerSettings

_PAUSE = 0.02
_TOKENS = 100_000
"""More than anybody waits for: the runs are stopped when they have been taken over."""
_TOKENS_PER_STEP = 5
_RUNS = 4
_BEAT = 1.0
_JOINING = 0.1
"""Seconds that a reader takes at most to come to the end of the stream."""


async def takeover(ground: Ground) -> list[Measurement]:
    """Workers at their defaults, four runs each; in each round the one that has them goes, and the other takes over."""
    lanes, rounds = ground.size(5, 1), ground.size(6, 1)
    long_step = chat_input(_TOKENS, _PAUSE)
    short_steps = chat_input(_TOKENS_PER_STEP, _PAUSE)
    killed = await _everywhere(ground, _Scene("chat", long_step, signal.SIGKILL), lanes, rounds)
    left = await _everywhere(ground, _Scene("steps", short_steps, signal.SIGTERM), lanes, rounds)
    no_grace = _Scene("chat", long_step, signal.SIGTERM, {"shutdown_grace": 0.0})
    cut_off = await _everywhere(ground, no_grace, lanes, rounds)
    stopped = await _stops(ground, ground.size(200, 3))
    told = "take-over: to the next attempt's first event"
    return [
        Measurement(f"{told}, kill -9, p50", percentile(killed, 50) / 1000, "s", Target("<=", 3)),
        Measurement(f"{told}, kill -9, p99", percentile(killed, 99) / 1000, "s", Target("<=", 6)),
        Measurement(f"{told}, SIGTERM, p50", percentile(left, 50) / 1000, "s"),
        Measurement(f"{told}, SIGTERM, p99", percentile(left, 99) / 1000, "s", Target("<=", 1)),
        Measurement(f"{told}, SIGTERM, steps cut off, p99", percentile(cut_off, 99) / 1000, "s", Target("<=", 1)),
        Measurement("stop: to the end event at a reader, model silent, p50", percentile(stopped, 50), "ms"),
        Measurement(
            "stop: to the end event at a reader, model silent, p99", percentile(stopped, 99), "ms", Target("<=", 100)
        ),
    ]


# -- workers -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _worker(url: str, namespace: str, settings: dict[str, Any]) -> AsyncIterator[int]:
    """A process that is a worker, ready to take runs, by its id; at the end of the block it is killed."""
    here, there = FORKSERVER.Pipe()
    process = FORKSERVER.Process(target=_serve, args=(url, namespace, settings, there), daemon=True)
    process.start()
    there.close()
    try:
        await asyncio.to_thread(here.recv)
        yield cast("int", process.pid)
    finally:
        process.kill()
        await asyncio.to_thread(process.join)
        here.close()


def _serve(url: str, namespace: str, settings: dict[str, Any], pipe: Connection) -> None:
    logging.getLogger("runstream").setLevel(logging.ERROR)
    graphs = {"chat": chat(None), "steps": chat_in_steps(), "silent": silent()}
    sources = {name: graph_source(name, graph) for name, graph in graphs.items()}

    async def ready(ctx: dict[Any, Any]) -> None:  # noqa: ARG001 - as arq calls it
        pipe.send(None)

    worker = WorkerSettings(redis_url=url, namespace=namespace, **settings)
    asyncio.run(serve_process(sources, worker, on_startup=ready))


# -- taking over -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scene:
    """What goes on when a worker goes: runs of this graph, with this input; and how it goes."""

    graph: str
    given: dict[str, Any]
    signal: signal.Signals
    settings: dict[str, Any] = field(default_factory=dict)


async def _everywhere(ground: Ground, scene: _Scene, lanes: int, rounds: int) -> list[float]:
    """The times of all rounds, in ms; several pairs of workers at once, each in a namespace of its own."""
    namespaces = [f"{ground.namespace}-{secrets.token_hex(3)}" for _ in range(lanes)]
    each = await asyncio.gather(*(_lane(ground.redis_url, namespace, scene, rounds) for namespace in namespaces))
    return [one for times in each for one in times]


async def _lane(url: str, namespace: str, scene: _Scene, rounds: int) -> list[float]:
    times: list[float] = []
    for _ in range(rounds):
        async with client(url, namespace) as reader, _worker(url, namespace, scene.settings) as goes:
            spec = RunSpec(scene.graph, scene.given, {"stream_mode": "messages"})
            runs = [run.run_id for run in await reader.enqueue_many([spec] * _RUNS)]
            await asyncio.gather(*(_first(reader, run_id, lambda event: event.mode == "messages") for run_id in runs))
            async with _worker(url, namespace, scene.settings):
                # At any moment between two beats.
                await asyncio.sleep(_BEAT + random.uniform(0, _BEAT))  # noqa: S311 - no secret
                waiting = [asyncio.create_task(_taken_over(reader, run_id)) for run_id in runs]
                await asyncio.sleep(_JOINING)
                os.kill(goes, scene.signal)
                gone = time.perf_counter()
                times += [(await wait - gone) * 1000 for wait in waiting]
                for run_id in runs:
                    await reader.stop(run_id)
    return times


async def _taken_over(reader: Client, run_id: str) -> float:
    return await _first(reader, run_id, lambda event: event.mode == "attempt" and event.data["attempt"] == 2)


async def _first(reader: Client, run_id: str, wanted: Callable[[Event], bool]) -> float:
    """The time at which a reader gets the first such event."""
    async with reader.tail(run_id) as events:
        async for event in events:
            if wanted(event):
                return time.perf_counter()
    raise RuntimeError(f"run {run_id} has ended without it")


# -- stopping ----------------------------------------------------------------------------------------------------------


async def _stops(ground: Ground, count: int) -> list[float]:
    """From the call of `stop` to the end event, in ms."""
    times = []
    async with _worker(ground.redis_url, ground.namespace, {}), client(ground.redis_url, ground.namespace) as reader:
        for _ in range(count):
            run = await reader.enqueue("silent", chat_input(0), stream_mode="custom")
            async with reader.tail(run.run_id) as events:
                async for event in events:
                    if event.mode == "custom":
                        break
                before = time.perf_counter()
                stopping: Awaitable[Any] = asyncio.create_task(reader.stop(run.run_id))
                async for _ in events:
                    ended = time.perf_counter()
                times.append((ended - before) * 1000)
                await stopping
    return times
