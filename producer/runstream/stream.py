"""One reader of one run: it catches up by itself, and then takes part in the shared read (see `tail`)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from runstream.codec import Decoder
from runstream.errors import ProtocolError
from runstream.history import History
from runstream.model import Event, EventId
from runstream.settled import Settling
from runstream.tail import Feed, Page, Tails
from runstream.voids import stands_behind

_BATCH_BYTES = 128 * 1024


class _SentBack(Exception):
    """The reader goes on from another place than the one that it was about to read from."""


class EventStream(AsyncIterator[Event]):
    """The events of one run, from the place where this reader begins to the run's end.

    Iterate it with `async for`. Leaving the loop early frees everything; `aclose` or `async with` do it at a named
    place. It is for one task at a time.
    """

    def __init__(
        self,
        tails: Tails,
        run_id: str,
        *,
        after: EventId | None,
        live: bool,
        on_leave: Callable[[], Awaitable[None]] | None = None,
        settling: Settling | None = None,
    ) -> None:
        self._tails = tails
        self._run_id = run_id
        self._cursor = after
        # The last event that was read. It is ahead of the cursor where events are held until they are settled.
        self._position = after
        self._settling = settling
        self._history = History(after)
        # The highest id that was given out of what Redis has lost, until the consumer is told that it is void.
        self._rewinds: EventId | None = None
        self._live = live
        self._on_leave = on_leave
        self._at_end = False
        self._decoder = Decoder()
        self._ready: deque[Event] = deque()
        self._feed: Feed | None = None
        # Where the shared read was when this reader joined it: up to there it reads by itself.
        self._joined_at = EventId(0, 0)
        self._failure: ProtocolError | None = None
        self._started = False
        self._done = False

    @property
    def cursor(self) -> str | None:
        """The id of the last event given out: what to pass as `after` to go on from here."""
        return None if self._cursor is None else str(self._cursor)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event.

        Raises:
            RunNotFound: there is no such run, or it expired under the reader.
            ProtocolError: an event was written by a version that this one cannot read.
            redis.exceptions.ConnectionError: Redis was away for longer than `reconnect_timeout`.
        """
        if self._done and not self._ready:
            raise StopAsyncIteration
        try:
            event = await self._next()
        except BaseException as error:
            # A cancelled wait (a timeout around one step, say) leaves the reader as it was.
            if not isinstance(error, asyncio.CancelledError):
                self._close()
            raise
        if event is None:
            raise StopAsyncIteration
        return self._given_out(event)

    async def batch(self) -> list[Event]:
        """The events that are there by now, in their order; waits for the first. None after the last one.

        They are no more than 128 KiB, or one event; what else is there comes with the next call.

        For those who do something that costs more than an event does, such as drawing a screen.

        Raises:
            RunNotFound, ProtocolError, redis.exceptions.ConnectionError: as the iteration does.
        """
        first = await anext(self, None)
        events = [] if first is None else [first]
        size = 0 if first is None else first.size
        while events and size < _BATCH_BYTES and (event := self._next_ready()) is not None:
            events.append(self._given_out(event))
            size += event.size
        return events

    async def aclose(self) -> None:
        """Stop reading. The run goes on, unless the reader was opened with `on_disconnect="stop"`."""
        self._close()
        leave, self._on_leave = self._on_leave, None
        if leave is not None and not self._at_end:
            await leave()

    def detach(self) -> None:
        """Stop reading without having left, since somebody goes on for this reader: the run goes on in any case."""
        self._on_leave = None
        self._close()

    def _close(self) -> None:
        self._done = True
        self._ready.clear()
        self._leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._feed is not None:
            self._tails.detach(self._feed)
            self._feed = None

    def _given_out(self, event: Event) -> Event:
        if event.mode != "gap":
            self._cursor = EventId.of(event.id)
        if event.mode == "end":
            self._at_end = True
            self._close()
        return event

    def _next_ready(self) -> Event | None:
        """The next event, if it is there."""
        if self._settling is not None and not self._ready and self._feed is not None and self._feed.settled is not None:
            self._ready.extend(self._settling.settle(self._feed.settled))
        while not self._ready and self._feed is not None and self._feed.buffer and not self._is_behind:
            self._take(self._feed.take())
        return self._ready.popleft() if self._ready else None

    async def _next(self) -> Event | None:
        if not self._started:
            await self._start()
        while True:
            event = self._next_ready()
            if event is not None:
                return event
            if self._settling is not None and (again := self._settling.read_again()) is not None:
                self._leave()
                self._position, self._failure, self._done = again, None, False
            if self._failure is not None:
                raise self._failure
            if self._done:
                self._at_end = True
                return None
            if self._feed is None:
                with suppress(_SentBack):
                    await self._catch_up()
            elif self._is_behind:
                with suppress(_SentBack):
                    await self._read_between()
            else:
                await self._wait(self._feed)

    async def _start(self) -> None:
        if self._live:
            place = await self._tails.place_of(self._run_id)
            self._cursor = self._position = place.end or place.last
            self._history = History(self._position)
        self._started = True

    async def _catch_up(self) -> None:
        """Read a page; at the end of the stream, join the shared read."""
        # From the beginning means after 0-0: the first event of a run is 1-0.
        cursor = position = self._position or EventId(0, 0)
        page = await self._page(cursor)
        if page.entries:
            cursor = position = EventId.of(page.entries[-1][0].decode())
        else:
            place = await self._tails.place_of(self._run_id)
            lost = self._history.lost_by(place)
            if lost is not None:
                self._read_again(lost)
                raise _SentBack
            if place.end is not None:
                await self._finish(cursor, place.end)
                return
            position = min(cursor, place.last)
        if not (page.has_more or self._has_seen_the_end or self._failure is not None):
            self._join(cursor, position)

    @property
    def _has_seen_the_end(self) -> bool:
        return bool(self._ready) and self._ready[-1].mode == "end"

    def _join(self, cursor: EventId, position: EventId) -> None:
        """Take part in the shared read. Where it is ahead, what lies between is read first, page by page."""
        feed = self._tails.new_feed(self._run_id, self._history)
        self._joined_at = self._tails.attach(feed, cursor, position, self._decoder, settled=self._settling is not None)
        self._feed = feed

    @property
    def _is_behind(self) -> bool:
        return (self._position or EventId(0, 0)) < self._joined_at

    async def _read_between(self) -> None:
        page = await self._page(self._position or EventId(0, 0), self._joined_at)
        if not page.entries:
            # It has been removed; the next event shows the gap.
            self._joined_at = EventId(0, 0)

    async def _finish(self, cursor: EventId, end: EventId) -> None:
        """The run has ended: come to the end of its stream."""
        # The end may have been written between the page that was empty and the look at the record.
        if cursor >= end:
            self._done = True
        elif not (await self._page(cursor)).entries:
            # It was written and is gone: what this reader has not seen has been removed.
            if self._settling is not None:
                self._ready.extend(self._settling.settle(end))
            self._ready.append(Event(str(end), "gap", (), {"after": str(cursor), "before": None}))
            self._done = True

    async def _page(self, cursor: EventId, until: EventId | None = None) -> Page:
        page = await self._tails.page(self._run_id, cursor, until)
        for entry in page.entries:
            try:
                event = await self._tails.decode(self._run_id, self._decoder, entry)
            except ProtocolError as error:
                # The events before it are good, and come first.
                self._failure = error
                break
            if not self._take(event):
                raise _SentBack
        return page

    async def _wait(self, feed: Feed) -> None:
        if feed.failure is not None:
            raise feed.failure
        if feed.overflown or feed.finished:
            self._leave()
            return
        await feed.alarm.wait()
        feed.alarm.clear()

    def _take(self, event: Event) -> bool:
        """Queue an event for the reader, behind a gap event where some between it and the last one are gone.

        False where the event is not of the history that the reader was given: then it reads again.
        """
        lost = self._history.lost_from(event)
        if lost is not None:
            self._read_again(lost)
            return False
        missing = _gap(self._position, event, from_start=not self._live)
        if missing is not None:
            missing = missing if self._rewinds is None else str(self._history.last)
            self._queue(Event(event.id, "gap", (), {"after": missing, "before": event.id}))
        if self._rewinds is not None and stands_behind(event) is not None:
            event = replace(event, data={**event.data, "rewinds": str(self._rewinds)})
            self._rewinds = None
        self._history.take(event)
        self._position = EventId.of(event.id)
        self._queue(event)
        return True

    def _read_again(self, attempt: int) -> None:
        """Go back to the beginning of an attempt: what was given of it, and behind it, Redis has lost."""
        self._leave()
        self._decoder = Decoder()
        self._failure = None
        self._rewinds = max(self._rewinds or EventId(0, 0), self._history.last)
        self._position = self._history.read_again(attempt)

    def _queue(self, event: Event) -> None:
        if self._settling is None:
            self._ready.append(event)
        else:
            self._ready.extend(self._settling.take(event))


def _gap(last: EventId | None, event: Event, *, from_start: bool) -> str | None:
    """The id after which events are missing before this one; None when none is."""
    here = EventId.of(event.id)
    # An attempt may have come and gone without an event; the next one's first tells behind which event it stands.
    follows = stands_behind(event)
    if last is None or last == (0, 0):
        return "0-0" if from_start and follows != (0, 0) else None
    if here.attempt == last.attempt:
        return str(last) if here.seq != last.seq + 1 else None
    # What this reader has beyond that, Redis has come back without: nothing is missing, and `after` tells what is void.
    return None if follows is not None and follows <= last else str(last)
