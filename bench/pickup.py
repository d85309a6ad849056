"""How long an idle worker takes from the enqueue to the start of the graph's node."""

from __future__ import annotations

import asyncio
import random
import time

from arq import create_pool
from arq.connections import RedisSettings

from bench.figure import Ground, Measurement, Target, percentile
from bench.processes import start
from bench.roles import ARQ_OPTIONS, KEPT, arq_workers, client, runners

_WARM_UP = 5


async def pickup(ground: Ground) -> list[Measurement]:
    """One run after the other, at odd times; stock arq beside it."""
    ours = await _ours(ground, "clock", ground.size(200, 10))
    kept = await _ours(ground, f"clock{KEPT}", ground.size(200, 10))
    stock = await _arq(ground, ground.size(60, 3))
    return [
        Measurement("pick-up: enqueue to start, p50", percentile(ours, 50), "ms", Target("<=", 5)),
        Measurement("pick-up: enqueue to start, p99", percentile(ours, 99), "ms"),
        Measurement("pick-up: with checkpoints, p50", percentile(kept, 50), "ms"),
        Measurement("pick-up: with checkpoints, p99", percentile(kept, 99), "ms"),
        Measurement("pick-up: stock arq, p50", percentile(stock, 50), "ms"),
        Measurement("pick-up: stock arq, p99", percentile(stock, 99), "ms"),
    ]


async def _ours(ground: Ground, graph: str, count: int) -> list[float]:
    times: list[float] = []
    async with (
        start(runners, ground.redis_url, ground.namespace, 25),
        client(ground.redis_url, ground.namespace) as producer,
    ):
        for _ in range(count + _WARM_UP):
            await asyncio.sleep(random.uniform(0, 0.05))  # noqa: S311 - no secret
            before = time.time_ns()
            run = await producer.enqueue(graph, {}, stream_mode="custom")
            times += [
                (event.data - before) / 1e6 async for event in producer.tail(run.run_id) if event.mode == "custom"
            ]
    return times[_WARM_UP:]


async def _arq(ground: Ground, count: int) -> list[float]:
    times = []
    settings = RedisSettings.from_dsn(ground.redis_url)
    async with (
        start(arq_workers, ground.redis_url, ground.namespace, 25),
        await create_pool(settings, default_queue_name=ground.namespace, **ARQ_OPTIONS) as pool,
    ):
        for _ in range(count + 1):
            # arq polls every 0.5 s: at odd times, or every job would just have missed a poll.
            await asyncio.sleep(random.uniform(0, 0.5))  # noqa: S311 - no secret
            before = time.time_ns()
            job = await pool.enqueue_job("tell_time")
            if job is None:
                raise RuntimeError("arq refused a job")
            times.append((await job.result(poll_delay=0.02) - before) / 1e6)
    return times[1:]
