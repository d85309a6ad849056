"""`runstream info`: a run's record; or what is there: Redis, queues, workers."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, cast

from redis.asyncio import Redis

from runstream.cli.exits import Exit
from runstream.cli.render import ago, fields, run_fields, table
from runstream.cli.session import namespace, redis_url
from runstream.cli.terminal import Output
from runstream.client import Client
from runstream.connection import connect
from runstream.eviction import Eviction
from runstream.keys import Keys
from runstream.model import WorkerInfo, from_ms
from runstream.redaction import redact_url

_RUNS_LOOKED_AT = 100


@dataclass(frozen=True)
class Queue:
    """The runs of one graph that nobody has taken yet.

    Attributes:
        graph: its name.
        due: how many wait for a worker.
        later: how many are not due yet.
        workers: how many workers have the graph, without those that are silent.
    """

    graph: str
    due: int
    later: int
    workers: int


async def info(args: argparse.Namespace, client: Client, output: Output) -> int:
    """Show a run's record; without a run, Redis, the queues and the workers."""
    if args.run_id is None:
        return await _overview(args, client, output)
    record, waiting = await client.get(args.run_id), await client.waiting_for(args.run_id)
    if output.pretty:
        _write(output, fields(run_fields(record, waiting, output), output))
    else:
        waits = None if waiting is None else waiting.model_dump(mode="json")
        output.json({**record.model_dump(mode="json"), "waiting_for": waits})
    return Exit.OK


async def _overview(args: argparse.Namespace, client: Client, output: Output) -> int:
    workers = await client.workers()
    recent = await client.runs(limit=_RUNS_LOOKED_AT)
    async with aclosing(connect(redis_url(args), connections=1)) as redis:
        server = await _server(redis)
        seconds, microseconds = await cast("Any", redis.time())
        now = from_ms(seconds * 1000 + microseconds // 1000)
        graphs = {graph for worker in workers for graph in worker.graphs} | {run.graph for run in recent}
        queues = await _queues(redis, Keys(namespace(args)), workers, sorted(graphs), now)
    about = {"url": redact_url(redis_url(args)), "namespace": namespace(args), **server}
    if server["eviction"] != "None" and (warning := Eviction(server["eviction"], int(server["evicted_keys"])).warning):
        output.note(warning)
    if output.pretty:
        _show(output, about, queues, workers, now)
    else:
        output.json(
            {
                "redis": about,
                "queues": [asdict(queue) for queue in queues],
                "workers": [{**worker.model_dump(mode="json"), "silent": worker.is_silent(now)} for worker in workers],
            }
        )
    return Exit.OK


async def _server(redis: Redis) -> dict[str, str]:
    told: Mapping[str, Any] = await cast("Any", redis.info())
    kind = "valkey" if "valkey_version" in told else "redis"
    return {
        "version": f"{kind} {told.get(f'{kind}_version')}",
        "memory": str(told.get("used_memory_human")),
        "clients": str(told.get("connected_clients")),
        "eviction": str(told.get("maxmemory_policy")),
        "evicted_keys": str(told.get("evicted_keys", 0)),
    }


async def _queues(
    redis: Redis, keys: Keys, workers: Iterable[WorkerInfo], graphs: Iterable[str], now: datetime
) -> list[Queue]:
    queues = []
    live = [worker for worker in workers if not worker.is_silent(now)]
    for graph in graphs:
        waiting = int(await cast("Any", redis.zcard(keys.queue(graph))))
        due = int(await cast("Any", redis.zcount(keys.queue(graph), "-inf", now.timestamp() * 1000)))
        queues.append(Queue(graph, due, waiting - due, sum(graph in worker.graphs for worker in live)))
    return queues


def _show(
    output: Output, about: Mapping[str, str], queues: list[Queue], workers: list[WorkerInfo], now: datetime
) -> None:
    _write(output, fields(about, output))
    output.line()
    rows = [[queue.graph, str(queue.due), str(queue.later), str(queue.workers)] for queue in queues]
    _write(output, table(rows, ("GRAPH", "WAITING", "LATER", "WORKERS"), output))
    output.line()
    _write(output, table([_worker_row(worker, now) for worker in workers], _WORKER_HEAD, output))
    for queue in queues:
        if queue.due and not queue.workers:
            output.note(f"runs wait for graph {queue.graph!r}, and no worker has it")


_WORKER_HEAD = ("WORKER", "RUNS", "SLOTS", "BEAT", "UP", "GRAPHS")


def _worker_row(worker: WorkerInfo, now: datetime) -> list[str]:
    silent = ", silent" if worker.is_silent(now) else ""
    beat, started = f"{ago(worker.beat_at, now)}{silent}", ago(worker.started_at, now)
    return [worker.worker_id, str(worker.running), str(worker.concurrency), beat, started, ",".join(worker.graphs)]


def _write(output: Output, lines: Iterable[str]) -> None:
    for line in lines:
        output.line(line)
