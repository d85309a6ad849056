"""Whether a fleet fills all its slots, and how fast; beside it a fleet of stock arq workers."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from arq import create_pool
from arq.connections import RedisSettings

from bench.figure import Ground, Measurement, Target
from bench.processes import FORKSERVER, Remote, Role, start
from bench.roles import ARQ_OPTIONS, arq_workers, client, runners
from runstream import RunSpec

_SETTLED = 4.0
"""A count that has not risen for so long is final."""


class _Shape(NamedTuple):
    processes: int
    workers: int
    slots: int

    @property
    def total(self) -> int:
        return self.processes * self.workers * self.slots


class _Filling(NamedTuple):
    most: int
    seconds: float


async def fleet(ground: Ground) -> list[Measurement]:
    """40 workers of 25 slots; 1,000 runs, 1,200 runs, and 1,000 jobs of stock arq."""
    shape = _Shape(1, 2, 5) if ground.quick else _Shape(4, 10, 25)
    more = round(shape.total * 1.2)
    exact = await _ours(ground, shape, shape.total)
    excess = await _ours(ground, shape, more)
    stock = await _arq(ground, shape)
    every = Target(">=", shape.total)
    return [
        Measurement(f"fleet: runs at once, {shape.total} enqueued", exact.most, "runs", every),
        Measurement(f"fleet: enqueue to all slots full, {shape.total} enqueued", exact.seconds, "s"),
        Measurement(f"fleet: runs at once, {more} enqueued", excess.most, "runs", every),
        Measurement(f"fleet: enqueue to all slots full, {more} enqueued", excess.seconds, "s"),
        Measurement(f"fleet: stock arq, jobs at once, {shape.total} enqueued", stock.most, "jobs"),
    ]


async def _start_fleet(stack: AsyncExitStack, role: Role, ground: Ground, shape: _Shape, running: Any) -> list[Remote]:
    return [
        await stack.enter_async_context(
            start(role, ground.redis_url, ground.namespace, shape.slots, shape.workers, running)
        )
        for _ in range(shape.processes)
    ]


async def _ours(ground: Ground, shape: _Shape, runs: int) -> _Filling:
    running = FORKSERVER.Value("i", 0)
    async with AsyncExitStack() as stack:
        fleet = await _start_fleet(stack, runners, ground, shape, running)
        producer = await stack.enter_async_context(client(ground.redis_url, ground.namespace))
        began = time.monotonic()
        enqueued = await producer.enqueue_many([RunSpec("held", {}, {}) for _ in range(runs)])
        filling = await _watch(running, shape.total, began, ground)
        for remote in fleet:
            await remote.ask("open")
        await producer.gather(run.run_id for run in enqueued)
    return filling


async def _arq(ground: Ground, shape: _Shape) -> _Filling:
    running = FORKSERVER.Value("i", 0)
    async with AsyncExitStack() as stack:
        fleet = await _start_fleet(stack, arq_workers, ground, shape, running)
        settings = RedisSettings.from_dsn(ground.redis_url)
        pool = await create_pool(settings, default_queue_name=ground.namespace, **ARQ_OPTIONS)
        stack.push_async_callback(pool.aclose)
        began = time.monotonic()
        for _ in range(shape.total):
            await pool.enqueue_job("hold")
        filling = await _watch(running, shape.total, began, ground)
        for remote in fleet:
            await remote.ask("open")
    return filling


async def _watch(running: Any, slots: int, began: float, ground: Ground) -> _Filling:
    """How many were there at once, and when it became so many; no more are waited for once all slots are full."""
    most, since = 0, time.monotonic()
    settled = 1.0 if ground.quick else _SETTLED
    while time.monotonic() - since < settled:
        if running.value > most:
            most, since = running.value, time.monotonic()
        # A full fleet is watched a little longer: more than its slots would be a defect.
        settled = 0.5 if most >= slots else settled
        await asyncio.sleep(0.005)
    return _Filling(most, since - began)
