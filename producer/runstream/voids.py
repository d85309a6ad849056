"""What an attempt leaves out of what those before it have published: `docs/PROTOCOL.md`, "Taking over"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from runstream.model import Event, EventId


@dataclass(frozen=True, slots=True)
class Voids:
    """Which events of earlier attempts are void, since another attempt does their work again.

    Attributes:
        attempt: the number of the attempt that says so.
        everything: whether all events of earlier attempts are.
        tasks: the ids of tasks whose events are.
        events: the ids of events that are; only such as come from no task, or from one of several.
        count: how many events that makes.
        after: the id of the last event that Redis knew by then, if it is told. What a reader has beyond it is void,
            too: Redis has come back without it.
        rewinds: where the reader gives an attempt's event again, since Redis has lost what the reader had given before:
            the highest id of that. What was given up to it, from the attempt's beginning on, is void.
    """

    attempt: int
    everything: bool
    tasks: frozenset[str]
    events: frozenset[str]
    count: int
    after: EventId | None = None
    rewinds: EventId | None = None

    @classmethod
    def of(cls, event: Event) -> Self | None:
        """What an event voids; None of every event but those that stand behind another attempt's."""
        if event.mode not in ("attempt", "end"):
            return None
        told, after = event.data.get("voids") or {}, stands_behind(event)
        tasks = frozenset(task["id"] for task in told.get("tasks", ()))
        events = frozenset(told.get("events", ()))
        everything = bool(told.get("all"))
        rewinds = EventId.of(event.data["rewinds"]) if "rewinds" in event.data else None
        if not (everything or tasks or events or after or rewinds):
            return None
        return cls(EventId.of(event.id).attempt, everything, tasks, events, told.get("count", 0), after, rewinds)

    def covers(self, event: Event) -> bool:
        """Whether an event is void by this."""
        here = EventId.of(event.id)
        if event.mode == "attempt":
            return False
        if here.attempt >= self.attempt:
            return self._is_rewound(here)
        return self.covers_source(event.task, event.id, event.id)

    def covers_source(self, task: str | None, event_id: str | None, first_id: str) -> bool:
        """The same of what an earlier attempt has published.

        Args:
            task: whose it is, if any.
            event_id: the id of the event, where it is one.
            first_id: that of the first event of it.
        """
        if self.everything or task in self.tasks or event_id in self.events:
            return True
        first = EventId.of(first_id)
        return self._is_rewound(first) or (self.after is not None and self.after < first < (self.attempt, 0))

    def _is_rewound(self, event_id: EventId) -> bool:
        return self.rewinds is not None and (self.attempt, 0) < event_id <= self.rewinds


def stands_behind(event: Event) -> EventId | None:
    """The id of the event behind which an attempt begins, or ends without having begun; 0-0 where there is none.

    None where it is not told, as of any event that is not an attempt's first.
    """
    here = EventId.of(event.id)
    if here.seq != 0 or event.mode not in ("attempt", "end"):
        return None
    if "after" in event.data:
        return EventId.of(event.data["after"])
    is_first = here.attempt == 1 or event.mode == "end" or (event.data.get("voids") or {}).get("all")
    return EventId(0, 0) if is_first else None
