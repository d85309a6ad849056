"""The values that everything is said in: states, events, records. Nothing here does I/O."""

from __future__ import annotations

import re
import secrets
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field

from runstream.characters import well_formed
from runstream.errors import InvalidRequest, NoRunId

StreamMode: TypeAlias = Literal["values", "updates", "checkpoints", "tasks", "debug", "messages", "custom", "events"]
STREAM_MODES: tuple[StreamMode, ...] = get_args(StreamMode)
"""LangGraph's stream modes: the seven of `astream`, and `events` of LangGraph's server, the records of `astream_events`
(version v2)."""

StopAction: TypeAlias = Literal["interrupt", "rollback"]
"""What becomes of what a stopped run has saved: it stays, or it is removed."""

Strategy: TypeAlias = Literal["enqueue", "reject", "interrupt", "rollback"]
STRATEGIES: tuple[Strategy, ...] = ("enqueue", "reject", "interrupt", "rollback")
"""What happens to a run whose thread has one already: LangGraph's `multitask_strategy`."""

EventMode: TypeAlias = StreamMode | Literal["attempt", "end", "gap"]
"""A stream mode, or one of the three that runstream adds: `attempt` opens an attempt, `end` is the last event of a run,
`gap` (made by the reader, never stored) tells that events between two ids have been removed."""

_SILENT_AFTER = timedelta(seconds=10)


class Status(StrEnum):
    """The state of a run: queued, running, perhaps queued again for its next attempt; then one of six ends."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    INTERRUPTED = "interrupted"
    STOPPED = "stopped"
    TIMEOUT = "timeout"
    LOST = "lost"

    @property
    def ended(self) -> bool:
        """Whether nothing will happen to the run any more."""
        return self not in (Status.QUEUED, Status.RUNNING)


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.STOPPED, Status.LOST}),
    Status.RUNNING: frozenset(status for status in Status if status is not Status.RUNNING),
    **{status: frozenset() for status in Status if status.ended},
}
"""The legal transitions; the scripts make no others."""


class EventId(NamedTuple):
    """An event's id, `attempt-seq`: the number of the attempt, and the event's place in it.

    `seq` 0 is the attempt's own event; the events of the graph count from 1 without gaps.
    """

    attempt: int
    seq: int

    def __str__(self) -> str:
        """The id as it stands in the stream."""
        return f"{self.attempt}-{self.seq}"

    @classmethod
    def of(cls, text: str) -> EventId:
        """Read an id that Redis gave, which need not be checked."""
        attempt, _, seq = text.partition("-")
        return cls(int(attempt), int(seq))

    @classmethod
    def parse(cls, text: object, field: str = "after") -> EventId:
        """Read an id.

        Raises:
            InvalidRequest: the text is no event id.
        """
        match = _EVENT_ID.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InvalidRequest(field, f"{text!r} is no event id; an id is two numbers, attempt-seq, such as '1-15'")
        return cls(int(match[1]), int(match[2]))


_EVENT_ID = re.compile(r"(\d{1,18})-(\d{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Event:
    """One chunk of a run's stream.

    Attributes:
        id: `attempt-seq`; ascending, the same for every reader, valid as a cursor.
        mode: LangGraph's stream mode, or `attempt`, `end`, `gap`.
        ns: LangGraph's subgraph namespace; empty at the root.
        data: the chunk as JSON. It is shared between the readers of a process: read it, do not change it.
        interrupts: with `version="v2"` and mode `values`, the interrupts beside the values; else None.
        task: the id of LangGraph's task that it comes from; None where it comes from none, or from one of several.
        call: of a chunk of a message, the id of the model's call that streams it (LangChain's `run_id`, as in records);
            otherwise None. The chunks of a message have one call, whatever ids they come under.
        size: roughly the bytes of memory that it takes; 0 where no bytes were read for it.
    """

    id: str
    mode: EventMode
    ns: tuple[str, ...]
    data: Any
    interrupts: tuple[Any, ...] | None = None
    task: str | None = None
    call: str | None = None
    size: int = field(default=0, compare=False, repr=False)

    @property
    def is_chunk(self) -> bool:
        """Whether LangGraph emitted it, rather than runstream."""
        return self.mode not in ("attempt", "end", "gap")


_LONGEST_MESSAGE = 10_000


class ErrorInfo(BaseModel):
    """What went wrong in a run: the exception's class name and its message."""

    model_config = ConfigDict(frozen=True)

    type: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> ErrorInfo:
        """What to tell of an exception, whatever it does when asked: text that JSON can carry, of bounded size."""
        try:
            message = str(error)
        except Exception as refusal:  # noqa: BLE001 - user code: __str__ may raise anything
            message = f"(its message cannot be told: __str__ raised {type(refusal).__name__})"
        message = well_formed(message)
        if len(message) > _LONGEST_MESSAGE:
            message = f"{message[:_LONGEST_MESSAGE]}... ({len(message):,} characters in all)"
        return cls(type=well_formed(type(error).__name__), message=message)


class Holder(BaseModel):
    """Who has executed an attempt that is over, while its run was not. Times are aware datetimes in UTC.

    `cause` tells why the attempt was left: `lost` (its worker was killed, or could not reach Redis), `drained` (its
    worker was shut down and gave the run back) or `fault` (what it depends on failed).
    """

    model_config = ConfigDict(frozen=True)

    attempt: int
    worker: str
    started_at: datetime
    ended_at: datetime
    cause: Literal["lost", "drained", "fault"]


class RunInfo(BaseModel):
    """A run's record.

    Times are aware datetimes in UTC. `attempt` is the number of the last attempt, 0 until a worker has claimed the run;
    where the end was written by nobody who held the run, it is the end's, which is no attempt. `attempts` is how many
    there have been. `holders` are those who have had it before its last attempt, the latest last; the last 50 at
    most. `stop_action` is what somebody who wanted it stopped wanted with it, whatever it has ended with. Of
    `max_attempts`, `failures` have been used up: to be handed on by a worker that is shut down costs none.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    graph: str
    thread_id: str
    status: Status
    attempt: int
    attempts: int
    worker: str | None = None
    stream_mode: list[StreamMode]
    metadata: dict[str, Any] = Field(default_factory=dict)
    created_at: datetime
    due_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: ErrorInfo | None = None
    stop_reason: str | None = None
    stop_action: StopAction | None = None
    last_event_id: str | None = None
    stream_bytes: int = 0
    holders: list[Holder] = Field(default_factory=list)
    failures: int = 0
    max_attempts: int


class WorkerInfo(BaseModel):
    """What a live worker says of itself. Times are aware datetimes in UTC, by Redis' clock and the worker's."""

    model_config = ConfigDict(frozen=True)

    worker_id: str
    host: str
    pid: int
    graphs: list[str]
    concurrency: int
    running: int
    version: str
    started_at: datetime
    beat_at: datetime

    def is_silent(self, now: datetime) -> bool:
        """Whether it is held to be dead: it beats each second, and had not for 10 s at this time of Redis' clock."""
        return now - self.beat_at > _SILENT_AFTER


class StopResult(NamedTuple):
    """What a stop did.

    Attributes:
        outcome: `stopped`: nobody was executing the run, it has ended. `stopping`: its worker has been told.
            `ended`: it had ended before.
        status: the run's status now; `running` while its worker stops it.
    """

    outcome: Literal["stopped", "stopping", "ended"]
    status: Status


def from_ms(value: int) -> datetime:
    """A time in milliseconds since 1970 as an aware datetime."""
    return datetime.fromtimestamp(value / 1000, UTC)


def new_run_id() -> str:
    """A UUID of version 7: ids made later sort later, to a quarter of a microsecond.

    RFC 9562, 5.7, with the 12 bits behind the milliseconds as a finer clock (6.2, method 3), so that runs enqueued by
    one producer within one millisecond keep their order in the queue.
    """
    unix_ms, rest_ns = divmod(time.time_ns(), 1_000_000)
    finer = (rest_ns << 12) // 1_000_000
    value = (unix_ms & (2**48 - 1)) << 80 | 0x7 << 76 | finer << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))


def check_run_id(run_id: str | uuid.UUID, field: str = "run_id") -> str:
    """A run id in its one spelling.

    Raises:
        InvalidRequest: it is no UUID.
    """
    try:
        return str(run_id if isinstance(run_id, uuid.UUID) else uuid.UUID(run_id))
    except (ValueError, AttributeError, TypeError):
        raise InvalidRequest(field, _no_run_id(run_id)) from None


def check_known_run_id(run_id: str | uuid.UUID) -> str:
    """The id of a run that is looked up, in its one spelling.

    Raises:
        NoRunId: it is no UUID, so that no run has it.
    """
    try:
        return check_run_id(run_id)
    except InvalidRequest:
        raise NoRunId(run_id, _no_run_id(run_id)) from None


def _no_run_id(given: object) -> str:
    return f"{given!r} is no run id: a run id is a UUID, such as 01a1fb90-8749-7f95-8075-c02271a54ef4"
