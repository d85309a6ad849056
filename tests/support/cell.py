"""The scripts of one cell as a test calls them, and looks at what they have written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from tests.support.clock import let_pass

from runstream.keys import Keys
from runstream.scripts import Append, AppendReply, BeatReply, Cause, Claimed, FinishReply, Hold, ReapReply, Scripts

LEASE = 30_000
TTL = 7 * 24 * 3600 * 1000
WORKER_TTL = 60_000
END = b'{"m": "end", "d": {"status": "success"}}'


class Cell:
    """Calls the scripts with a test's usual arguments.

    Args:
        redis: a client with `decode_responses=False`. Any: the types of redis-py 5 say that its asynchronous commands
            may be synchronous.
        keys: the cell's keys.
    """

    def __init__(self, redis: Any, keys: Keys) -> None:
        self.redis = redis
        self.keys = keys
        self.scripts = Scripts(redis, keys)

    # -- what workers and reapers do ----------------------------------------------------------------------------------

    async def claim(
        self, limit: int = 10, *, worker: str = "w", graphs: Sequence[str] = ("agent",), **options: Any
    ) -> list[Claimed]:
        """What a worker gets."""
        reply = await self.scripts.claim(worker, graphs, limit=limit, lease=LEASE, running_ttl=TTL, **options)
        return reply.claimed

    async def take(self, worker: str = "w", graph: str = "agent") -> Hold:
        """What a worker holds once it has claimed the one run that there is for it."""
        (claimed,) = await self.claim(1, worker=worker, graphs=[graph])
        return Hold(claimed.run_id, claimed.attempt, worker)

    async def append(
        self, hold: Hold, first: int, *events: bytes, limit: int = 1000, leave_gap: bool = False
    ) -> AppendReply:
        """One batch of one attempt."""
        (reply,) = await self.scripts.append([Append(hold, first, events, leave_gap)], byte_limit=limit)
        assert isinstance(reply, AppendReply), reply
        return reply

    async def beat(self, runs: dict[str, int], worker: str = "w", lease: int = LEASE) -> BeatReply:
        """A worker's sign of life."""
        return await self.scripts.beat(
            worker, runs, lease=lease, worker_ttl=WORKER_TTL, running_ttl=TTL, about={"host": "h"}
        )

    async def finish(
        self, hold: Hold, end_seq: int, status: str = "success", *, leave_gap: bool = False
    ) -> FinishReply:
        """The end of a run, by its holder; the result is 1."""
        return await self.scripts.finish(
            hold, end_seq=end_seq, event=END, status=status, record={"result": b"1"}, leave_gap=leave_gap
        )

    async def release(
        self, hold: Hold, cause: Cause = "drained", message: str = "it broke", *, delay: int = 0, **options: int
    ) -> str:
        """A run given back; `delay` in ms."""
        return await self.scripts.release(hold, cause, message, delay=delay, **options)

    async def reap(self, limit: int = 10) -> ReapReply:
        """One look at what time has run out for."""
        return await self.scripts.reap(limit=limit, lease=LEASE)

    async def lose(self, hold: Hold) -> ReapReply:
        """Let the holder die: its lease expires, and a reaper that has been looking all the time sees it."""
        await self.reap(0)
        await self.redis.zadd(self.keys.leases, {self.keys.run(hold.run_id): 1})
        return await self.reap()

    async def let_pass(self, seconds: float) -> None:
        """Let time pass, all at once."""
        await let_pass(self.redis, self.keys, round(seconds * 1000))

    # -- what is there ------------------------------------------------------------------------------------------------

    async def ids(self, run_id: str) -> list[str]:
        """The ids of a run's events."""
        return [event_id.decode() for event_id, _ in await self.redis.xrange(self.keys.events(run_id))]

    async def last_event(self, run_id: str) -> dict[str, Any]:
        """A run's last event, decoded."""
        ((_, fields),) = await self.redis.xrevrange(self.keys.events(run_id), count=1)
        return cast("dict[str, Any]", json.loads(fields[b"1"]))

    async def record(self, run_id: str, *fields: str) -> list[str | None]:
        """Fields of a run's record."""
        values = await self.redis.hmget(self.keys.run(run_id), *fields)
        return [None if value is None else value.decode() for value in values]

    async def line(self, thread_id: str) -> list[str]:
        """The runs that stand in a thread's line, the head first."""
        return self._run_ids(await self.redis.zrange(self.keys.thread(thread_id), 0, -1))

    async def thread_runs(self, thread_id: str) -> list[str]:
        """The runs that a thread's index has, the oldest first."""
        return [run_id.decode() for run_id in await self.redis.zrange(self.keys.thread_runs(thread_id), 0, -1)]

    async def queue(self, graph: str = "agent") -> list[str]:
        """The runs that wait in a graph's queue."""
        return self._run_ids(await self.redis.zrange(self.keys.queue(graph), 0, -1))

    async def looked_after(self) -> list[str]:
        """The runs that somebody has to look after one day."""
        return sorted(self._run_ids(await self.redis.zrange(self.keys.leases, 0, -1)))

    async def dead(self) -> list[str]:
        """The dead letters."""
        return [run_id.decode() for run_id in await self.redis.zrange(self.keys.dead, 0, -1)]

    async def undo(self, thread_id: str) -> set[str]:
        """The runs whose checkpoints the thread's next attempt has to remove."""
        return {run_id.decode() for run_id in await self.redis.smembers(self.keys.undo(thread_id))}

    async def held(self, worker: str = "w") -> set[str]:
        """What was handed to a worker and has not left it."""
        return set(self._run_ids(list(await self.redis.smembers(self.keys.held(worker)))))

    async def lives(self, key: str) -> int:
        """How long a key has to live, ms."""
        return cast("int", await self.redis.pttl(key))

    def _run_ids(self, run_keys: Sequence[bytes]) -> list[str]:
        return [self.keys.run_id(key.decode()) for key in run_keys]
