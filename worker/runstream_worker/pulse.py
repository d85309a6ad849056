"""The worker's pulse: renews its leases and looks for those of others that have expired, once per beat.

It beats in a thread with an event loop and a connection of its own, so that user code that blocks the worker's loop
does not cost the worker its runs. A loop that stays blocked for longer than a limit does: then somebody else should
have them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping

from redis.asyncio import Redis
from redis.exceptions import RedisError

from runstream.connection import connect
from runstream.keys import Keys
from runstream.scripts import BeatReply, Scripts
from runstream.tasks import cancel
from runstream_worker.settings import WorkerSettings
from runstream_worker.tenure import RUNNING_TTL

WORKER_TTL = 60.0
"""How long a worker's keys live without being renewed, in seconds."""
_REAP_LIMIT = 100
_SHORTEST_PATIENCE = 0.1
_RETRY_AFTER = 0.2
"""The part of the beat interval after which a beat that failed is tried again."""

_logger = logging.getLogger("runstream.worker")


class Pulse:
    """Beats for one worker from `start` to `stop`.

    Args:
        worker_id: the worker.
        settings: its settings.
        runs: called in the thread: the runs it holds, attempt by run id.
        about: what the worker says of itself.
        on_reply: called in the worker's loop with every reply that says something, and what had been asked for.
    """

    def __init__(
        self,
        worker_id: str,
        settings: WorkerSettings,
        *,
        runs: Callable[[], Mapping[str, int]],
        about: Mapping[str, str | int],
        on_reply: Callable[[BeatReply, Mapping[str, int]], None],
    ) -> None:
        self._worker_id = worker_id
        self._settings = settings
        self._runs = runs
        self._about = about
        self._on_reply = on_reply
        self._alive_at = time.monotonic()
        # Who could not beat was perhaps not the only one. The others get as much time to show that they are alive as
        # their leases would have given them, before this worker says that they are not.
        self._judges_from: float | None = 0.0
        self._running = threading.Event()
        self._own_loop: asyncio.AbstractEventLoop | None = None
        self._quit: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._main, name="runstream-pulse", daemon=True)
        self._watched: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Start beating, for the worker whose loop is running."""
        self._loop = asyncio.get_running_loop()
        self._watched = asyncio.create_task(self._show_life(), name="runstream-alive")
        self._thread.start()

    async def stop(self) -> None:
        """Stop beating and sign the worker off."""
        await cancel([self._watched])
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        self._running.wait()
        if self._own_loop is not None and self._quit is not None:
            # The thread may have ended by itself, and its loop with it.
            with contextlib.suppress(RuntimeError):
                self._own_loop.call_soon_threadsafe(self._quit.set)
        self._thread.join()

    async def _show_life(self) -> None:
        while True:
            self._alive_at = time.monotonic()
            await asyncio.sleep(self._settings.beat_interval / 2)

    def _main(self) -> None:
        asyncio.run(self._beat_until_quit())

    async def _beat_until_quit(self) -> None:
        quit_ = self._quit = asyncio.Event()
        self._own_loop = asyncio.get_running_loop()
        self._running.set()
        # A connection that has gone dead without a word must be noticed, and another one made, within the lease.
        patience = max((self._settings.lease - self._settings.beat_interval) / 2, _SHORTEST_PATIENCE)
        redis = connect(self._settings.redis_url, connections=1, answer_within=patience)
        keys = Keys(self._settings.namespace)
        scripts = Scripts(redis, keys)
        try:
            while not quit_.is_set():
                began = time.monotonic()
                interval = self._settings.beat_interval
                try:
                    await self._beat(scripts)
                except Exception as error:  # noqa: BLE001 - whatever it is, the next beat is tried
                    interval *= _RETRY_AFTER
                    if self._judges_from is not None:
                        _logger.warning("cannot renew leases, trying again: %s: %s", type(error).__name__, error)
                    self._judges_from = None
                else:
                    await self._look_after_others(scripts)
                rest = interval - (time.monotonic() - began)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(quit_.wait(), max(rest, 0.01))
            await self._sign_off(redis, keys)
        finally:
            await redis.aclose()

    async def _beat(self, scripts: Scripts) -> None:
        lease = round(self._settings.lease * 1000)
        stalled_for = time.monotonic() - self._alive_at
        runs = self._runs() if stalled_for < self._settings.stall_limit else {}
        if stalled_for >= self._settings.stall_limit:
            _logger.error("the event loop has been blocked for %.0f s: this worker gives up its runs", stalled_for)
        reply = await scripts.beat(
            self._worker_id,
            runs,
            lease=lease,
            worker_ttl=round(WORKER_TTL * 1000),
            running_ttl=round(RUNNING_TTL * 1000),
            about={**self._about, "running": len(runs)},
        )
        if (reply.lost or reply.stop) and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_reply, reply, runs)

    async def _look_after_others(self, scripts: Scripts) -> None:
        if self._judges_from is None:
            _logger.info("renewing leases again")
            self._judges_from = time.monotonic() + self._settings.lease
        if time.monotonic() < self._judges_from:
            return
        try:
            reaped = await scripts.reap(limit=_REAP_LIMIT, lease=round(self._settings.lease * 1000))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again after the next beat
            _logger.warning("cannot look after the runs of others: %s: %s", type(error).__name__, error)
            return
        for run_id in reaped.queued:
            _logger.warning("run %s waits for its next attempt: its worker has stopped renewing its lease", run_id)
        for run_id in reaped.ended:
            _logger.warning("run %s has ended, as no worker has it any more", run_id)
        for run_id, reason in reaped.broken.items():
            _logger.error("run %s is not looked after, and its end cannot be written: %s", run_id, reason)

    async def _sign_off(self, redis: Redis, keys: Keys) -> None:
        try:
            await _forget(redis, keys, self._worker_id)
        except (RedisError, OSError) as error:
            _logger.warning("cannot sign off, the worker's keys will expire: %s: %s", type(error).__name__, error)


async def _forget(redis: Redis, keys: Keys, worker_id: str) -> None:
    pipe = redis.pipeline(transaction=True)
    pipe.zrem(keys.workers, worker_id)
    pipe.delete(keys.worker(worker_id), keys.held(worker_id), keys.worker_bell(worker_id))
    await pipe.execute()
