"""Whether an attempt still holds its run, decided by Redis each time that something suggests that it does not.

The heartbeat, a batch of events, a checkpoint and the end of the run can all be refused. After a loss of its last
writes, Redis refuses them because it has forgotten the claim, and whichever comes first must lead to the same decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from runstream.faults import is_passing, patiently
from runstream.scripts import Claimed, Scripts

RUNNING_TTL = 7 * 24 * 3600.0
"""How long the keys of a running run live without being renewed, in seconds."""


class Tenure:
    """One attempt's hold on its run.

    Args:
        claimed: the attempt, as it was handed to this worker.
        worker_id: the worker.
        scripts: to ask with.
        lease: of the worker, in seconds.
        has_room: whether the worker has a free slot. Where Redis has lost the claim, the run is back in the queue,
            which is for workers with a free slot; one that has none leaves the run to them.
    """

    def __init__(
        self, claimed: Claimed, worker_id: str, scripts: Scripts, *, lease: float, has_room: Callable[[], bool]
    ) -> None:
        self._claimed = claimed
        self._worker_id = worker_id
        self._scripts = scripts
        self._lease = lease
        self._has_room = has_room
        self._asking: asyncio.Task[int | None] | None = None
        self._is_lost = False

    async def last_seq(self) -> int | None:
        """Return the sequence number of the attempt's last event that Redis knows; None if the run is lost to it.

        Takes the run back where Redis has forgotten the claim and nobody has had the run since. Waits while Redis is
        away. Callers at the same time share one answer.

        Raises:
            redis.exceptions.RedisError: Redis refuses to answer.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name=f"tenure-{self._claimed.run_id}")
        return await asyncio.shield(self._asking)

    async def _ask(self) -> int | None:
        if self._is_lost:
            return None
        last = await patiently(self._regain, None, outlasts=is_passing)
        self._is_lost = last is None
        return last

    async def _regain(self) -> int | None:
        return await self._scripts.regain(
            self._claimed,
            self._worker_id,
            lease=round(self._lease * 1000),
            running_ttl=round(RUNNING_TTL * 1000),
            may=self._has_room(),
        )
