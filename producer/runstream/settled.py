"""Settled reading: events are held back until no later attempt can void them."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from runstream.model import Event, EventId
from runstream.voids import Voids


class Settling:
    """Holds a reader's events back, in the stream's order, until they are settled.

    An event is settled once the worker has published that its task's result is saved; at the beginning of a later
    attempt, which voids what it does not keep; and at the run's end. Logic only: the reader feeds it and does the I/O.

    Args:
        limit: how many events are held. Those beyond are dropped, and read again once the ones before are settled.
        limit_bytes: how many bytes of them are; one event in any case.
    """

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._held: deque[Event] = deque()
        self._voids: list[Voids] = []
        self._begun = EventId(0, 0)
        self._mark = EventId(0, 0)
        self._kept_up_to: EventId | None = None
        self._read_again_after: EventId | None = None

    def take(self, event: Event) -> list[Event]:
        """Take the stream's next event; return the events that are settled now."""
        if event.mode in ("attempt", "end"):
            if voids := Voids.of(event):
                self._held = deque(held for held in self._held if not _covers(voids, held))
                self._bytes = sum(held.size for held in self._held)
                # What comes now under the ids that were given before is not void.
                self._voids.append(replace(voids, rewinds=None))
                if voids.rewinds is not None:
                    self._begun = self._mark = EventId(0, 0)
            self._begun = max(self._begun, EventId.of(event.id))
        if not any(_covers(voids, event) for voids in self._voids):
            self._hold(event)
        return self._release()

    def settle(self, up_to: EventId) -> list[Event]:
        """Take it that the events of this id's attempt are settled up to it; return those that are settled now.

        The mark may come before its attempt's own event, which says what of the earlier attempts is void.
        """
        self._mark = max(self._mark, up_to)
        return self._release()

    def read_again(self) -> EventId | None:
        """Return the id behind which events were dropped, and the reader has to read again; None if none were."""
        after = self._read_again_after
        if after is not None:
            self._read_again_after = self._kept_up_to = None
        return after

    def _hold(self, event: Event) -> None:
        if self._kept_up_to is not None:
            return
        # A gap has the id of the event behind it, so both are held or neither is.
        is_first = not self._held or self._held[-1].mode == "gap"
        has_room = len(self._held) < self._limit and self._bytes + event.size <= self._limit_bytes
        if is_first or has_room or self._is_settled(EventId.of(event.id)):
            self._held.append(event)
            self._bytes += event.size
            return
        self._kept_up_to = EventId.of(self._held[-1].id)

    def _release(self) -> list[Event]:
        released = []
        while self._held and self._is_settled(EventId.of(self._held[0].id)):
            released.append(self._held.popleft())
            self._bytes -= released[-1].size
        if not self._held and self._kept_up_to is not None and self._is_settled(self._kept_up_to):
            self._read_again_after = self._kept_up_to
        return released

    def _is_settled(self, event_id: EventId) -> bool:
        is_marked = event_id.attempt == self._mark.attempt and event_id <= self._mark
        return is_marked or event_id <= self._begun


def _covers(voids: Voids, event: Event) -> bool:
    """Whether an event is void; a gap says that events are missing, and goes only with all of them."""
    return voids.everything and voids.covers(event) if event.mode == "gap" else voids.covers(event)
