"""What has to hold of a stream whatever the graph: ids, attempts, what they void, one end; and that readers agree."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.support.oracle.history import History, Recording, Segment

from runstream import Event, EventId


def stream_violations(run: History) -> Iterator[str]:
    """What is wrong with the stream and with the record of a run."""
    yield from _ids(run.stored)
    yield from _attempts(run.stored)
    yield from _voids(run.stored)
    yield from _end(run)
    yield from _holders(run)


def reader_violations(run: History) -> Iterator[str]:
    """Where readers saw something else than what is stored."""
    for recording in run.recordings:
        if run.forgets and recording.settled:
            # What was settled and lost is given again: a reader of that kind cannot take anything back.
            continue
        for told in _held(recording, run.stored) if run.forgets else _recording(recording, run.stored):
            yield f"reader {recording.reader}: {told}"


def _ids(events: Sequence[Event]) -> Iterator[str]:
    last = EventId(0, 0)
    for event in events:
        here = EventId.of(event.id)
        if here <= last:
            yield f"event {event.id} stands behind {last}: an older attempt's, or out of order"
        elif here.attempt == last.attempt and here.seq != last.seq + 1:
            yield f"a hole: event {event.id} follows {last}"
        elif here.attempt != last.attempt and here.seq != 0:
            yield f"a hole: attempt {here.attempt} begins with event {event.id}"
        last = max(last, here)


def _attempts(events: Sequence[Event]) -> Iterator[str]:
    """Each attempt begins with its event, which says what it stands behind."""
    before: str | None = None
    for event in events:
        here = EventId.of(event.id)
        if (here.seq == 0) != (event.mode == "attempt") and not (here.seq == 0 and event.mode == "end"):
            yield f"event {event.id} has mode {event.mode}"
        elif here.seq == 0:
            yield from _first(event, here, before)
        before = event.id


def _first(event: Event, here: EventId, before: str | None) -> Iterator[str]:
    if event.data.get("after") != before:
        yield f"event {event.id} says that it stands behind {event.data.get('after')}, and it stands behind {before}"
    if event.mode == "attempt":
        if event.data["attempt"] != here.attempt:
            yield f"event {event.id} says that it is attempt {event.data['attempt']}"
        tells = {"left", "checkpoint", "voids"} <= event.data.keys() and event.data["voids"] is not None
        if before is not None and not tells:
            yield f"event {event.id} does not tell left, checkpoint and voids: {event.data}"


def voided(events: Sequence[Event]) -> dict[str, Event]:
    """The events that some attempt voids, by id: PROTOCOL, "Taking over"."""
    gone: dict[str, Event] = {}
    for at, event in enumerate(events):
        if event.mode == "attempt" and event.data.get("voids"):
            gone |= {one.id: one for one in _voided_by(event, events[:at])}
    return gone


def valid(events: Sequence[Event]) -> list[Event]:
    """What a reader holds after leaving out what attempts void."""
    gone = voided(events)
    return [event for event in events if event.id not in gone]


def _voided_by(attempt: Event, before: Sequence[Event]) -> list[Event]:
    voids: Mapping[str, Any] = attempt.data["voids"]
    tasks = {task["id"] for task in voids.get("tasks", ())}
    ids = set(voids.get("events", ()))
    return [
        event
        for event in before
        if event.mode != "attempt" and (voids.get("all") or event.task in tasks or event.id in ids)
    ]


def _voids(events: Sequence[Event]) -> Iterator[str]:
    """What attempts say of what they void is so."""
    gone: set[str] = set()
    for at, event in enumerate(events):
        if event.mode != "attempt" or not event.data.get("voids"):
            continue
        now = {one.id for one in _voided_by(event, events[:at])} - gone
        gone |= now
        if event.data["voids"].get("count") != len(now):
            yield f"attempt {event.id} says that it voids {event.data['voids'].get('count')} events, it is {len(now)}"
        unknown = set(event.data["voids"].get("events", ())) - {one.id for one in events[:at]}
        if unknown:
            yield f"attempt {event.id} voids events that are not there: {sorted(unknown)}"


def _end(run: History) -> Iterator[str]:
    ends = [event for event in run.stored if event.mode == "end"]
    if len(ends) != 1:
        yield f"{len(ends)} end events: {[event.id for event in ends]}"
    if not ends:
        return
    if run.stored[-1].mode != "end":
        yield f"event {run.stored[-1].id} comes after the end {ends[0].id}"
    status, told = run.record.get("status"), ends[-1].data.get("status")
    if status != told:
        yield f"the record says {status}, the end event {told}"
    if status not in run.ends:
        yield f"it ended as {status} ({ends[-1].data}), and may end as {', '.join(sorted(run.ends))}"
    if run.record.get("end_id") != ends[-1].id:
        yield f"the record's end is {run.record.get('end_id')}, the stream's {ends[-1].id}"


def _holders(run: History) -> Iterator[str]:
    """The record's list of who held the run, and what the attempts say of it, are one story."""
    holders = json.loads(run.record.get("holders", "[]"))
    numbers = [holder["attempt"] for holder in holders]
    if numbers != sorted(set(numbers)) or (numbers and numbers[-1] > int(run.record["attempt"])):
        yield f"the record's attempts are {numbers}, then {run.record['attempt']}"
    causes = {holder["attempt"]: holder["cause"] for holder in holders}
    begun = {EventId.of(event.id).attempt: event for event in run.stored if event.mode == "attempt"}
    for number, event in begun.items():
        left = event.data.get("left")
        if left is not None and number - 1 in causes and causes[number - 1] != left:
            yield f"attempt {number} says that the one before was left as {left}, the record {causes[number - 1]}"
    unheard = [number for number in begun if number < max(begun) and number not in causes]
    if unheard and len(holders) < 50:
        yield f"attempts {unheard} are over, and the record does not tell who had them"


def _held(recording: Recording, stored: Sequence[Event]) -> Iterator[str]:
    """Where what a reader holds at the end, without what it was told is void, is not what stands in the stream.

    Redis may have lost what the reader was given; so ids may come again, after an attempt that takes them back.
    """
    held: list[Event] = []
    for segment in recording.segments:
        for event in segment.events:
            if event.mode == "gap":
                yield f"it was told of a gap: {event.data}"
                continue
            if EventId.of(event.id).seq == 0:
                held = _after_boundary(held, event)
            if any(one.id == event.id for one in held[-1:]) or (
                held and EventId.of(held[-1].id) > EventId.of(event.id)
            ):
                yield f"it was given event {event.id} behind {held[-1].id}, which was not taken back"
            held.append(event)
    standing = [event for event in valid(stored) if event.mode != "attempt"]
    held = [event for event in held if event.mode != "attempt"]
    first = recording.segments[0]
    if first.live and held:
        ids = [event.id for event in standing]
        standing = standing[ids.index(held[0].id) :] if held[0].id in ids else standing
    elif first.live and not first.events and first.cursor is not None:
        standing = [event for event in standing if EventId.of(event.id) > EventId.of(first.cursor)]
    if held != standing:
        wrong = [event.id for event in held if event not in standing]
        lacks = [event.id for event in standing if event not in held]
        yield f"it holds {wrong}, which do not stand, and lacks {lacks}"


def _after_boundary(held: Sequence[Event], event: Event) -> list[Event]:
    """What is left of what a reader holds when an attempt's first event comes: PROTOCOL, "Numbers"."""
    voids, here = event.data.get("voids") or {}, EventId.of(event.id)
    after = EventId.of(event.data.get("after") or "0-0")
    rewinds = EventId.of(event.data.get("rewinds", "0-0"))
    tasks, ids = {task["id"] for task in voids.get("tasks", ())}, set(voids.get("events", ()))
    kept = []
    for one in held:
        place = EventId.of(one.id)
        lost = after < place < here or here <= place <= rewinds
        done_again = one.mode != "attempt" and (voids.get("all") or one.task in tasks or one.id in ids)
        if not lost and not done_again:
            kept.append(one)
    return kept


def _recording(recording: Recording, stored: Sequence[Event]) -> Iterator[str]:
    behind: dict[str, int] = {}
    if recording.settled:
        # It may have begun behind an event that turned out to be void.
        everything, stored = stored, valid(stored)
        standing = {event.id for event in stored}
        count = 0
        for event in everything:
            count += event.id in standing
            behind[event.id] = count
    else:
        behind = {event.id: at + 1 for at, event in enumerate(stored)}
    place = {event.id: at for at, event in enumerate(stored)}
    for segment in recording.segments:
        yield from _segment(segment, stored, place, behind)
    if recording.segments and not recording.segments[-1].left:
        stood = recording.segments[-1].cursor
        for segment in recording.segments:
            stood = segment.events[-1].id if segment.events else stood
        if not stored or stood != stored[-1].id:
            yield f"it read to the end, and stood at {stood}"


def _segment(
    segment: Segment, stored: Sequence[Event], place: Mapping[str, int], behind: Mapping[str, int]
) -> Iterator[str]:
    at = None if segment.live else 0 if segment.after is None else behind.get(segment.after, 0)
    for event in segment.events:
        if event.mode == "gap":
            yield f"it was told of a gap: {event.data}"
            at = None
            continue
        here = place.get(event.id)
        if here is None:
            yield f"it saw event {event.id} ({event.mode}), which is not stored"
            continue
        if at is not None and here != at:
            missed = [one.id for one in stored[at:here]]
            yield f"it missed {missed} before {event.id}" if missed else f"it saw {event.id} again or too late"
        if event != stored[here]:
            yield f"it saw event {event.id} as {event}, stored is {stored[here]}"
        at = here + 1
