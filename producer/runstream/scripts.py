"""One typed coroutine per Lua script; what each does and returns is told at the top of its `.lua` file.

Scripts are sent by their hash (EVALSHA); a server that does not know one (it was restarted, or SCRIPT FLUSH was called)
gets its text. All of them may be sent again after a lost reply, which `docs/PROTOCOL.md` explains one by one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from runstream.keys import Keys

ScriptName: TypeAlias = Literal["enqueue", "claim", "append", "beat", "finish", "stop", "reap"]
Argument: TypeAlias = str | bytes | int

_INCLUDE = "--#include _end.lua\n"


@dataclass(frozen=True)
class Script:
    """A script's text and the hash under which Redis keeps it."""

    text: str
    sha: str


@cache
def load_script(name: ScriptName) -> Script:
    """Read a script from the package, with what it includes."""
    folder = files("runstream") / "lua"
    text = (folder / f"{name}.lua").read_text("utf-8")
    text = text.replace(_INCLUDE, (folder / "_end.lua").read_text("utf-8"))
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Enqueued(NamedTuple):
    """What became of one enqueue."""

    outcome: Literal["new", "known", "taken"]
    run_id: str


class Claimed(NamedTuple):
    """One run handed to a worker."""

    run_id: str
    attempt: int
    request: bytes
    """The request's JSON; empty where the record had none."""


class ClaimReply(NamedTuple):
    """What a claim brought."""

    claimed: list[Claimed]
    dropped: list[str]
    """Members of the queue that are no queued run, as text."""
    next_due: float
    """Seconds until the next run is due; 0 when some are due already, -1 when none waits."""


class Append(NamedTuple):
    """One attempt's batch of events."""

    run_id: str
    attempt: int
    first_seq: int
    events: Sequence[bytes]


class AppendReply(NamedTuple):
    """Whether the attempt still holds the run, and whether it may go on.

    `detail` is the reason of a stop; of `full`, the sequence number of the last event that there was room for.
    """

    outcome: Literal["ok", "stop", "full", "lost"]
    detail: str


class BeatReply(NamedTuple):
    """What a beat learned of the worker's runs."""

    lost: list[str]
    stop: dict[str, str]
    """Reason by run id."""


class ReapReply(NamedTuple):
    """What became of expired leases."""

    ended: list[str]
    broken: dict[str, str]
    """By run id, why a run could not be ended: its record or stream is not as it must be."""


class StopReply(NamedTuple):
    """What became of a stop; `detail` is the status it ended with before, or the worker that was told."""

    outcome: Literal["missing", "ended", "stopping", "stopped"]
    detail: str


@dataclass(frozen=True)
class Enqueue:
    """Everything that the enqueue script writes for one run."""

    run_id: str
    graph: str
    digest: str
    due: int
    due_is_absolute: bool
    job_before: str
    job_after: str
    queued_ttl: int
    retention: int
    record: Mapping[str, str | bytes | int]
    idempotency_key: str | None = None


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class Scripts:
    """The scripts, bound to a connection (pool) and the keys of one cell.

    Args:
        redis: a client with `decode_responses=False`.
        keys: the cell's keys.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        # redis-py's types differ from release to release, and say `str` where bytes and numbers go as well.
        self._redis: Any = redis
        self._keys = keys

    async def _run(self, name: ScriptName, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        script = load_script(name)
        try:
            return await self._redis.evalsha(script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self._redis.eval(script.text, len(keys), *keys, *args)

    async def _run_many(self, name: ScriptName, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """Run one script many times in one round trip; an exception stands in the place of its call's reply."""
        script = load_script(name)
        replies: list[Any] = [NoScriptError()] * len(calls)
        missing = list(range(len(calls)))
        while missing:
            pipe = self._redis.pipeline(transaction=False)
            for index in missing:
                keys, args = calls[index]
                pipe.evalsha(script.sha, len(keys), *keys, *args)
            for index, reply in zip(missing, await pipe.execute(raise_on_error=False), strict=True):
                replies[index] = reply
            missing = [index for index in missing if isinstance(replies[index], NoScriptError)]
            if missing:
                await self._redis.script_load(script.text)
        return replies

    def _enqueue_call(self, run: Enqueue) -> tuple[list[str], list[Argument]]:
        key = self._keys.run(run.run_id)
        idempotency = self._keys.idempotency(run.idempotency_key) if run.idempotency_key is not None else key
        keys = [key, self._keys.arq_job(run.run_id), self._keys.queue(run.graph), self._keys.bell(run.graph)]
        args: list[Argument] = [run.run_id, run.digest, run.due, "at" if run.due_is_absolute else "in"]
        args += [run.job_before, run.job_after, run.queued_ttl, run.retention]
        for field, value in run.record.items():
            args += [field, value]
        return [*keys, self._keys.runs, idempotency], args

    async def enqueue(self, runs: Sequence[Enqueue]) -> list[Enqueued]:
        """Write runs, all in one round trip.

        Raises:
            redis.exceptions.RedisError: the first failure among them; calling again completes the rest.
        """
        calls = [self._enqueue_call(run) for run in runs]
        replies = [await self._run("enqueue", *calls[0])] if len(calls) == 1 else await self._run_many("enqueue", calls)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return [Enqueued(cast("Any", _text(outcome)), _text(run_id)) for outcome, run_id in replies]

    async def claim(
        self,
        worker_id: str,
        graphs: Sequence[str],
        *,
        limit: int,
        lease: int,
        running_ttl: int,
        known: Sequence[str] | None = None,
    ) -> ClaimReply:
        """Take up to `limit` due runs of these graphs; `known` after a lost reply: the runs held for sure."""
        keys = [self._keys.leases, self._keys.held(worker_id), self._keys.worker_bell(worker_id)]
        for graph in graphs:
            keys += [self._keys.queue(graph), self._keys.bell(graph)]
        args: list[Argument] = [worker_id, limit, lease, running_ttl]
        if known is not None:
            args += ["?", *(self._keys.run(run_id) for run_id in known)]
        claimed, dropped, next_due = await self._run("claim", keys, args)
        runs = [
            Claimed(self._keys.run_id(_text(run)), int(attempt), request or b"") for run, attempt, request in claimed
        ]
        return ClaimReply(runs, [_text(member) for member in dropped], next_due / 1000 if next_due > 0 else next_due)

    async def append(self, batches: Sequence[Append], *, byte_limit: int) -> list[AppendReply | Exception]:
        """Append one batch for each of several runs, in one round trip; a failed one has its exception instead."""
        calls: list[tuple[list[str], list[Argument]]] = [
            (
                [self._keys.run(batch.run_id), self._keys.events(batch.run_id)],
                [batch.attempt, byte_limit, batch.first_seq, *batch.events],
            )
            for batch in batches
        ]
        replies = await self._run_many("append", calls)
        return [
            reply
            if isinstance(reply, Exception)
            else AppendReply(cast("Any", _text(reply[0])), _text(b"".join(reply[1:])))
            for reply in replies
        ]

    async def beat(
        self,
        worker_id: str,
        runs: Mapping[str, int],
        *,
        lease: int,
        worker_ttl: int,
        running_ttl: int,
        about: Mapping[str, str | int],
    ) -> BeatReply:
        """Renew the leases of these runs (attempt by run id) and what the worker says of itself."""
        keys = [
            self._keys.leases,
            self._keys.workers,
            self._keys.worker(worker_id),
            self._keys.held(worker_id),
            self._keys.worker_bell(worker_id),
        ]
        args: list[Argument] = [worker_id, lease, worker_ttl, running_ttl, len(about)]
        for field, value in about.items():
            args += [field, value]
        for run_id, attempt in runs.items():
            args += [self._keys.run(run_id), attempt]
        lost, stop = await self._run("beat", keys, args)
        reasons = {self._keys.run_id(_text(stop[i])): _text(stop[i + 1]) for i in range(0, len(stop), 2)}
        return BeatReply([self._keys.run_id(_text(run)) for run in lost], reasons)

    async def finish(
        self, run_id: str, attempt: int, *, end_seq: int, event: bytes, status: str, record: Mapping[str, str | bytes]
    ) -> bool:
        """End a run that this attempt holds; False when another holds it or has ended it."""
        args: list[Argument] = [attempt, end_seq, event, status]
        for field, value in record.items():
            args += [field, value]
        reply = await self._run("finish", [self._keys.run(run_id), self._keys.leases], args)
        return _text(reply) == "ok"

    async def stop(self, run_id: str, reason: str) -> StopReply:
        """Ask that a run end."""
        reply = await self._run("stop", [self._keys.run(run_id), self._keys.leases], [reason])
        return StopReply(cast("Any", _text(reply[0])), _text(b"".join(reply[1:])))

    async def reap(self, *, limit: int, lease: int) -> ReapReply:
        """End runs whose lease has expired."""
        ended, broken = await self._run("reap", [self._keys.leases, self._keys.reaper], [limit, lease])
        reasons = {self._keys.run_id(_text(broken[i])): _text(broken[i + 1]) for i in range(0, len(broken), 2)}
        return ReapReply([self._keys.run_id(_text(run)) for run in ended], reasons)
