"""Readers that join, leave and come back when they like."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

from tests.support.oracle import Recording, Segment

from runstream import Client, Event
from runstream.stream import EventStream

_STAYS = (1, 5, 20, 100, 10_000)
_LONGEST_PATIENCE = 0.05


async def read(client: Client, run_id: str, name: str, random: Random, *, settled: bool = False) -> Recording:
    """Read a run to its end, with interruptions; the first time perhaps from where it has got to."""
    segments: list[Segment] = []
    after: str | None = None
    live = random.random() < 0.3
    while True:
        stream = client.tail(run_id, after=None if live else after, live=live, settled=settled)
        events, ended = await _stay(stream, random)
        segments.append(Segment(after, live, events, left=not ended, cursor=stream.cursor))
        if ended:
            return Recording(name, segments, settled=settled)
        after, live = stream.cursor, live and stream.cursor is None
        await asyncio.sleep(random.random() * 0.2)


async def read_all(client: Client, run_id: str, name: str) -> Recording:
    """Read a run from its beginning to its end."""
    async with client.tail(run_id) as stream:
        return Recording(name, [Segment(None, False, [event async for event in stream])])


async def read_on(client: Client, run_id: str, recording: Recording) -> Recording:
    """Have a reader go on behind what it was given last: the end that it has seen may be lost."""
    cursor: str | None = None
    for segment in recording.segments:
        cursor = segment.events[-1].id if segment.events else segment.cursor or cursor
    async with client.tail(run_id, after=cursor, settled=recording.settled) as stream:
        more = Segment(cursor, False, [event async for event in stream])
    return replace(recording, segments=[*recording.segments, more])


async def _stay(stream: EventStream, random: Random) -> tuple[list[Event], bool]:
    """Read for a while; what came, and whether that was the end."""
    events: list[Event] = []
    async with stream:
        for _ in range(random.choice(_STAYS)):
            event = await _next(stream, random)
            if event is None:
                return events, True
            events.append(event)
    return events, False


async def _next(stream: EventStream, random: Random) -> Event | None:
    """The next event, for which some wait only so long before they ask again."""
    while True:
        patience = random.random() * _LONGEST_PATIENCE if random.random() < 0.05 else None
        try:
            async with asyncio.timeout(patience):
                return await anext(stream, None)
        except TimeoutError:
            continue
