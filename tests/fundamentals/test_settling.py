"""Holding events back until they are settled: whatever order marks and events arrive in, and however few are held."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runstream import Event, EventId
from runstream.settled import Settling
from runstream.voids import Voids


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[Event], list[tuple[int, EventId]]]:
    """A run's events, and marks with the number of events that had been published when each was written."""
    events: list[Event] = []
    marks: list[tuple[int, EventId]] = []
    unsettled: dict[str, str] = {}
    for attempt in range(1, draw(st.integers(1, 3)) + 1):
        voids: dict[str, Any] = {"tasks": [{"id": task} for task in sorted(set(unsettled.values()))], "events": []}
        data = {"attempt": attempt} | ({"voids": voids, "after": events[-1].id} if events else {})
        events.append(Event(f"{attempt}-0", "attempt", (), data))
        unsettled = {}
        # A task of which something is saved publishes nothing more.
        tasks = [f"{attempt}{name}" for name in "abcdefgh"]
        for seq in range(1, draw(st.integers(0, 8)) + 1):
            task = draw(st.sampled_from(tasks[:3]))
            events.append(Event(f"{attempt}-{seq}", "custom", (), seq, None, task, size=draw(st.integers(0, 9))))
            unsettled[events[-1].id] = task
            if draw(st.booleans()):
                saved = draw(st.sampled_from(sorted(set(unsettled.values()))))
                tasks.remove(saved)
                unsettled = {event_id: one for event_id, one in unsettled.items() if one != saved}
                first = next(iter(unsettled), f"{attempt}-{seq + 1}")
                marks.append((len(events), EventId(attempt, EventId.of(first).seq - 1)))
    last = EventId.of(events[-1].id)
    events.append(Event(f"{last.attempt}-{last.seq + 1}", "end", (), {"status": "success"}))
    return events, marks


@given(stories(), st.integers(1, 6), st.integers(1, 30), st.integers(0, 20))
def test_what_stands_is_released_once_and_in_order(
    story: tuple[list[Event], list[tuple[int, EventId]]], limit: int, limit_bytes: int, hurry: int
) -> None:
    events, marks = story
    gone = {one.id for event in events if (voids := Voids.of(event)) for one in events if voids.covers(one)}
    released: list[Event] = []
    settling, at = Settling(limit, limit_bytes), 0
    while at < len(events):
        released += settling.take(events[at])
        at += 1
        # Marks come by another stream: in time, or before the events that were published by then.
        for published, mark in marks:
            if published <= at + hurry:
                released += settling.settle(mark)
        if (again := settling.read_again()) is not None:
            at = next(place for place, event in enumerate(events) if EventId.of(event.id) == again) + 1
    assert released == [event for event in events if event.id not in gone]
