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
    """

    attempt: int
    everything: bool
    tasks: frozenset[str]
    events: frozenset[str]
    count: int

    @classmethod
    def of(cls, event: Event) -> Self | None:
        """What an event voids; None of every event but an `attempt` event that voids something."""
        told = event.data.get("voids") if event.mode == "attempt" else None
        if not told:
            return None
        tasks = frozenset(task["id"] for task in told.get("tasks", ()))
        events = frozenset(told.get("events", ()))
        everything = bool(told.get("all"))
        if not (everything or tasks or events):
            return None
        return cls(EventId.of(event.id).attempt, everything, tasks, events, told.get("count", 0))

    def covers(self, event: Event) -> bool:
        """Whether an event is void by this."""
        if event.mode == "attempt" or EventId.of(event.id).attempt >= self.attempt:
            return False
        return self.covers_source(event.task, event.id)

    def covers_source(self, task: str | None, event_id: str | None) -> bool:
        """The same of what an earlier attempt has published, by the task or, where there is none, by the event."""
        return self.everything or task in self.tasks or event_id in self.events
