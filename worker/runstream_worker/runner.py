"""The worker: claims due runs while it has free slots, executes them, and lets them end when it is asked to leave.

Three loops, each with one thing to wait for: the claim waits for the bell of its graphs, the stops wait for the
worker's own bell, the outbox waits for events. The pulse beats beside them, in its thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from runstream import __version__
from runstream.connection import connect
from runstream.eviction import read_eviction
from runstream.keys import Keys, join_names
from runstream.model import Status, StopAction
from runstream.records import Records
from runstream.scripts import BeatReply, Claimed, Scripts
from runstream.tasks import cancel
from runstream_worker.attempt import Attempt
from runstream_worker.checkpoints import open_checkpointer
from runstream_worker.execution import Means
from runstream_worker.graphs import GraphSource
from runstream_worker.guard import Cause
from runstream_worker.loopback import install, to_gateway_of_environment
from runstream_worker.outbox import Outbox
from runstream_worker.outcome import GivenBack, Outcome
from runstream_worker.pulse import Pulse
from runstream_worker.settings import WorkerSettings
from runstream_worker.tenure import RUNNING_TTL
from runstream_worker.unloaded import Orphans, loaded

_CLAIM_AT_ONCE = 4
"""Small, so that a burst spreads over the workers that are idle: each takes some and rings for the next."""
_SHORTEST_WAIT = 0.005
_USED_NUMBERS_KEPT = 10_000
_STOP_WAIT = 5.0
_ANSWER_WITHIN = 5.0
"""For connections on which nothing blocks, in seconds."""
_RETRY_DELAY = 0.1
_RETRY_DELAY_MAX = 1.0

_logger = logging.getLogger("runstream.worker")


def new_worker_id() -> str:
    """A name that tells an operator where to look: host, process, and a few letters that make it unique."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


class Runner:
    """Executes runs; `open_runner` makes one that is at work."""

    def __init__(self, worker_id: str, bells: Redis, stops: Redis, means: Means, orphans: Orphans) -> None:
        self.worker_id = worker_id
        self._orphans = orphans
        self._graphs = loaded(means.graphs)
        self._stops = stops
        self._bells = bells
        self._means = means
        self._keys = Keys(means.settings.namespace)
        self._attempts: dict[str, tuple[Attempt, asyncio.Task[None]]] = {}
        self._replaced: set[asyncio.Task[None]] = set()
        self._looking: dict[Attempt, asyncio.Task[None]] = {}
        # The highest number under which this worker has executed each of the last runs.
        self._used: OrderedDict[str, int] = OrderedDict()
        self._freed = asyncio.Event()
        self._leaving = asyncio.Event()
        self._claiming: asyncio.Task[None] | None = None
        self._lost_reply = False
        # Runs that could not be ended. They stay known until their leases have done it: were they taken for runs of a
        # lost reply, they would be executed again.
        self._given_up: set[str] = set()
        self.ended = 0

    @property
    def running(self) -> Mapping[str, int]:
        """The runs that are being executed: attempt by run id. Safe to call from another thread."""
        return {run_id: attempt.number for run_id, (attempt, _) in list(self._attempts.items())}

    @property
    def is_leaving(self) -> bool:
        """Whether it takes no more runs."""
        return self._leaving.is_set()

    def start_claiming(self) -> None:
        """Begin to take runs."""
        self._claiming = asyncio.create_task(outlive(self._claim_for_ever), name="runstream-claim")

    async def drain(self, grace: float) -> None:
        """Take no more runs; give those that are running back where the next attempt can go on.

        Graphs that keep checkpoints stop at the end of the step that runs. Steps that take longer than the grace time,
        and runs that cannot be given back, are cut off then.
        """
        self._leaving.set()
        if self._claiming is not None:
            # Not cancelled: a claim whose reply nobody hears would leave its runs to expire.
            await self._claiming
            await self._take_what_was_missed()
        for attempt, _ in self._attempts.values():
            attempt.drain()
        if self._attempts:
            _logger.info("waiting up to %g s for %d running runs", grace, len(self._attempts))
            await asyncio.wait({task for _, task in self._attempts.values()}, timeout=grace)
        self.hurry()
        if left := self._replaced.union(task for _, task in self._attempts.values()):
            await asyncio.wait(left)

    def hurry(self) -> None:
        """Cut the running runs off and give them back now; a `drain` that gives them time is cut short by it."""
        for attempt, _ in self._attempts.values():
            attempt.guard.end(Cause.DRAIN, "the worker was shut down before the run had ended")

    def on_beat(self, reply: BeatReply, asked_for: Mapping[str, int]) -> None:
        """Take what a beat learned of the runs; `asked_for` are those that it was for: attempt by run id."""
        for run_id in reply.lost:
            # Meanwhile this worker may have claimed the next attempt.
            if self.running.get(run_id) == asked_for[run_id]:
                self._look(self._attempts[run_id][0])
        for run_id, wish in reply.stop.items():
            self._stop(run_id, wish.reason, wish.action)

    async def hear_stops(self) -> None:
        """Wait for this worker's own bell, which tells it to stop a run, until cancelled."""
        bell = self._keys.worker_bell(self.worker_id)
        while True:
            with contextlib.suppress(RedisError, OSError):
                stroke = await cast("Any", self._stops).blpop([bell], timeout=_STOP_WAIT)
                if stroke is not None:
                    run_key = stroke[1].decode("utf-8", "replace")
                    reason, action = await cast("Any", self._stops).hmget(run_key, "stop", "stop_action")
                    told = (reason or b"").decode("utf-8", "replace")
                    self._stop(self._keys.run_id(run_key), told, "rollback" if action == b"rollback" else "interrupt")
                continue
            # A stroke that is missed while Redis is away is made up for by the next beat.
            await asyncio.sleep(_RETRY_DELAY)

    def _end(self, run_id: str, cause: Cause, detail: str = "") -> None:
        if run_id in self._attempts:
            self._attempts[run_id][0].guard.end(cause, detail)

    def _look(self, attempt: Attempt) -> None:
        """Have an attempt find out whether it still holds its run, unless it is at it."""
        if attempt not in self._looking:
            task = self._looking[attempt] = asyncio.create_task(attempt.look(), name=f"look-{attempt.run_id}")
            task.add_done_callback(lambda _: self._looking.pop(attempt))

    def _has_room(self) -> bool:
        return not self.is_leaving and len(self._attempts) < self._means.settings.concurrency

    def _stop(self, run_id: str, reason: str, action: StopAction) -> None:
        self._end(run_id, Cause.ROLLBACK if action == "rollback" else Cause.STOP, reason)

    async def _claim_for_ever(self) -> None:
        delay = _RETRY_DELAY
        while not self._leaving.is_set():
            try:
                await self._claim_and_wait()
                delay = _RETRY_DELAY
            except (RedisError, OSError) as error:
                if delay == _RETRY_DELAY:
                    _logger.warning("cannot claim runs, trying again: %s: %s", type(error).__name__, error)
                await self._unless_leaving(asyncio.sleep(delay))
                delay = min(delay * 2, _RETRY_DELAY_MAX)

    async def _claim_and_wait(self) -> None:
        """Claim once; where nothing more is due, wait for a bell. Where no slot is free, wait for one."""
        self._graphs = [*loaded(self._means.graphs), *await self._orphans.names()]
        free = self._means.settings.concurrency - len(self._attempts)
        if free <= 0:
            self._freed.clear()
            await self._unless_leaving(self._freed.wait())
            return
        next_due = await self._claim(min(free, _CLAIM_AT_ONCE))
        # Who has no slot left does not listen: the stroke would be missing to one that has.
        if next_due == 0 or len(self._attempts) >= self._means.settings.concurrency:
            return
        poll = self._means.settings.poll_interval
        wait = poll if next_due < 0 else min(next_due, poll)
        bells = [self._keys.bell(graph) for graph in self._graphs]
        await self._unless_leaving(cast("Any", self._bells).blpop(bells, timeout=max(wait, _SHORTEST_WAIT)))

    async def _claim(self, limit: int) -> float:
        """Claim and start runs; the seconds until the next is due, as `ClaimReply` tells it."""
        known = [*self._attempts, *self._given_up] if self._lost_reply else None
        self._lost_reply = True  # until it is here
        reply = await self._means.scripts.claim(
            self.worker_id,
            self._graphs,
            limit=limit,
            lease=round(self._means.settings.lease * 1000),
            running_ttl=round(RUNNING_TTL * 1000),
            known=known,
        )
        self._lost_reply = False
        for member in reply.dropped:
            _logger.warning("dropped %r from the queue: it is no queued run", member)
        for claimed in reply.claimed:
            self._start(claimed)
        return reply.next_due

    async def _take_what_was_missed(self) -> None:
        """Where the reply to the last claim was lost, ask once more what it was, without taking anything new."""
        try:
            if self._lost_reply:
                await self._claim(0)
        except (RedisError, OSError) as error:
            _logger.warning("cannot ask for what the last claim took: %s: %s", type(error).__name__, error)

    async def _unless_leaving(self, waiting: Coroutine[Any, Any, Any]) -> None:
        """Wait, but no longer than until the worker is asked to leave."""
        wait, leave = asyncio.ensure_future(waiting), asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait({wait, leave}, return_when=asyncio.FIRST_COMPLETED)
            if wait.done():
                wait.result()
        finally:
            await cancel([wait, leave])

    def _start(self, claimed: Claimed) -> None:
        self._given_up.discard(claimed.run_id)
        used = self._used.get(claimed.run_id, 0)
        if claimed.run_id in self._attempts:
            # A Redis that has lost its last writes may hand out again what this worker executes.
            earlier, ending = self._attempts[claimed.run_id]
            if earlier.is_again(claimed):
                self._look(earlier)
                return
            earlier.guard.end(Cause.LOST)
            self._replaced.add(ending)
            ending.add_done_callback(self._replaced.discard)
        attempt = Attempt(claimed, self._means, has_room=self._has_room, used=used)
        self._used[claimed.run_id] = max(used, claimed.attempt)
        self._used.move_to_end(claimed.run_id)
        if len(self._used) > _USED_NUMBERS_KEPT:
            self._used.popitem(last=False)
        task = asyncio.create_task(self._run(attempt), name=f"attempt-{attempt.run_id}")
        self._attempts[attempt.run_id] = (attempt, task)

    async def _run(self, attempt: Attempt) -> None:
        began = time.monotonic()
        _logger.info("run %s: attempt %d begins", attempt.run_id, attempt.number)
        try:
            outcome = await attempt.run()
        except Exception:
            # A defect of ours, or a Redis that refuses for good: the run's lease expires, the worker goes on.
            self._given_up.add(attempt.run_id)
            _logger.exception("run %s: attempt %d could not be ended", attempt.run_id, attempt.number)
        else:
            level = logging.WARNING if isinstance(outcome, Outcome) and outcome.status is Status.LOST else logging.INFO
            _logger.log(level, "run %s: %s after %.2f s", attempt.run_id, _told(outcome), time.monotonic() - began)
        finally:
            # This worker may have the next attempt of the same run already.
            current = self._attempts.get(attempt.run_id)
            if current is not None and current[0] is attempt:
                del self._attempts[attempt.run_id]
            self.ended += 1
            self._freed.set()


def _told(outcome: Outcome | GivenBack | None) -> str:
    match outcome:
        case None:
            return "taken from this worker"
        case GivenBack(cause, message):
            return f"given back ({cause}: {message})"
        case Outcome(status, error):
            return status if error is None else f"{status} ({error.type}: {error.message})"


async def outlive(loop: Callable[[], Awaitable[None]]) -> None:
    """Run one of the worker's loops; begin it again after an error that it does not know, which is a defect."""
    while True:
        try:
            return await loop()
        except Exception:
            _logger.exception("a loop of the worker failed and begins again")
            await asyncio.sleep(_RETRY_DELAY_MAX)


@asynccontextmanager
async def open_runner(graphs: Mapping[str, GraphSource], settings: WorkerSettings) -> AsyncIterator[Runner]:
    """A worker at work, from here to the end of the block; there it drains for `settings.shutdown_grace`.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
        InvalidRequest: a URL is none that is understood.
    """
    install(to_gateway_of_environment, replace=False)
    keys = Keys(settings.namespace)
    async with AsyncExitStack() as stack:
        calls = await _connected(stack, settings.redis_url, connections=2, answer_within=_ANSWER_WITHIN)
        # Nothing blocks for longer than this; a connection that has gone dead without a word is given up then.
        longest = {"bells": settings.poll_interval + _ANSWER_WITHIN, "stops": _STOP_WAIT + _ANSWER_WITHIN}
        bells = await _connected(stack, settings.redis_url, connections=1, answer_within=longest["bells"])
        stops = await _connected(stack, settings.redis_url, connections=1, answer_within=longest["stops"])
        sending = await _connected(stack, settings.redis_url, connections=1, answer_within=_ANSWER_WITHIN)
        await cast("Any", calls.ping())
        eviction = await read_eviction(calls)
        if eviction is not None and eviction.warning is not None:
            _logger.warning("%s", eviction.warning)
        checkpointer = await stack.enter_async_context(
            open_checkpointer(
                settings.checkpointer_url or "redis",
                runs_url=settings.redis_url,
                namespace=settings.namespace,
                ttl=settings.checkpoint_ttl,
                own_thread_ttl=settings.own_thread_ttl,
                patience=settings.checkpoint_patience,
                classes=settings.checkpoint_classes,
            )
        )
        outbox = Outbox(Scripts(sending, keys), byte_limit=settings.max_stream_bytes)
        worker_id = new_worker_id()
        means = Means(worker_id, graphs, checkpointer, Scripts(calls, keys), outbox, settings)
        orphans = Orphans(graphs, Records(calls, keys, _once), every=settings.poll_interval)
        runner = Runner(worker_id, bells, stops, means, orphans)
        pulse = Pulse(
            runner.worker_id,
            settings,
            runs=lambda: runner.running,
            about=_about(loaded(graphs), settings),
            on_reply=runner.on_beat,
        )
        loops = [asyncio.create_task(outlive(loop)) for loop in (outbox.run, runner.hear_stops)]
        stack.push_async_callback(cancel, loops)
        pulse.start()
        stack.push_async_callback(pulse.stop)
        runner.start_claiming()
        try:
            yield runner
        finally:
            await runner.drain(settings.shutdown_grace)


async def _once(call: Callable[[], Awaitable[Any]]) -> Any:
    """Make a call to Redis; the claim loop, which needs it, tries again."""
    return await call()


async def _connected(stack: AsyncExitStack, url: str, *, connections: int, answer_within: float) -> Redis:
    redis = connect(url, connections=connections, answer_within=answer_within)
    stack.push_async_callback(redis.aclose)
    return redis


def _about(graphs: Sequence[str], settings: WorkerSettings) -> dict[str, str | int]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "graphs": join_names(graphs),
        "concurrency": settings.concurrency,
        "version": __version__,
        "started_at": time.time_ns() // 1_000_000,
    }
