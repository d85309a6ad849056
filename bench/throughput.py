"""Tokens per second through one worker process and to a reader in another, beside the graph alone in one process."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from langgraph.pregel import Pregel
from redis.asyncio import Redis

from bench.figure import Ground, Measurement, Target
from bench.graphs import chat, chat_input
from bench.processes import Answers, Remote, start
from bench.roles import KEPT, client, redis_cpu, runners
from runstream import RunSpec
from runstream_worker.collector import tune_collector

_RUNS = 50


class _Shape(NamedTuple):
    runs: int
    tokens: int


class _Through(NamedTuple):
    rate: float
    worker: float
    reader: float
    redis: float


async def throughput(ground: Ground) -> list[Measurement]:
    """50 runs at once; the ways take turns, so that a slower moment of the machine hits both."""
    runs, tokens, repeats = ground.size(_RUNS, 5), ground.size(1000, 50), ground.size(3, 1)
    alone: list[float] = []
    tuned: list[float] = []
    through: list[_Through] = []
    kept: list[_Through] = []
    async with (
        start(_in_process, False) as as_it_is,
        start(_in_process, True) as as_in_a_worker,
        start(runners, ground.redis_url, ground.namespace, runs) as worker,
        start(_reader, ground.redis_url, ground.namespace) as reader,
    ):
        for repeat in range(repeats + 1):
            size = tokens if repeat else tokens // 5
            seconds = await as_it_is.ask("stream", runs, size)
            seconds_tuned = await as_in_a_worker.ask("stream", runs, size)
            shape = _Shape(runs, size)
            measured = await _through(ground, worker, reader, "chat", shape)
            measured_kept = await _through(ground, worker, reader, f"chat{KEPT}", shape)
            if repeat:
                alone.append(runs * size / seconds)
                tuned.append(runs * size / seconds_tuned)
                through.append(measured)
                kept.append(measured_kept)
    ratio = statistics.median(one.rate / other for one, other in zip(through, alone, strict=True))
    ratio_tuned = statistics.median(one.rate / other for one, other in zip(through, tuned, strict=True))
    ratio_kept = statistics.median(one.rate / other for one, other in zip(kept, alone, strict=True))
    middle, middle_kept = _median(through), _median(kept)
    return [
        Measurement("throughput: of what the graph alone does", ratio, "ratio", Target(">=", 0.6)),
        Measurement("throughput: the same, both with the worker's collector settings", ratio_tuned, "ratio"),
        Measurement("throughput: of what the graph alone does, with checkpoints", ratio_kept, "ratio"),
        Measurement("throughput: worker to reader", middle.rate, "tokens/s"),
        Measurement("throughput: worker to reader, with checkpoints", middle_kept.rate, "tokens/s"),
        Measurement("throughput: the graph alone", statistics.median(alone), "tokens/s"),
        Measurement(
            "throughput: the graph alone, with the worker's collector settings", statistics.median(tuned), "tokens/s"
        ),
        Measurement("throughput: worker's CPU", middle.worker, "ms/1000 tokens"),
        Measurement("throughput: reader's CPU", middle.reader, "ms/1000 tokens"),
        Measurement("throughput: Redis's CPU", middle.redis, "ms/1000 tokens"),
    ]


def _median(measured: Sequence[_Through]) -> _Through:
    return _Through(*(statistics.median(values) for values in zip(*measured, strict=True)))


async def _through(ground: Ground, worker: Remote, reader: Remote, graph: str, shape: _Shape) -> _Through:
    runs, tokens = shape
    async with client(ground.redis_url, ground.namespace) as producer, Redis.from_url(ground.redis_url) as redis:
        before = await worker.cpu(), await reader.cpu(), await redis_cpu(redis)
        began = time.monotonic()
        spec = RunSpec(graph, chat_input(tokens), {"stream_mode": "messages"})
        enqueued = await producer.enqueue_many([spec] * runs)
        received = await reader.ask("read", [run.run_id for run in enqueued])
        seconds = time.monotonic() - began
        after = await worker.cpu(), await reader.cpu(), await redis_cpu(redis)
    if received < runs * tokens:
        raise RuntimeError(f"{received} of {runs * tokens} tokens have arrived")
    cpus = [(end - start) * 1e6 / (runs * tokens) for start, end in zip(before, after, strict=True)]
    return _Through(runs * tokens / seconds, *cpus)


@asynccontextmanager
async def _reader(url: str, namespace: str) -> AsyncIterator[Answers]:
    async with client(url, namespace) as consumer:

        async def count(run_id: str) -> int:
            return sum([1 async for event in consumer.tail(run_id) if event.mode == "messages"])

        async def read(run_ids: list[str]) -> int:
            return sum(await asyncio.gather(*(count(run_id) for run_id in run_ids)))

        yield {"read": read}


@asynccontextmanager
async def _in_process(tuned: bool) -> AsyncIterator[Answers]:
    if tuned:
        tune_collector()
    graph = chat()

    async def stream(runs: int, tokens: int) -> float:
        began = time.monotonic()
        counts = await asyncio.gather(*(_count(graph, tokens) for _ in range(runs)))
        if sum(counts) < runs * tokens:
            raise RuntimeError(f"the graph has emitted {sum(counts)} of {runs * tokens} tokens")
        return time.monotonic() - began

    yield {"stream": stream}


async def _count(graph: Pregel[Any, Any, Any, Any], tokens: int) -> int:
    request: Any = chat_input(tokens)
    return sum([1 async for _ in graph.astream(request, stream_mode="messages")])
