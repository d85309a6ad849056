"""An enqueued run is a valid arq job in a valid arq queue: a stock worker with a JSON codec picks it up."""

from __future__ import annotations

from typing import Any

from arq.connections import ArqRedis
from arq.jobs import Job
from arq.worker import Worker, func

from runstream import Client
from runstream.connection import connect
from runstream.keys import Keys
from runstream_worker.app import json_deserializer, json_serializer


async def test_a_stock_arq_worker_takes_an_enqueued_run(client: Client, redis_url: str, namespace: str) -> None:
    run = await client.enqueue("agent", {"n": 1})
    seen: list[Any] = []

    async def record(ctx: dict[Any, Any], run_id: str) -> None:
        seen.append((run_id, ctx["job_id"]))

    keys = Keys(namespace)
    pool = ArqRedis(connect(redis_url, connections=4).connection_pool, json_serializer, json_deserializer)
    job = Job(keys.run(run.run_id), pool, keys.queue("agent"), json_deserializer)
    definition = await job.info()
    assert definition is not None
    assert (definition.function, list(definition.args), definition.kwargs) == ("run", [run.run_id], {})
    info = await client.get(run.run_id)
    assert abs((definition.enqueue_time - info.created_at).total_seconds()) < 0.001

    worker = Worker(
        [func(record, name="run")],
        queue_name=keys.queue("agent"),
        redis_pool=pool,
        burst=True,
        handle_signals=False,
        poll_delay=0.01,
        keep_result=0,
        job_serializer=json_serializer,
        job_deserializer=json_deserializer,
    )
    await worker.async_run()
    await worker.close()
    assert seen == [(run.run_id, keys.run(run.run_id))]
