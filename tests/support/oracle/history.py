"""What the oracle judges: everything that is known of a run when it is over.

The stream is decoded here, and not with the product's decoder: two that read the same wrong would agree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis.asyncio import Redis
from tests.support.oracle.marks import Mark, marks_in

from runstream import Event
from runstream.keys import Keys


class Call(NamedTuple):
    """A tool call: its arguments as JSON with sorted keys."""

    id: str | None
    name: str
    args: str

    @classmethod
    def of(cls, call_id: str | None, name: str, args: Any) -> Call:
        """A call with these arguments."""
        return cls(call_id, name, json.dumps(args, sort_keys=True))


class Said(NamedTuple):
    """What counts of a message."""

    id: str
    type: str
    text: str
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class State:
    """What the checkpointer has of a thread at one moment, the results of tasks that wait for others included.

    Attributes:
        messages: of the graph itself.
        log: of the graph itself.
        facts: what else the graph itself has in its state, as JSON.
        inner: the messages of subgraphs that have not finished, and are not among `messages`.
        pending: the ids of messages that wait for other tasks of their step; a run with an input of its own drops them.
    """

    messages: tuple[Said, ...] = ()
    log: tuple[str, ...] = ()
    facts: str = "{}"
    inner: tuple[Said, ...] = ()
    pending: frozenset[str] = frozenset()

    def said(self, *, inner: bool) -> dict[str, Said]:
        """The messages by id."""
        return {one.id: one for one in (*self.messages, *(self.inner if inner else ()))}

    def marks(self) -> set[Mark]:
        """The executions that have left their mark."""
        texts = [*self.log, *(one.text for one in (*self.messages, *self.inner))]
        return set(marks_in(" ".join(texts)))


@dataclass(frozen=True)
class Saved:
    """A checkpoint of the graph itself."""

    id: str
    parent: str | None
    run_id: str | None
    step: int


@dataclass(frozen=True)
class Segment:
    """What a reader read at a stretch.

    Attributes:
        after: the id behind which it began; None for the beginning.
        live: it began with what came from then on.
        events: what it was given.
        left: it went away by itself, before the end.
        cursor: where it stood then, if it was given nothing.
    """

    after: str | None
    live: bool
    events: Sequence[Event]
    left: bool = False
    cursor: str | None = None


@dataclass(frozen=True)
class Recording:
    """What one reader was given, stretch by stretch; it went on where it had left.

    Attributes:
        reader: its name.
        segments: the stretches.
        settled: it asked for settled events, so it gets all that stand and none that is void.
    """

    reader: str
    segments: Sequence[Segment]
    settled: bool = False


@dataclass(frozen=True)
class History:
    """Everything about one run.

    Attributes:
        run_id: the run.
        thread_id: its thread.
        modes: the stream modes that were asked for.
        subgraphs: whether it streams subgraphs.
        durability: LangGraph's.
        forgets: Redis may have lost what it had acknowledged, so that a checkpoint may stand on one that is gone.
        alone: its graph never runs two tasks at once, so every custom event has a task.
        ends: the statuses with which it may end.
        inputs: the texts of the messages in its input.
        stored: its stream, as it is in Redis.
        record: its record, as it is in Redis.
        recordings: what readers saw of it.
        before: the thread's state before the run.
        after: the thread's state after the run.
    """

    run_id: str
    thread_id: str
    modes: frozenset[str]
    subgraphs: bool
    durability: str
    ends: frozenset[str]
    stored: Sequence[Event]
    record: Mapping[str, str]
    after: State
    before: State = field(default_factory=State)
    inputs: Sequence[str] = ()
    recordings: Sequence[Recording] = ()
    alone: bool = False
    forgets: bool = False

    @property
    def ended_well(self) -> bool:
        """Whether what it has saved is all that it has done."""
        return self.record.get("status") in ("success", "interrupted") and not self.is_rolled_back

    @property
    def is_rolled_back(self) -> bool:
        """Whether what it has saved is to be removed; the next run of its thread does not see it."""
        return self.record.get("stop_action") == "rollback"


async def read_stored(redis: Redis, keys: Keys, run_id: str) -> list[Event]:
    """A run's stream as it is in Redis."""
    entries: Any = await redis.xrange(keys.events(run_id))
    bases: dict[str, Event] = {}
    events: list[Event] = []
    for entry_id, fields in entries:
        event = _decoded(entry_id.decode(), json.loads(fields[b"1"]), bases)
        bases[event.id] = event
        events.append(event)
    return events


def _decoded(event_id: str, wire: Mapping[str, Any], bases: Mapping[str, Event]) -> Event:
    if "b" not in wire:
        interrupts = tuple(wire["i"]) if "i" in wire else None
        return Event(event_id, wire["m"], tuple(wire.get("n", ())), wire["d"], interrupts, wire.get("k"), wire.get("c"))
    base = bases[wire["b"]]
    message, metadata = base.data
    changed = {"content": wire["t"]} if "t" in wire else wire["d"]
    return Event(event_id, base.mode, base.ns, [{**message, **changed}, metadata], None, base.task, base.call)


async def read_record(redis: Redis, keys: Keys, run_id: str) -> dict[str, str]:
    """A run's record as it is in Redis; empty when there is none."""
    record: Any = await redis.hgetall(keys.run(run_id))  # type: ignore[misc] # redis-py's types are for both kinds
    return {name.decode(): value.decode() for name, value in record.items()}


async def keys_without_end(redis: Redis, keys: Keys) -> list[str]:
    """The keys of a namespace that never expire."""
    pattern = f"*{keys.tag}*"
    return [key.decode() async for key in redis.scan_iter(pattern, count=1000) if await redis.ttl(key) == -1]
