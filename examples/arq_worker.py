"""A worker under arq's own command line, with a cron job beside the runs.

cd examples && arq arq_worker.WorkerSettings
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from arq import cron

from runstream import Client, ClientSettings
from runstream.settings import namespace_from_environment, redis_url_from_environment
from runstream_worker.app import arq_options
from runstream_worker.graphs import load_graphs
from runstream_worker.settings import WorkerSettings as RunSettings

settings = RunSettings(
    redis_url=redis_url_from_environment(),
    namespace=namespace_from_environment(),
    concurrency=10,
)


async def open_client(ctx: dict[Any, Any]) -> None:
    """Called when the worker has started."""
    ctx["client"] = Client(settings.redis_url, settings=ClientSettings(namespace=settings.namespace))


async def close_client(ctx: dict[Any, Any]) -> None:
    """Called before the worker ends."""
    await ctx["client"].aclose()


async def enqueue_briefing(ctx: dict[Any, Any]) -> str:
    """Enqueue the day's briefing: under the day's key it is one run, however many workers' clocks strike."""
    today = datetime.now(UTC).date().isoformat()
    question = {"role": "user", "content": f"What happened on a {today} in history?"}
    run = await ctx["client"].enqueue("chat", {"messages": [question]}, idempotency_key=f"briefing-{today}")
    return str(run.run_id)


# arq takes the options of its Worker from the attributes of a class.
WorkerSettings = type(
    "WorkerSettings",
    (),
    arq_options(
        load_graphs(["chat=graphs:chat"]),
        settings,
        cron_jobs=[cron(enqueue_briefing, hour=6, minute=0, run_at_startup=True)],
        on_startup=open_client,
        on_shutdown=close_client,
    ),
)
