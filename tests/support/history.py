"""A run's whole stream, checked by the rules of `docs/PROTOCOL.md` and by no code of ours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from runstream import Event
from runstream.model import EventId


def check_history(events: Sequence[Event]) -> None:
    """Ids that ascend without holes within an attempt, each attempt behind the one before, and one end, at the end."""
    ids = [EventId.parse(event.id) for event in events]
    assert ids == sorted(set(ids))
    assert [event.mode for event in events].count("end") == 1
    assert events[-1].mode == "end"
    last = None
    for attempt, group in groupby(events, key=lambda event: EventId.of(event.id).attempt):
        first, *_ = entries = list(group)
        assert [EventId.of(event.id).seq for event in entries] == list(range(len(entries)))
        assert first.mode in ("attempt", "end")
        assert first.data.get("after") == last
        assert first.mode == "end" or first.data["attempt"] == attempt
        last = entries[-1].id


def standing(events: Sequence[Event]) -> list[Event]:
    """What the graph has published and no later attempt has voided."""
    kept: list[Event] = []
    for event in events:
        if event.is_chunk:
            kept.append(event)
        elif event.mode == "attempt" and "voids" in event.data:
            voids = event.data["voids"]
            tasks, ids = {task["id"] for task in voids.get("tasks", ())}, set(voids.get("events", ()))
            left = [each for each in kept if not (voids.get("all") or each.task in tasks or each.id in ids)]
            assert len(kept) - len(left) == voids["count"]
            kept = left
    return kept


def texts(events: Sequence[Event]) -> dict[str, str]:
    """The text of each message, by its id, in the order in which they began."""
    told: defaultdict[str, str] = defaultdict(str)
    for event in events:
        if event.mode == "messages":
            message: dict[str, Any] = event.data[0]
            told[message["id"]] += message["content"]
    return dict(told)
