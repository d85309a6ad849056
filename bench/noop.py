"""How many runs that do nothing go through one worker process in a second."""

from __future__ import annotations

import statistics

from bench.figure import Ground, Measurement
from bench.processes import start
from bench.roles import KEPT, client, runners
from runstream import Client, RunSpec

_AT_ONCE = 200


async def noop(ground: Ground) -> list[Measurement]:
    """All runs wait in the queue before the first is taken; from the start of the first to the end of the last."""
    runs, repeats = ground.size(3000, 50), ground.size(3, 1)
    async with (
        client(ground.redis_url, ground.namespace) as producer,
        start(runners, ground.redis_url, ground.namespace, 25),
    ):
        rates: dict[str, list[float]] = {"noop": [], f"noop{KEPT}": []}
        for graph in rates:
            await _rate(producer, graph, max(runs // 10, 2))
        for _ in range(repeats):
            for graph, measured in rates.items():
                measured.append(await _rate(producer, graph, runs))
    plain, kept = map(statistics.median, rates.values())
    return [
        Measurement("no-op runs, one worker process", plain, "runs/s"),
        Measurement("no-op runs, one worker process, with checkpoints", kept, "runs/s"),
    ]


async def _rate(producer: Client, graph: str, runs: int) -> float:
    # Due in a while, so that the queue is full when the first run starts.
    spec = RunSpec(graph, {}, {"delay": 0.2 + runs / 4000, "stream_mode": "custom"})
    run_ids = [
        run.run_id
        for at in range(0, runs, _AT_ONCE)
        for run in await producer.enqueue_many([spec] * min(_AT_ONCE, runs - at))
    ]
    for run_id in reversed(run_ids):
        await producer.wait(run_id)
    records = [await producer.get(run_id) for run_id in run_ids]
    began = min(record.started_at for record in records if record.started_at is not None)
    ended = max(record.ended_at for record in records if record.ended_at is not None)
    return runs / (ended - began).total_seconds()
