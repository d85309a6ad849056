"""How much a caller may do. What is counted is counted in Redis, for all gateways together.

Counting in each process would be cheaper by a round trip, and wrong: with N gateways a caller had N times as much, and
it would be for the load balancer to say how much that is. A caller without limits costs nothing.

Open streams are leases. A gateway renews its own, all of a caller's in one call; those of a gateway that has died lapse
within half a minute. Runs are not leased: they go on without any gateway, so they count until their own end.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import secrets
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

from redis.exceptions import RedisError

from runstream.quotas import Quotas
from runstream.settings import check_number
from runstream.tasks import cancel
from runstream_gateway.auth.caller import Caller
from runstream_gateway.errors import ApiError

_log = logging.getLogger(__name__)
_STREAMS = "streams"
_LEASE = 30.0
_RETRY_STREAM = 5
_RETRY_RUN = 1


class Limiter:
    """Holds callers to their limits; an async context manager.

    Over a limit is 429 with `Retry-After`; a body that is too large is 413, for it will not be smaller later.

    Args:
        quotas: count.
        lease: for how many seconds a stream counts of which nothing is heard any more.
    """

    def __init__(self, quotas: Quotas, *, lease: float = _LEASE) -> None:
        self._quotas = quotas
        self._lease = lease
        self._gateway = secrets.token_hex(4)
        self._next = 0
        self._open: dict[str, set[str]] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._releasing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give back what is held. Streams that are open still are not touched, but they count no more."""
        if self._renewing is not None:
            await cancel([self._renewing])
            self._renewing = None
        for subject, names in self._open.items():
            self._in_background(self._give_back(subject, list(names)))
        self._open.clear()
        while self._releasing:
            await asyncio.wait(self._releasing)

    async def admit(self, caller: Caller, *, requests: int = 1) -> None:
        """Count a request.

        Args:
            caller: who makes it.
            requests: as how many it counts, such as a batch; 1 or more.

        Raises:
            InvalidRequest: that is no number of requests.
            ApiError: (429) there were too many lately.
        """
        check_number("requests", requests, least=1, whole=True)
        rate = caller.limits.rate
        if rate is None:
            return
        burst = caller.limits.burst or max(1, math.ceil(rate))
        # More than fit at once would never be let through.
        wanted = min(requests, burst)
        wait = await self._quotas.spend(subject_of(caller), rate=rate, burst=burst, wanted=wanted)
        if wait > 0:
            raise _too_much(f"more than {rate:g} requests a second", wait)

    def check_size(self, caller: Caller, size: int) -> None:
        """Look at the size of a request's body, in bytes; also of what has come of it so far.

        Raises:
            ApiError: (413) it is too large.
        """
        most = caller.limits.request_bytes
        if most is not None and size > most:
            raise ApiError(413, f"the body is larger than the {most} bytes that this caller may send")

    @asynccontextmanager
    async def runs(self, caller: Caller, run_ids: Sequence[str]) -> AsyncIterator[None]:
        """Count runs while they are enqueued, in the block, and from then on until they end.

        Args:
            caller: whose they are.
            run_ids: the ids that they will have.

        Raises:
            ApiError: (429) too many have not ended yet. Nothing may be enqueued then.
        """
        most = caller.limits.runs
        if most is None or not run_ids:
            yield
            return
        subject = subject_of(caller)
        if not await self._quotas.hold_runs(subject, run_ids, most=most):
            raise _too_much(f"more than {most} runs that have not ended", _RETRY_RUN)
        try:
            yield
        except BaseException:
            self._in_background(self._give_runs_back(subject, list(run_ids)))
            raise

    @asynccontextmanager
    async def stream(self, caller: Caller) -> AsyncIterator[None]:
        """Count a stream, or a request that waits for a run, as long as the block lasts.

        Raises:
            ApiError: (429) too many are open.
        """
        most = caller.limits.streams
        if most is None:
            yield
            return
        subject, name = subject_of(caller), self._name()
        if not await self._quotas.hold(_STREAMS, subject, [name], most=most, seconds=self._lease):
            raise _too_much(f"more than {most} open streams", _RETRY_STREAM)
        self._open.setdefault(subject, set()).add(name)
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew(), name="runstream-gateway-leases")
        try:
            yield
        finally:
            # Whoever leaves may have been cancelled, and is again if it waits here.
            if self._forget(subject, name):
                self._in_background(self._give_back(subject, [name]))

    def _name(self) -> str:
        self._next += 1
        return f"{self._gateway}-{self._next}"

    def _forget(self, subject: str, name: str) -> bool:
        names = self._open.get(subject, set())
        known = name in names
        names.discard(name)
        if not names:
            self._open.pop(subject, None)
        return known

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            for subject, names in list(self._open.items()):
                try:
                    await self._renew_of(subject, frozenset(names))
                except RedisError as error:
                    _log.warning("open streams could not be counted; that is tried again: %s", error)
                except Exception:  # noqa: BLE001 - logged
                    # Whatever it is: nobody would begin this again, and streams would count no more.
                    _log.exception("open streams could not be counted; that is tried again")

    async def _renew_of(self, subject: str, names: frozenset[str]) -> None:
        await self._quotas.hold(_STREAMS, subject, sorted(names), most=None, seconds=self._lease)
        # Those that ended meanwhile may have been given back before they were renewed.
        if gone := names - self._open.get(subject, set()):
            await self._quotas.release(_STREAMS, subject, sorted(gone))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="runstream-gateway-release")
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def _give_back(self, subject: str, names: list[str]) -> None:
        try:
            await self._quotas.release(_STREAMS, subject, names)
        except RedisError as error:
            _log.warning("streams that have ended count for %g s more: %s", self._lease, error)

    async def _give_runs_back(self, subject: str, run_ids: list[str]) -> None:
        try:
            await self._quotas.release_runs(subject, run_ids)
        except RedisError as error:
            _log.warning("runs that were not enqueued count for a minute: %s", error)


def subject_of(caller: Caller) -> str:
    """Whom a caller's requests are counted for: its key, else its identity, whose text has no business in Redis."""
    if caller.key_id is not None:
        return f"key-{caller.key_id}"
    return f"user-{hashlib.sha256(caller.identity.encode()).hexdigest()[:32]}"


def _too_much(what: str, wait: float) -> ApiError:
    return ApiError(429, f"too much: {what}", {"Retry-After": str(max(1, math.ceil(wait)))})
