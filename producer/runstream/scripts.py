"""One typed coroutine per Lua script; what each does and returns is told at the top of its `.lua` file.

Scripts are sent by their hash (EVALSHA); a server that does not know one (it was restarted, or SCRIPT FLUSH was called)
gets its text. All of them may be sent again after a lost reply, which `docs/PROTOCOL.md` explains one by one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from runstream.keys import Keys
from runstream.model import StopAction, Strategy

ScriptName: TypeAlias = Literal[
    "enqueue", "claim", "append", "beat", "finish", "release", "regain", "disown", "stop", "reap",
    "document", "forget", "page", "spend", "hold", "account", "delivery", "attend",
]  # fmt: skip
Argument: TypeAlias = str | bytes | int
Cause: TypeAlias = Literal["drained", "fault"]

_PAGE = 1000
_INCLUDE = re.compile(r"--#include (\w+\.lua)\n")


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
    text = _INCLUDE.sub(lambda included: (folder / included[1]).read_text("utf-8"), text)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Enqueued(NamedTuple):
    """What became of one enqueue."""

    outcome: Literal["new", "known", "taken", "busy"]
    run_id: str
    """The run's; of `busy`, that of the run which is on the thread."""
    created_at: int
    """When that run was created, in ms."""


class Claimed(NamedTuple):
    """One run handed to a worker.

    Attributes:
        run_id: the run.
        attempt: the number of this attempt.
        request: the request's JSON; empty where the record had none.
        after: the id of the stream's last event; empty for the first attempt, whose own event has been written already.
        left: why the attempt before was left: `lost`, `drained` or `fault`; empty for the first.
        undo: runs whose checkpoints are to be removed from the thread before anything else.
        after_worker: the worker that has published the event `after`; empty where there is none.
        created_at: when the run was created, in ms.
    """

    run_id: str
    attempt: int
    request: bytes
    after: str = ""
    left: str = ""
    undo: tuple[str, ...] = ()
    after_worker: str = ""
    created_at: int = 0


class ClaimReply(NamedTuple):
    """What a claim brought."""

    claimed: list[Claimed]
    dropped: list[str]
    """Members of the queue that are no queued run, as text."""
    next_due: float
    """Seconds until the next run is due; 0 when some are due already, -1 when none waits."""


class Hold(NamedTuple):
    """An attempt and who executes it: the fence. What it writes is refused once another has the run."""

    run_id: str
    attempt: int
    worker_id: str


class Append(NamedTuple):
    """One attempt's batch of events."""

    hold: Hold
    first_seq: int
    events: Sequence[bytes]
    leave_gap: bool = False
    """Whether what lies between the last event that Redis knows and the first of these is gone for good."""
    settled: int = 0
    """The sequence number up to which the attempt's events are settled; 0 where Redis knows that already."""


class AppendReply(NamedTuple):
    """Whether the attempt still holds the run, and whether it may go on.

    `detail` is the reason of a stop; of `full`, the sequence number of the last event that there was room for; of
    `behind`, that of the last event that Redis still knows.
    """

    outcome: Literal["ok", "stop", "full", "behind", "lost"]
    detail: str


class FinishReply(NamedTuple):
    """Whether the run has been ended; `last_seq` of `behind` is that of the last event that Redis still knows."""

    outcome: Literal["ok", "behind", "lost"]
    last_seq: int = 0


class Wish(NamedTuple):
    """Somebody's wish that a run end, and what becomes of what it has saved."""

    reason: str
    action: StopAction


class BeatReply(NamedTuple):
    """What a beat learned of the worker's runs."""

    lost: list[str]
    stop: dict[str, Wish]
    """By run id."""


class ReapReply(NamedTuple):
    """What became of runs whose time had passed.

    Attributes:
        queued: those that wait for their next attempt.
        ended: those that ended as `lost`, or as `stopped` where somebody wanted that.
        broken: by run id, why nothing could be done: the record or stream is not as it must be.
    """

    queued: list[str]
    ended: list[str]
    broken: dict[str, str]


class StopReply(NamedTuple):
    """What became of a stop; `detail` is the status it ended with before, or the worker that was told."""

    outcome: Literal["missing", "ended", "stopping", "stopped"]
    detail: str


@dataclass(frozen=True)
class Enqueue:
    """Everything that the enqueue script writes for one run."""

    run_id: str
    graph: str
    thread_id: str
    digest: str
    due: int
    due_is_absolute: bool
    job_before: str
    job_after: str
    queued_ttl: int
    retention: int
    record: Mapping[str, str | bytes | int]
    idempotency_key: str | None = None
    strategy: Strategy = "enqueue"


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
        args += [run.job_before, run.job_after, run.queued_ttl, run.retention, run.strategy]
        for field, value in run.record.items():
            args += [field, value]
        return [*keys, self._keys.runs, idempotency, self._keys.thread(run.thread_id), self._keys.leases], args

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
        return [
            Enqueued(cast("Any", _text(outcome)), _text(run_id), int(created)) for outcome, run_id, created in replies
        ]

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
            Claimed(
                self._keys.run_id(_text(run)),
                int(attempt),
                request or b"",
                _text(after),
                _text(left),
                tuple(map(_text, undo)),
                _text(after_worker),
                int(created_at),
            )
            for run, attempt, request, after, left, after_worker, created_at, *undo in claimed
        ]
        return ClaimReply(runs, [_text(member) for member in dropped], next_due / 1000 if next_due > 0 else next_due)

    async def append(self, batches: Sequence[Append], *, byte_limit: int) -> list[AppendReply | Exception]:
        """Append one batch for each of several runs, in one round trip; a failed one has its exception instead."""
        replies = await self._run_many("append", [self._append_call(batch, byte_limit) for batch in batches])
        return [
            reply
            if isinstance(reply, Exception)
            else AppendReply(cast("Any", _text(reply[0])), _text(b"".join(reply[1:])))
            for reply in replies
        ]

    def _append_call(self, batch: Append, byte_limit: int) -> tuple[list[str], list[Argument]]:
        run_id, attempt, worker_id = batch.hold
        gap = "gap" if batch.leave_gap else ""
        keys = [self._keys.run(run_id), self._keys.events(run_id), self._keys.settled(run_id)]
        return keys, [attempt, worker_id, byte_limit, batch.first_seq, gap, batch.settled, *batch.events]

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
        wishes = {
            self._keys.run_id(_text(stop[at])): Wish(_text(stop[at + 1]), cast("StopAction", _text(stop[at + 2])))
            for at in range(0, len(stop), 3)
        }
        return BeatReply([self._keys.run_id(_text(run)) for run in lost], wishes)

    async def finish(
        self,
        hold: Hold,
        *,
        end_seq: int,
        event: bytes,
        status: str,
        record: Mapping[str, str | bytes],
        leave_gap: bool = False,
    ) -> FinishReply:
        """End a run that this attempt holds."""
        args: list[Argument] = [hold.attempt, hold.worker_id, end_seq, "gap" if leave_gap else "", event, status]
        for field, value in record.items():
            args += [field, value]
        reply = await self._run("finish", [self._keys.run(hold.run_id), self._keys.leases], args)
        return FinishReply(cast("Any", _text(reply[0])), *map(int, reply[1:]))

    async def release(
        self,
        hold: Hold,
        cause: Cause,
        message: str = "",
        *,
        delay: int = 0,
        longest_delay: int = 0,
        max_faults: int = 100,
    ) -> Literal["queued", "stopped", "lost", "not held"]:
        """Give a run back for its next attempt.

        Args:
            hold: the attempt that is over.
            cause: why; neither counts against the run's attempts.
            message: of the run's error, should this have been its last fault.
            delay: ms before the next attempt; doubled with each further fault of the run.
            longest_delay: ms that these become at most.
            max_faults: how many faults the run may have; with the last one it ends as `lost`.
        """
        args: list[Argument] = [hold.attempt, hold.worker_id, cause, message, delay, longest_delay, max_faults]
        reply = await self._run("release", [self._keys.run(hold.run_id), self._keys.leases], args)
        return cast("Literal['queued', 'stopped', 'lost', 'not held']", _text(reply[0]))

    async def regain(self, claimed: Claimed, worker_id: str, *, lease: int, running_ttl: int, may: bool) -> int | None:
        """Return the sequence number of the last event that Redis knows of an attempt; None where it has lost its run.

        Where Redis has lost the claim, the attempt takes its run back, if it `may`. Times in ms.
        """
        keys = [self._keys.run(claimed.run_id), self._keys.leases]
        keys += [self._keys.held(worker_id), self._keys.worker_bell(worker_id)]
        args: list[Argument] = [claimed.attempt, worker_id, claimed.after, claimed.created_at, lease, running_ttl]
        reply = await self._run("regain", keys, [*args, "take back" if may else "look"])
        return int(reply[1]) if _text(reply[0]) == "held" else None

    async def disown(self, hold: Hold) -> bool:
        """Say that an attempt is over which does not hold its run; whether Redis had forgotten that there was one."""
        reply = await self._run(
            "disown", [self._keys.run(hold.run_id), self._keys.leases], [hold.attempt, hold.worker_id]
        )
        return bool(_text(reply[0]) == "forgotten")

    async def last_seq(self, hold: Hold) -> int | None:
        """The sequence number of the attempt's last event; None where it does not hold its run."""
        key, fields = self._keys.run(hold.run_id), ("status", "attempt", "worker", "seq")
        *holder, seq = map(_text, await self._of_master(key, lambda redis: redis.hmget(key, *fields)))
        return int(seq) if holder == ["running", str(hold.attempt), hold.worker_id] else None

    async def stop_action(self, run_id: str) -> StopAction:
        """What is to become of what a run has saved that somebody wants stopped."""
        key = self._keys.run(run_id)
        action = await self._of_master(key, lambda redis: redis.hget(key, "stop_action"))
        return "rollback" if action == b"rollback" else "interrupt"

    async def page(
        self, run_id: str, start: str, end: str, *, most: int, most_bytes: int
    ) -> tuple[bool, list[tuple[bytes, list[bytes]]]]:
        """Read entries of a run's stream as far as they fit; tell whether there are more."""
        more, entries = await self._run("page", [self._keys.events(run_id)], [start, end, most, most_bytes])
        return bool(more), entries

    async def plain_page(self, run_id: str, start: str, end: str, *, most: int) -> list[tuple[bytes, list[bytes]]]:
        """Read entries of a run's stream without a script: as many, however large they are."""
        reply = await cast("Any", self._redis).xrange(self._keys.events(run_id), start, end, count=most)
        return [(event_id, [part for pair in fields.items() for part in pair]) for event_id, fields in reply]

    async def events(self, run_id: str) -> list[tuple[bytes, Mapping[bytes, bytes]]]:
        """All entries of a run's stream: id and fields of each."""
        found: list[tuple[bytes, Mapping[bytes, bytes]]] = []
        key, stream, after = self._keys.run(run_id), self._keys.events(run_id), "-"
        while page := await self._of_master(key, lambda redis, at=after: redis.xrange(stream, at, "+", count=_PAGE)):
            found += page
            after = f"({_text(page[-1][0])}"
        return found

    async def _of_master(self, run_key: str, read: Callable[..., object]) -> Any:
        """Read what the master has: one that has become a replica refuses the write, though it changes nothing."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.hdel(run_key, "")
        read(pipe)
        return (await pipe.execute())[1]

    async def undone(self, thread_id: str, run_ids: Sequence[str]) -> None:
        """Take it down that these runs' checkpoints have been removed from the thread."""
        await self._redis.srem(self._keys.undo(thread_id), *run_ids)

    async def stop(self, run_id: str, reason: str, action: StopAction = "interrupt") -> StopReply:
        """Ask that a run end."""
        reply = await self._run("stop", [self._keys.run(run_id), self._keys.leases], [reason, action])
        return StopReply(cast("Any", _text(reply[0])), _text(b"".join(reply[1:])))

    async def reap(self, *, limit: int, lease: int) -> ReapReply:
        """Look after runs whose time has passed."""
        queued, ended, broken = await self._run("reap", [self._keys.leases, self._keys.reaper], [limit, lease])
        reasons = {self._keys.run_id(_text(broken[at])): _text(broken[at + 1]) for at in range(0, len(broken), 2)}
        return ReapReply(self._run_ids(queued), self._run_ids(ended), reasons)

    async def forget(self, run_id: str) -> Literal["ok", "missing", "active"]:
        """Remove a run that has ended."""
        keys = [self._keys.run(run_id), self._keys.events(run_id), self._keys.arq_job(run_id)]
        reply = await self._run("forget", [*keys, self._keys.runs, self._keys.dead], [run_id])
        return cast("Literal['ok', 'missing', 'active']", _text(reply[0]))

    async def put_document(
        self, kind: str, document_id: str, version: int, text: str, *, ttl: int, write: str
    ) -> int | None:
        """Write a document, if it still has this version; its new one, or None where it has another."""
        keys = [self._keys.document(kind, document_id), self._keys.documents(kind)]
        reply = await self._run("document", keys, [document_id, version, text, ttl, write])
        return int(reply[1]) if _text(reply[0]) == "ok" else None

    async def spend(self, subject: str, *, rate: float, burst: int, wanted: int) -> int:
        """Take requests off what somebody may make; the ms after which there are as many, 0 where they were taken."""
        reply = await self._run("spend", [self._keys.rate(subject)], [f"{rate:.6f}", burst, wanted])
        return 0 if _text(reply[0]) == "ok" else int(reply[1])

    async def hold(self, kind: str, subject: str, names: Sequence[str], *, most: int, held: int, known: int) -> bool:
        """Give somebody's things places, if there are as many; `held` and `known` are in ms."""
        reply = await self._run("hold", [self._keys.places(kind, subject)], [most, held, known, *names])
        return bool(_text(reply[0]) == "ok")

    async def account(
        self,
        what: Literal["add", "look", "forget"],
        subject: str,
        items: Sequence[tuple[str, str, int, int | None, int | None]],
        *,
        ttl: int = 0,
        reserved: int = 0,
        most: int = -1,
    ) -> tuple[Any, int, int] | None:
        """Count what an owner keeps; of `add`, what there is no room for: its kind, how much there is, and may be."""
        args: list[Argument] = [what, ttl, reserved, most]
        for kind, id_, more, *limits in items:
            args += [kind, id_, more, *(-1 if limit is None else limit for limit in limits)]
        reply = await self._run("account", [self._keys.stored(subject), self._keys.reserved(subject)], args)
        return None if _text(reply[0]) == "ok" else (_text(reply[1]), int(reply[2]), int(reply[3]))

    async def put_delivery(
        self, delivery_id: str, which: str, holder: str, *, wait: int, ttl: int, fields: Mapping[str, str]
    ) -> str:
        """Write what is known of a delivery; `which`, `wait` and `ttl` are told at the script."""
        keys = [self._keys.delivery(delivery_id), self._keys.deliveries]
        args: list[Argument] = [delivery_id, which, holder, wait, ttl]
        for field, value in fields.items():
            args += [field, value]
        return _text((await self._run("delivery", keys, args))[0])

    async def attend(
        self, holder: str, held: Sequence[str], *, lease: int, ttl: int, more: int, room: int
    ) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
        """Attend to these deliveries, and take up to `more`, `room` in all: the ids that were lost, and the others."""
        lost, taken = await self._run("attend", [self._keys.deliveries], [holder, lease, ttl, more, room, *held])
        pairs = [(_text(one), list(map(_text, fields))) for one, fields in taken]
        return list(map(_text, lost)), [
            (one, dict(zip(fields[::2], fields[1::2], strict=True))) for one, fields in pairs
        ]

    async def read_delivery(self, delivery_id: str) -> dict[str, str]:
        """The fields of a delivery; none where it is not there."""
        key = self._keys.delivery(delivery_id)
        fields = await self._of_master(key, lambda redis: redis.hgetall(key))
        return {_text(field): _text(value) for field, value in fields.items()}

    async def read_payload(self, delivery_id: str) -> bytes | None:
        """The payload of a delivery; None where there is none."""
        key = self._keys.delivery(delivery_id)
        payload: bytes | None = await self._of_master(key, lambda redis: redis.hget(key, "payload"))
        return payload

    def _run_ids(self, run_keys: Sequence[bytes]) -> list[str]:
        return [self._keys.run_id(_text(key)) for key in run_keys]
