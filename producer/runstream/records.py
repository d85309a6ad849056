"""Reading what Redis knows of runs and workers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import islice
from typing import Any

from pydantic_core import from_json

from runstream.index_pages import NewestFirst
from runstream.keys import Keys, split_names
from runstream.missing import Call, read_run
from runstream.model import ErrorInfo, EventId, RunInfo, Status, WorkerInfo, from_ms
from runstream.pipelining import pipelined
from runstream.requeue import KeptRequest

_FIELDS = (
    "graph", "thread", "status", "attempt", "worker", "modes", "metadata", "created_at", "due_at", "first_started_at",
    "ended_at", "error", "stop", "seq", "bytes", "after", "holders", "failures", "max_attempts", "unheld", "skipped",
    "stop_action",
)  # fmt: skip
_STATUS = _FIELDS.index("status")
_THREAD = _FIELDS.index("thread")
_REQUEST_FIELDS = ("status", "request", "metadata", "retention", "queued_ttl", "max_attempts")
_PAGE = 100


class Records:
    """The records of a cell.

    Args:
        redis: a client with `decode_responses=False`.
        keys: the cell's keys.
        call: makes a call to Redis, with such patience as its owner has.
    """

    def __init__(self, redis: Any, keys: Keys, call: Call) -> None:
        # Any: the types of redis-py 5 say that its asynchronous commands may be synchronous.
        self._redis = redis
        self._keys = keys
        self._call = call

    async def get(self, run_id: str) -> RunInfo:
        """A run's record.

        Raises:
            RunNotFound: there is no such run.
        """
        return _info(run_id, await self._of(run_id, _FIELDS))

    async def get_many(self, run_ids: Sequence[str]) -> list[RunInfo | None]:
        """The records of many runs, in their order; None in the place of one that is not there."""
        records = await self._read(run_ids)
        return [_info(run_id, values) if _is_there(values) else None for run_id, values in records]

    async def result(self, run_id: str) -> Any:
        """A run's result; None where it has none.

        Raises:
            RunNotFound: there is no such run.
        """
        _, result = await self._of(run_id, ("status", "result"))
        return None if result is None else from_json(result)

    async def request(self, run_id: str) -> KeptRequest:
        """A run's request, as its record has it.

        Raises:
            RunNotFound: there is no such run.
        """
        return _kept(run_id, await self._of(run_id, _REQUEST_FIELDS))

    async def requests(self, run_ids: Sequence[str]) -> list[KeptRequest | None]:
        """The requests of many runs, in their order; None in the place of one that is not there."""
        records = await self._read(run_ids, _REQUEST_FIELDS)
        return [None if values[0] is None else _kept(run_id, values) for run_id, values in records]

    async def request_sizes(self, run_ids: Sequence[str]) -> list[int]:
        """The bytes of the requests of many runs, in their order; 0 in the place of one that is not there."""

        def fill(pipe: Any) -> None:
            for run_id in run_ids:
                pipe.hstrlen(self._keys.run(run_id), "request")

        return list(await pipelined(self._redis, self._call, fill))

    async def _of(self, run_id: str, fields: Sequence[str]) -> Any:
        """Fields of a run's record, the status among them."""
        key, status = self._keys.run(run_id), fields.index("status")
        return await read_run(
            self._redis,
            self._call,
            run_id,
            key,
            read=lambda: self._redis.hmget(key, *fields),
            found=lambda values: values[status] is not None,
        )

    async def bury(self, run_id: str) -> None:
        """Take a run out of the dead letters."""
        await self._call(lambda: self._redis.zrem(self._keys.dead, run_id))

    def newest_first(self) -> AsyncIterator[RunInfo]:
        """All runs, by the time of their creation."""
        return self._newest_of(self._keys.runs)

    def dead(self) -> AsyncIterator[RunInfo]:
        """The dead letters, by the time of their end, the last first."""
        return self._newest_of(self._keys.dead)

    def of_thread(self, thread_id: str) -> AsyncIterator[RunInfo]:
        """A thread's runs, by the time of their creation, the last first."""
        return self._newest_of(self._keys.thread_runs(thread_id), thread_id)

    async def _newest_of(self, index: str, thread_id: str | None = None) -> AsyncIterator[RunInfo]:
        """The runs of an index; drops those from it whose record has expired, or is of another thread's run by now."""
        pages = NewestFirst(self._redis, self._call, index, size=_PAGE)
        while run_ids := await pages.page():
            records = await self._read(run_ids)
            gone = [run_id for run_id, values in records if not _is_there(values, thread_id)]
            if gone:
                await self._call(lambda gone=gone: self._redis.zrem(index, *gone))  # type: ignore[misc] # bound now
            for run_id, values in records:
                if _is_there(values, thread_id):
                    yield _info(run_id, values)

    async def last_of(self, thread_ids: Sequence[str]) -> list[RunInfo | None]:
        """The newest run of each thread; None where there is none."""
        last: dict[str, RunInfo] = {}
        gone: dict[str, list[str]] = {}
        left, count = list(dict.fromkeys(thread_ids)), 1
        while left:
            newest = await self._newest_ids(left, gone, count)
            records = dict(await self._read([run_id for run_ids in newest.values() for run_id in run_ids]))
            for thread_id, run_ids in newest.items():
                there = [run_id for run_id in run_ids if _is_there(records[run_id], thread_id)]
                gone[thread_id] = [run_id for run_id in run_ids if run_id not in there]
                if there:
                    last[thread_id] = _info(there[0], records[there[0]])
            # Where the newest has expired, which is rare, it goes, and those behind it are looked at.
            left, count = [one for one in left if newest[one] and one not in last], _PAGE
        return [last.get(thread_id) for thread_id in thread_ids]

    async def _newest_ids(
        self, thread_ids: Sequence[str], gone: Mapping[str, Sequence[str]], count: int
    ) -> dict[str, list[str]]:
        """The ids of each thread's newest runs, after dropping those that have gone."""
        dropping = [thread_id for thread_id in thread_ids if gone.get(thread_id)]

        def fill(pipe: Any) -> None:
            for thread_id in dropping:
                pipe.zrem(self._keys.thread_runs(thread_id), *gone[thread_id])
            for thread_id in thread_ids:
                pipe.zrevrange(self._keys.thread_runs(thread_id), 0, count - 1)

        replies = (await pipelined(self._redis, self._call, fill))[len(dropping) :]
        return {
            thread_id: [run_id.decode() for run_id in run_ids]
            for thread_id, run_ids in zip(thread_ids, replies, strict=True)
        }

    async def active_of(self, thread_ids: Sequence[str]) -> list[int]:
        """How many runs of each thread have not ended."""
        lines = [self._keys.thread(thread_id).encode() for thread_id in thread_ids]

        def read_lines(pipe: Any) -> None:
            for line in lines:
                pipe.zrange(line, 0, -1)

        members = await pipelined(self._redis, self._call, read_lines)

        def read_records(pipe: Any) -> None:
            for run in (run for runs in members for run in runs):
                pipe.hmget(run, "status", "line")

        records = iter(await pipelined(self._redis, self._call, read_records))
        # Who stands in a line without a record is sent away by the next script that looks at it.
        return [
            sum(status in (b"queued", b"running") and of == line for status, of in islice(records, len(runs)))
            for line, runs in zip(lines, members, strict=True)
        ]

    async def _read(
        self, run_ids: Sequence[str], fields: Sequence[str] = _FIELDS
    ) -> list[tuple[str, Sequence[bytes | None]]]:
        def fill(pipe: Any) -> None:
            for run_id in run_ids:
                pipe.hmget(self._keys.run(run_id), *fields)

        return list(zip(run_ids, await pipelined(self._redis, self._call, fill), strict=True))

    async def workers(self) -> list[WorkerInfo]:
        """What the live workers say of themselves."""
        ids = [
            worker_id.decode() for worker_id in await self._call(lambda: self._redis.zrange(self._keys.workers, 0, -1))
        ]

        def fill(pipe: Any) -> None:
            for worker_id in ids:
                pipe.hgetall(self._keys.worker(worker_id))

        records = await pipelined(self._redis, self._call, fill)
        return [_worker(worker_id, record) for worker_id, record in zip(ids, records, strict=True) if record]


def _is_there(values: Sequence[bytes | None], thread_id: str | None = None) -> bool:
    """Whether there is such a run, and on this thread, if any: an id may have been used again on another one."""
    thread = values[_THREAD]
    return values[_STATUS] is not None and (thread_id is None or (thread or b"").decode() == thread_id)


def _worker(worker_id: str, record: Mapping[bytes, bytes]) -> WorkerInfo:
    said: dict[str, Any] = {field.decode(): value.decode() for field, value in record.items()}
    times = {field: from_ms(int(said[field])) for field in ("started_at", "beat_at")}
    return WorkerInfo.model_validate({**said, "worker_id": worker_id, "graphs": split_names(said["graphs"]), **times})


def _kept(run_id: str, values: Sequence[Any]) -> KeptRequest:
    status, request, metadata, *numbers = values
    return KeptRequest(run_id, Status(status.decode()), request or b"", metadata or b"{}", *map(int, numbers))


def _holder(said: dict[str, Any]) -> dict[str, Any]:
    return {**said, "started_at": from_ms(said["started_at"]), "ended_at": from_ms(said["ended_at"])}


def _info(run_id: str, values: Sequence[bytes | None]) -> RunInfo:
    record = {field: value.decode() for field, value in zip(_FIELDS, values, strict=True) if value is not None}
    times = {field: from_ms(int(record[field])) for field in ("created_at", "due_at", "ended_at") if field in record}
    started = record.get("first_started_at")
    attempt, seq = int(record["attempt"]), int(record["seq"])
    return RunInfo.model_validate(
        {
            "run_id": run_id,
            "graph": record["graph"],
            "thread_id": record["thread"],
            "status": record["status"],
            "attempt": attempt,
            "attempts": attempt - ("unheld" in record) - int(record.get("skipped", 0)),
            "worker": record.get("worker"),
            "stream_mode": record["modes"].split(","),
            "metadata": json.loads(record["metadata"]),
            "started_at": from_ms(int(started)) if started is not None else None,
            "error": ErrorInfo.model_validate_json(record["error"]) if "error" in record else None,
            "stop_reason": record.get("stop"),
            "stop_action": record.get("stop_action"),
            "last_event_id": str(EventId(attempt, seq)) if seq >= 0 else record.get("after"),
            "holders": [_holder(holder) for holder in json.loads(record.get("holders", "[]"))],
            "failures": int(record.get("failures", 0)),
            "max_attempts": int(record["max_attempts"]),
            "stream_bytes": int(record["bytes"]),
            **times,
        }
    )
