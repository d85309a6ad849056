"""The worker as an arq worker: the only file that imports arq.

arq gives the process its shape: start-up and shutdown, signals, cron jobs, other functions, the health check. Runs do
not go through arq's own claim, which has the limits told in `docs/PROTOCOL.md`; the `Runner`, started and drained by
arq's hooks, takes them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from signal import Signals
from typing import Any

from arq.connections import ArqRedis
from arq.cron import CronJob
from arq.typing import StartupShutdown, WorkerCoroutine
from arq.worker import Function, Worker, func
from redis.exceptions import RedisError

from runstream.connection import connect
from runstream.faults import AWAY, is_passing
from runstream.keys import Keys
from runstream.tasks import cancel
from runstream_worker.containment import contain_exits, leave_for_sure
from runstream_worker.graphs import GraphSource
from runstream_worker.runner import Runner, open_runner
from runstream_worker.settings import WorkerSettings
from runstream_worker.signals import NUMBERS, signals_to

_HEALTH_INTERVAL = 10
_LAST_PATIENCE = 5.0
"""Seconds that a worker has to leave in, beside the grace times of its runs."""

_logger = logging.getLogger("runstream.worker")


def json_serializer(value: Mapping[str, Any]) -> bytes:
    """Arq's jobs and results as JSON, where arq's default is pickle. An exception becomes its type and message."""
    return json.dumps(value, default=_exception).encode()


def json_deserializer(data: bytes) -> dict[str, Any]:
    """The reverse of `json_serializer`."""
    value: dict[str, Any] = json.loads(data)
    return value


def _exception(value: object) -> dict[str, str]:
    if isinstance(value, BaseException):
        return {"error": type(value).__name__, "message": str(value)}
    raise TypeError(f"a job's argument or result is not JSON: {type(value).__name__}")


def arq_options(
    graphs: Mapping[str, GraphSource],
    settings: WorkerSettings,
    *,
    functions: Sequence[Function | WorkerCoroutine] = (),
    cron_jobs: Sequence[CronJob] = (),
    on_startup: StartupShutdown | None = None,
    on_shutdown: StartupShutdown | None = None,
) -> dict[str, Any]:
    """The keyword arguments of an `arq.Worker` that executes runs; also the attributes of a `WorkerSettings` class.

    Args:
        graphs: what it can run, by name.
        settings: how it behaves.
        functions: more functions, for jobs enqueued with arq in the queue `Keys.jobs`.
        cron_jobs: arq's cron jobs.
        on_startup: called with arq's context once runs are being taken; `ctx["runner"]` is the `Runner`.
        on_shutdown: called with arq's context before the runs are drained.
    """
    stack = AsyncExitStack()

    async def start(ctx: dict[Any, Any]) -> None:
        ctx["runner"] = await stack.enter_async_context(open_runner(graphs, settings))
        if on_startup is not None:
            await on_startup(ctx)

    async def shut_down(ctx: dict[Any, Any]) -> None:
        if on_shutdown is not None:
            await on_shutdown(ctx)
        await stack.aclose()

    pool = connect(settings.redis_url, connections=2).connection_pool
    jobs = Keys(settings.namespace).jobs
    return {
        "functions": [func(_refuse, name="run"), *functions],
        "cron_jobs": list(cron_jobs),
        "redis_pool": ArqRedis(pool, json_serializer, json_deserializer, jobs),
        "queue_name": jobs,
        "on_startup": start,
        "on_shutdown": shut_down,
        "health_check_interval": _HEALTH_INTERVAL,
        "job_serializer": json_serializer,
        "job_deserializer": json_deserializer,
    }


async def _refuse(ctx: Mapping[Any, Any], run_id: str) -> None:  # noqa: ARG001 - as arq calls it
    """Stands for `run` in arq's own queue, where no run belongs: runs wait in the queue of their graph."""
    raise RuntimeError(f"run {run_id} was put into arq's own queue; enqueue runs with runstream.Client.enqueue")


async def serve(graphs: Mapping[str, GraphSource], settings: WorkerSettings, **options: Any) -> None:
    """Work until SIGINT or SIGTERM, then drain; `options` are those of `arq_options`.

    A second signal cuts the running runs off at once, for another worker to go on with. A third gives up waiting for
    what does not end, such as a write to a Redis that has gone away. Where a graph blocks the event loop, the second
    signal ends the process, and so does the first when the time to leave is over (`signals_to`).
    """
    worker = _PatientWorker(**arq_options(graphs, settings, **options))
    worker.on_stop = _Signals(worker).heard
    patience = settings.shutdown_grace + settings.cancel_grace + _LAST_PATIENCE
    with signals_to(worker.handle_sig, patience=patience):
        try:
            await worker.async_run()
        except asyncio.CancelledError:
            # What arq's signal handler leaves behind; a cancellation of this task itself goes on up.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        finally:
            await _close(worker)


async def serve_process(graphs: Mapping[str, GraphSource], settings: WorkerSettings, **options: Any) -> None:
    """`serve`, for a process that does nothing else: no graph can end it, and none can keep it from ending."""
    contain_exits(asyncio.get_running_loop())
    try:
        await serve(graphs, settings, **options)
    finally:
        for number in NUMBERS:
            signal.signal(number, signal.SIG_IGN)  # It is leaving.
        await leave_for_sure(0)


class _PatientWorker(Worker):
    """Outlives a Redis that is away for a while, which arq does not: its runs have been waiting for it, too."""

    _is_away = False

    async def _poll_iteration(self) -> None:
        try:
            await super()._poll_iteration()
        except (RedisError, OSError) as error:
            if not is_passing(error):
                raise
            if not self._is_away:
                _logger.warning("cannot poll arq's own queue, trying again: %s: %s", type(error).__name__, error)
            self._is_away = True
        else:
            self._is_away = False


class _Signals:
    """What signals do besides what arq does, which is to cancel its main task once."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._serving = asyncio.current_task()
        self._count = 0
        self._ending: asyncio.Task[None] | None = None

    def heard(self, _: Signals) -> None:
        """Take a signal; called by arq."""
        self._count += 1
        runner: Runner | None = self._worker.ctx.get("runner")
        if self._ending is None and self._worker.main_task is not None:
            self._ending = asyncio.create_task(cancel([self._worker.main_task]), name="runstream-end")
        if self._count == 2 and runner is not None:
            _logger.info("told again to leave: cutting the running runs off now")
            runner.hurry()
        elif self._count > 2 and self._serving is not None:
            _logger.warning("told a third time to leave: giving up what does not end")
            self._serving.cancel()


async def _close(worker: Worker) -> None:
    try:
        await worker.close()
    except AWAY as error:
        # arq begins by taking its health check out of Redis, and goes no further when that is away.
        _logger.warning("Redis is away while this worker leaves: %s: %s", type(error).__name__, error)
        if worker.on_shutdown is not None:
            await worker.on_shutdown(worker.ctx)


__all__ = ["Runner", "arq_options", "json_deserializer", "json_serializer", "serve", "serve_process"]
