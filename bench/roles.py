"""The roles that processes play in more than one measurement."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psutil
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func
from langgraph.pregel import Pregel
from redis.asyncio import Redis

from bench.graphs import Checkpointer, Gate, chat, clock, held, noop
from bench.processes import Answers
from runstream import Client, ClientSettings
from runstream_gateway.project import Project
from runstream_gateway.server import serve
from runstream_gateway.settings import GatewaySettings
from runstream_worker.collector import tune_collector
from runstream_worker.graphs import graph_source
from runstream_worker.runner import open_runner
from runstream_worker.settings import WorkerSettings

GRAPHS: Mapping[str, Callable[[Checkpointer], Pregel[Any, Any, Any, Any]]] = {
    "chat": chat,
    "clock": clock,
    "noop": noop,
}
KEPT = "-kept"
"""At the end of a graph's name: the same with checkpoints, in the Redis of the runs, as a worker has it by default."""
ARQ_OPTIONS: Mapping[str, Any] = {
    "job_serializer": lambda value: json.dumps(value).encode(),
    "job_deserializer": json.loads,
}


def client(url: str, namespace: str, **settings: Any) -> Client:
    """A client of one figure's namespace."""
    return Client(url, settings=ClientSettings(namespace=namespace, **settings))


@asynccontextmanager
async def runners(
    url: str, namespace: str, concurrency: int, count: int = 1, running: Any = None
) -> AsyncIterator[Answers]:
    """A process with one worker or several, that have every graph of the benchmarks."""
    tune_collector()
    logging.getLogger("runstream").setLevel(logging.ERROR)
    gate = Gate(running)
    graphs = {name: make(False) for name, make in GRAPHS.items()}
    graphs |= {f"{name}{KEPT}": make(None) for name, make in GRAPHS.items()}
    graphs["held"] = held(gate)
    sources = {name: graph_source(name, graph) for name, graph in graphs.items()}
    settings = WorkerSettings(redis_url=url, namespace=namespace, concurrency=concurrency, shutdown_grace=5.0)
    async with AsyncExitStack() as stack:
        for _ in range(count):
            await stack.enter_async_context(open_runner(sources, settings))
        yield {"open": gate.open}


@asynccontextmanager
async def arq_workers(
    url: str, queue: str, concurrency: int, count: int = 1, running: Any = None
) -> AsyncIterator[Answers]:
    """A process with one stock arq worker or several."""
    gate = Gate(running)

    async def hold(ctx: Mapping[str, Any]) -> None:  # noqa: ARG001 - as arq calls it
        await gate.pass_through()

    async def tell_time(ctx: Mapping[str, Any]) -> int:  # noqa: ARG001 - as arq calls it
        return time.time_ns()

    async with AsyncExitStack() as stack:
        for _ in range(count):
            pool = await create_pool(RedisSettings.from_dsn(url), default_queue_name=queue, **ARQ_OPTIONS)
            worker = Worker(
                [func(hold, name="hold"), func(tell_time, name="tell_time")],
                redis_pool=pool,
                queue_name=queue,
                max_jobs=concurrency,
                handle_signals=False,
                **ARQ_OPTIONS,
            )
            stack.push_async_callback(pool.aclose)
            stack.push_async_callback(_leave, worker, asyncio.create_task(worker.async_run()))
        yield {"open": gate.open}


async def _leave(worker: Worker, task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, *worker.tasks.values(), return_exceptions=True)


@asynccontextmanager
async def gateway(url: str, namespace: str) -> AsyncIterator[Answers]:
    """A process with one gateway in front of the graph `chat`, with its defaults."""
    tune_collector()
    logging.getLogger("runstream").setLevel(logging.ERROR)
    sources = {"chat": graph_source("chat", chat(None))}
    settings = GatewaySettings(redis_url=url, namespace=namespace)
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve(sources, settings, Project(), host="127.0.0.1", port=0, on_ready=ready.set_result)
    )
    await asyncio.wait([ready, serving], return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        await serving

    async def url_of() -> str:
        return await ready

    async def memory() -> float:
        return float(psutil.Process().memory_info().rss)

    try:
        yield {"url": url_of, "memory": memory}
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def redis_cpu(redis: Redis) -> float:
    """The seconds of processor time that the server has used so far."""
    info: Any = await redis.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
