"""Why a run waits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from runstream.keys import Keys
from runstream.missing import Call, read_run
from runstream.model import Status, WorkerInfo, from_ms
from runstream.pipelining import pipelined
from runstream.records import Records

_ORPHANED_MS = 3_000
"""A live worker looks once a second for leases that have expired; one that has for so long is seen by none."""
_FIELDS = ("status", "graph", "place", "queue", "line", "worker")
_LINE_LOOKED_AT = 20


class Waiting(BaseModel):
    """What a run waits for; as text, a sentence about it.

    Attributes:
        run_id: the run.
        reason: `due`: it is to start later. `thread`: another run is on its thread. `worker`: no live worker has its
            graph. `slots`: those that have it are busy, or about to take it. `orphan`: it is running, its worker has
            died, and no live worker is there to look after it.
        graph: the graph that it runs.
        due_at: when it is due, or was.
        behind: with `thread`, the run at the head of the line.
        graphs: with `worker`, the graphs that live workers have.
        holder, silent: with `orphan`, the worker, and the seconds since its lease has expired.
        workers, running, slots: with `slots`, how many live workers have the graph, how many runs they execute, and how
            many they can at once.
        ahead: with `slots`, how many runs of the graph are to be taken before it.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    reason: Literal["due", "thread", "worker", "slots", "orphan"]
    graph: str
    due_at: datetime
    behind: str | None = None
    graphs: list[str] = Field(default_factory=list)
    holder: str | None = None
    silent: int = 0
    workers: int = 0
    running: int = 0
    slots: int = 0
    ahead: int = 0

    def __str__(self) -> str:
        """Tell it in words."""
        match self.reason:
            case "due":
                return f"it is due at {self.due_at.isoformat(sep=' ', timespec='seconds')}"
            case "thread":
                return f"run {self.behind} is on its thread"
            case "worker":
                others = f"those that are there have {', '.join(self.graphs)}" if self.graphs else "there is none"
                return f"no live worker has graph {self.graph!r}; {others}"
            case "orphan":
                return (
                    f"its worker {self.holder} lost it {self.silent} s ago and is not heard of, "
                    "and no live worker is there to go on with it"
                )
            case "slots":
                taken = f"{self.running} of {self.slots} slots for graph {self.graph!r} are taken"
                return f"{taken}, {self.ahead} runs are to be taken before it"


class _Place(NamedTuple):
    """What the record of a queued run says of where it waits."""

    graph: str
    due: float
    queue: str
    line: str


class WaitingRuns:
    """Finds out why runs of a cell wait.

    Args:
        redis: a client with `decode_responses=False`.
        keys: the cell's keys.
        call: makes a call to Redis, with such patience as its owner has.
        records: the cell's records.
    """

    def __init__(self, redis: Any, keys: Keys, call: Call, records: Records) -> None:
        # Any: the types of redis-py 5 say that its asynchronous commands may be synchronous.
        self._redis = redis
        self._keys = keys
        self._call = call
        self._records = records

    async def of(self, run_id: str) -> Waiting | None:
        """What a run waits for; None if it does not wait.

        Raises:
            RunNotFound: there is no such run.
        """
        key = self._keys.run(run_id)
        values, expires, (seconds, microseconds) = await read_run(
            self._redis,
            self._call,
            run_id,
            key,
            read=lambda: self._look_at(key),
            found=lambda told: told[0][0] is not None,
        )
        now = seconds * 1000 + microseconds / 1000
        if values[0].decode() == Status.RUNNING and expires is not None and now - expires > _ORPHANED_MS:
            holder = None if values[5] is None else values[5].decode()
            told = {"graph": values[1].decode(), "due_at": from_ms(int(float(values[2])))}
            return Waiting(run_id=run_id, reason="orphan", holder=holder, silent=int((now - expires) / 1000), **told)
        if values[0].decode() != Status.QUEUED:
            return None
        graph, place, queue, line = (value.decode() for value in values[1:5])
        return await self._reason(run_id, _Place(graph, float(place), queue, line), now)

    async def _look_at(self, run_key: str) -> Any:
        """A run's record, when somebody is to look after it, and Redis' time."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.hmget(run_key, *_FIELDS)
        pipe.zscore(self._keys.leases, run_key)
        pipe.time()
        return await pipe.execute()

    async def _reason(self, run_id: str, place: _Place, now: float) -> Waiting:
        told: dict[str, Any] = {"run_id": run_id, "graph": place.graph, "due_at": from_ms(int(place.due))}
        if place.due > now + 1:
            return Waiting(**told, reason="due")
        behind = await self._head_before(run_id, place.line)
        if behind is not None:
            return Waiting(**told, reason="thread", behind=behind)
        live = [one for one in await self._records.workers() if not one.is_silent(from_ms(int(now)))]
        having = [worker for worker in live if place.graph in worker.graphs]
        if not having:
            return Waiting(**told, reason="worker", graphs=sorted({name for one in live for name in one.graphs}))
        ahead = await self._call(lambda: self._redis.zrank(place.queue, self._keys.run(run_id)))
        return Waiting(**told, **_slots(having), reason="slots", ahead=ahead or 0)

    async def _head_before(self, run_id: str, line: str) -> str | None:
        """The run that is at the head of the thread's line, if it is another one."""
        members = await self._call(lambda: self._redis.zrange(line, 0, _LINE_LOOKED_AT))
        before = self._before(run_id, [member.decode() for member in members])

        def fill(pipe: Any) -> None:
            for other in before:
                pipe.hget(self._keys.run(other), "status")

        statuses = await pipelined(self._redis, self._call, fill)
        # One that has gone is sent away by the next script that looks at the line.
        alive = (other for other, status in zip(before, statuses, strict=True) if status in (b"queued", b"running"))
        return next(alive, None)

    def _before(self, run_id: str, line: Sequence[str]) -> list[str]:
        run_ids = [self._keys.run_id(member) for member in line]
        return run_ids[: run_ids.index(run_id)] if run_id in run_ids else run_ids


def _slots(workers: Sequence[WorkerInfo]) -> dict[str, Any]:
    return {
        "workers": len(workers),
        "running": sum(worker.running for worker in workers),
        "slots": sum(worker.concurrency for worker in workers),
    }
