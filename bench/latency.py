"""How long a token takes from the model to a reader, under a steady load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.figure import Ground, Measurement, percentile
from bench.graphs import chat_input
from bench.processes import Answers, start
from bench.roles import client, runners
from runstream import RunSpec
from runstream.text import text_of

_PAUSE = 0.02


async def latency(ground: Ground) -> list[Measurement]:
    """100 runs at once, 50 tokens a second each; a token's text is the time at which the model said it."""
    runs, tokens = ground.size(100, 5), ground.size(500, 20)
    async with (
        start(runners, ground.redis_url, ground.namespace, runs),
        start(_reader, ground.redis_url, ground.namespace) as reader,
        client(ground.redis_url, ground.namespace) as producer,
    ):
        spec = RunSpec("chat", chat_input(tokens, _PAUSE), {"stream_mode": "messages"})
        enqueued = await producer.enqueue_many([spec] * runs)
        times = await reader.ask("read", [run.run_id for run in enqueued])
    return [
        Measurement(f"latency: {runs} runs, 50 tokens/s each, p50", percentile(times, 50), "ms"),
        Measurement(f"latency: {runs} runs, 50 tokens/s each, p99", percentile(times, 99), "ms"),
    ]


@asynccontextmanager
async def _reader(url: str, namespace: str) -> AsyncIterator[Answers]:
    async with client(url, namespace) as consumer:

        async def times(run_id: str) -> list[float]:
            measured = [
                (time.time_ns() - int(text)) / 1e6
                async for event in consumer.tail(run_id)
                if (text := text_of(event).strip())
            ]
            # All runs begin and end in the same moment; the steady load lies between.
            tenth = len(measured) // 10
            return measured[tenth:-tenth]

        async def read(run_ids: list[str]) -> list[float]:
            each = await asyncio.gather(*(times(run_id) for run_id in run_ids))
            return [one for measured in each for one in measured]

        yield {"read": read}
