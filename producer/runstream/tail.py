"""Reading runs: one blocking XREAD over all streams that this process watches, whatever the number of readers.

A reader first catches up by itself, page by page, and then joins the shared read. Where the shared read has got further
by then, the reader is told how far, and reads the stretch between by itself before it turns to its buffer; so nothing
falls between the two, and no reader chases a fast stream for ever. A reader whose buffer overflows loses the buffer,
not its place: it goes back to catching up from the last event that it was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from redis.asyncio import Redis

from runstream.codec import Decoder, MissingBase
from runstream.errors import ProtocolError, RunNotFound, RunstreamError
from runstream.faults import AWAY, is_passing, patiently
from runstream.keys import Keys
from runstream.model import Event, EventId
from runstream.tasks import cancel
from runstream.xread import Entry, packed, xread

PAGE = 500
"""How many events a reader that catches up asks for at once."""
_WAKE_TTL_MS = 60_000
_RETRY_DELAY = 0.05
_RETRY_DELAY_MAX = 1.0
_CROWD = 200
"""With so many streams a read takes a millisecond or so, the shortest time for which asyncio can sleep."""
_REST_PER_WATCH = 5e-6
_REST_MAX = 0.01

_T = TypeVar("_T")


class _Feed:
    """The shared read's side of one reader: a bounded buffer and the reader's alarm clock."""

    __slots__ = ("alarm", "buffer", "failure", "limit", "overflown", "run_id")

    def __init__(self, run_id: str, limit: int) -> None:
        self.run_id = run_id
        self.limit = limit
        self.buffer: deque[Event] = deque()
        self.alarm = asyncio.Event()
        self.overflown = False
        self.failure: Exception | None = None

    def offer(self, event: Event) -> None:
        if self.overflown:
            return
        if len(self.buffer) >= self.limit:
            self.buffer.clear()
            self.overflown = True
        else:
            self.buffer.append(event)
        self.alarm.set()

    def fail(self, failure: Exception) -> None:
        self.failure = failure
        self.alarm.set()


class _Watch:
    """One stream of the shared read: where it has got to, and who listens; key and position as XREAD takes them."""

    __slots__ = ("decoder", "feeds", "packed_key", "packed_position", "position")

    def __init__(self, key: str, position: EventId) -> None:
        self.decoder = Decoder()
        self.feeds: dict[_Feed, EventId] = {}
        self.packed_key = packed(key.encode())
        self.advance(position, str(position).encode())

    def advance(self, position: EventId, entry_id: bytes) -> None:
        """Go on reading behind this entry."""
        self.position = position
        self.packed_position = packed(entry_id)


class Tails:
    """Every tail of a process: the shared read and the readers behind it.

    Args:
        calls: the connections on which readers catch up.
        blocking: the connection of the shared read; closed by `aclose`.
        keys: the cell's keys.
        buffer: how many events wait for a slow reader.
        reconnect_timeout: seconds that Redis may be away before readers are told.
        probe_interval: how often, in seconds, it is looked whether the runs that are watched still exist.
    """

    def __init__(
        self, calls: Redis, blocking: Redis, keys: Keys, *, buffer: int, reconnect_timeout: float, probe_interval: float
    ) -> None:
        self._calls = calls
        self._blocking = blocking
        self._keys = keys
        self._buffer = buffer
        self._reconnect_timeout = reconnect_timeout
        self._probe_interval = probe_interval
        self._watches: dict[str, _Watch] = {}
        self._wake_key = keys.wake(secrets.token_hex(8))
        self._wake_position = b"0-0"
        self._joined = False
        self._waking: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def watching(self) -> int:
        """How many readers take part in the shared read."""
        return sum(len(watch.feeds) for watch in self._watches.values())

    def open(self, run_id: str, *, after: EventId | None, live: bool) -> EventStream:
        """A reader of one run; it reads nothing before it is iterated."""
        return EventStream(self, run_id, after=after, live=live)

    async def aclose(self) -> None:
        """End the shared read; readers that still wait are told that the client is closed."""
        self._closed = True
        await cancel([self._reading, self._waking])
        self._fail_all(RunstreamError("the client is closed"))
        await self._blocking.aclose()

    def new_feed(self, run_id: str) -> _Feed:
        """A buffer for one reader."""
        if self._closed:
            raise RunstreamError("the client is closed")
        return _Feed(run_id, self._buffer)

    def attach(self, feed: _Feed, position: EventId, decoder: Decoder) -> EventId:
        """Join the shared read from `position` on, or from where it has got to if that is further.

        Returns:
            The id after which events come through the feed; what lies before it is the reader's to read.
        """
        watch = self._watches.get(feed.run_id)
        if watch is None:
            watch = self._watches[feed.run_id] = _Watch(self._keys.events(feed.run_id), position)
            self._wake()
        watch.decoder.adopt(decoder)
        joined_at = watch.feeds[feed] = max(position, watch.position)
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_all(), name="runstream-tail")
        return joined_at

    def detach(self, feed: _Feed) -> None:
        """Leave the shared read."""
        watch = self._watches.get(feed.run_id)
        if watch is not None and watch.feeds.pop(feed, None) is not None and not watch.feeds:
            del self._watches[feed.run_id]

    async def page(self, run_id: str, after: EventId, until: EventId | None = None) -> list[Entry]:
        """The next events after an id, at most a page of them."""
        key, last = self._keys.events(run_id), "+" if until is None else str(until)
        reply = await self.patiently(lambda: self._calls.xrange(key, f"({after}", last, count=PAGE))
        return cast("list[Entry]", reply)

    async def decode(self, run_id: str, decoder: Decoder, entry: Entry) -> Event:
        """Decode an entry, fetching the event that it refers to where the decoder has not seen it."""
        event_id = entry[0].decode()
        try:
            return decoder.decode(event_id, entry[1])
        except MissingBase as missing:
            key, base_id = self._keys.events(run_id), missing.base_id
            found = cast("list[Entry]", await self.patiently(lambda: self._calls.xrange(key, base_id, base_id)))
            decoder.add_base(base_id, found[0][1] if found else None)
            return decoder.decode(event_id, entry[1])

    async def last_id(self, run_id: str) -> EventId:
        """The id of the newest event; 0-0 when there is none yet."""
        key = self._keys.events(run_id)
        reply = cast("list[Entry]", await self.patiently(lambda: self._calls.xrevrange(key, count=1)))
        return EventId.parse(reply[0][0].decode()) if reply else EventId(0, 0)

    async def end_of(self, run_id: str) -> EventId | None:
        """The id of the run's end event; None while it has not ended.

        Raises:
            RunNotFound: the run has no record.
        """
        key = self._keys.run(run_id)
        status, end_id = await self.patiently(lambda: cast("Any", self._calls).hmget(key, "status", "end_id"))
        if status is None:
            raise RunNotFound(run_id)
        return None if end_id is None else EventId.parse(end_id.decode())

    async def patiently(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Make a call that only reads; while Redis is away, again, for as long as a reader waits."""
        return await patiently(call, self._reconnect_timeout)

    async def _read_all(self) -> None:
        """The shared read: goes on while there is somebody to read for."""
        loop = asyncio.get_running_loop()
        away_since: float | None = None
        delay, next_probe = _RETRY_DELAY, loop.time() + self._probe_interval
        while self._watches:
            try:
                await self._deliver(await self._read_once())
                await self._rest()
                if loop.time() > next_probe:
                    await self._probe()
                    next_probe = loop.time() + self._probe_interval
                away_since, delay = None, _RETRY_DELAY
            except AWAY as error:
                away_since = away_since or loop.time()
                if loop.time() - away_since > self._reconnect_timeout:
                    self._fail_all(error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_DELAY_MAX)
            except Exception as error:  # noqa: BLE001 - whatever it is, no reader may wait for a read that has ended
                if not is_passing(error):
                    self._fail_all(error)
                await asyncio.sleep(delay)

    async def _read_once(self) -> list[tuple[bytes, Iterator[Entry]]]:
        watches = list(self._watches.values())
        keys = [packed(self._wake_key.encode()), *(watch.packed_key for watch in watches)]
        positions = [packed(self._wake_position), *(watch.packed_position for watch in watches)]
        block_ms = round(self._probe_interval * 1000)
        return await xread(self._blocking, keys, positions, count=PAGE, block_ms=block_ms)

    async def _rest(self) -> None:
        """Let events gather where a read is dear: Redis and this process both take time for each stream in it."""
        if len(self._watches) >= _CROWD:
            await asyncio.sleep(min(len(self._watches) * _REST_PER_WATCH, _REST_MAX))

    async def _deliver(self, reply: Iterable[tuple[bytes, Iterator[Entry]]]) -> None:
        prefix, suffix = len(self._keys.run("")), len(":events")
        for key, entries in reply:
            name = key.decode()
            if name == self._wake_key:
                *_, (self._wake_position, _) = entries
                continue
            run_id = name[prefix:-suffix]
            watch = self._watches.get(run_id)
            if watch is not None:
                await self._deliver_run(run_id, watch, entries)

    async def _deliver_run(self, run_id: str, watch: _Watch, entries: Iterator[Entry]) -> None:
        for entry in entries:
            try:
                event = await self.decode(run_id, watch.decoder, entry)
            except ProtocolError as error:
                self._fail(run_id, error)
                return
            position = EventId.of(event.id)
            watch.advance(position, entry[0])
            for feed, joined_at in watch.feeds.items():
                if position > joined_at:
                    feed.offer(event)
        for feed in [feed for feed in watch.feeds if feed.overflown]:
            self.detach(feed)

    async def _probe(self) -> None:
        """Tell the readers of runs that no longer exist, who would wait for ever."""
        run_ids = list(self._watches)
        pipe = self._calls.pipeline(transaction=False)
        for run_id in run_ids:
            pipe.exists(self._keys.run(run_id))
        for run_id, exists in zip(run_ids, await pipe.execute(), strict=True):
            if not exists:
                self._fail(run_id, RunNotFound(run_id))

    def _fail(self, run_id: str, error: Exception) -> None:
        watch = self._watches.pop(run_id, None)
        for feed in watch.feeds if watch is not None else ():
            feed.fail(error)

    def _fail_all(self, error: Exception) -> None:
        for run_id in list(self._watches):
            self._fail(run_id, error)

    def _wake(self) -> None:
        """Make the blocked read return, so that it takes in new streams. One stroke serves all who joined before."""
        self._joined = True
        if self._reading is None or self._reading.done() or (self._waking is not None and not self._waking.done()):
            return
        self._waking = asyncio.create_task(self._stroke(), name="runstream-wake")

    async def _stroke(self) -> None:
        while self._joined:
            self._joined = False
            pipe = self._calls.pipeline(transaction=False)
            pipe.xadd(self._wake_key, {"1": "1"}, maxlen=1, approximate=False)
            pipe.pexpire(self._wake_key, _WAKE_TTL_MS)
            # Where Redis is away the read will come back by itself, and take the new streams in then.
            with contextlib.suppress(*AWAY):
                await pipe.execute()


class EventStream(AsyncIterator[Event]):
    """The events of one run, from the place where this reader begins to the run's end.

    Iterate it with `async for`. Leaving the loop early frees everything; `aclose` or `async with` do it at a named
    place. It is for one task at a time.
    """

    def __init__(self, tails: Tails, run_id: str, *, after: EventId | None, live: bool) -> None:
        self._tails = tails
        self._run_id = run_id
        self._cursor = after
        self._live = live
        self._decoder = Decoder()
        self._ready: deque[Event] = deque()
        self._feed: _Feed | None = None
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
                await self.aclose()
            raise
        if event is None:
            raise StopAsyncIteration
        if event.mode != "gap":
            self._cursor = EventId.of(event.id)
        if event.mode == "end":
            await self.aclose()
        return event

    async def aclose(self) -> None:
        """Stop reading. The run goes on."""
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

    async def _next(self) -> Event | None:
        if not self._started:
            await self._start()
        while True:
            if self._ready:
                return self._ready.popleft()
            if self._done:
                return None
            if self._feed is None:
                await self._catch_up()
            elif self._feed.buffer:
                self._take(self._feed.buffer.popleft())
            else:
                await self._wait(self._feed)

    async def _start(self) -> None:
        end = await self._tails.end_of(self._run_id)
        if self._live:
            self._cursor = end or await self._tails.last_id(self._run_id)
        self._started = True

    async def _catch_up(self) -> None:
        """Read a page; at the end of the stream, join the shared read."""
        # From the beginning means after 0-0: the first event of a run is 1-0.
        cursor = self._cursor or EventId(0, 0)
        entries = await self._page(cursor)
        if not entries and await self._at_end(cursor):
            self._done = True
            return
        cursor = EventId.of(entries[-1][0].decode()) if entries else cursor
        if len(entries) == PAGE or (self._ready and self._ready[-1].mode == "end"):
            return
        feed = self._tails.new_feed(self._run_id)
        joined_at = self._tails.attach(feed, cursor, self._decoder)
        self._feed = feed
        while cursor < joined_at and (between := await self._page(cursor, joined_at)):
            cursor = EventId.of(between[-1][0].decode())

    async def _page(self, cursor: EventId, until: EventId | None = None) -> list[Entry]:
        entries = await self._tails.page(self._run_id, cursor, until)
        for entry in entries:
            self._take(await self._tails.decode(self._run_id, self._decoder, entry))
        return entries

    async def _at_end(self, cursor: EventId) -> bool:
        """Whether an empty page means that the run is over, rather than that nothing has come yet."""
        end = await self._tails.end_of(self._run_id)
        if end is None or cursor >= end:
            return end is not None
        if await self._page(cursor):
            return False
        # The end was written and is gone: what this reader has not seen has been removed.
        self._ready.append(Event(str(end), "gap", (), {"after": str(cursor), "before": None}))
        return True

    async def _wait(self, feed: _Feed) -> None:
        if feed.failure is not None:
            raise feed.failure
        if feed.overflown:
            self._leave()
            return
        await feed.alarm.wait()
        feed.alarm.clear()

    def _take(self, event: Event) -> None:
        """Queue an event for the reader, behind a gap event where some between it and the last one are gone."""
        last = EventId.of(self._ready[-1].id) if self._ready else self._cursor
        missing = _gap(last, event, from_start=not self._live)
        if missing is not None:
            self._ready.append(Event(event.id, "gap", (), {"after": missing, "before": event.id}))
        self._ready.append(event)


def _gap(last: EventId | None, event: Event, *, from_start: bool) -> str | None:
    """The id after which events are missing before this one; None when none is."""
    here = EventId.of(event.id)
    if last is None or last == (0, 0):
        return "0-0" if from_start and here != (1, 0) else None
    if here.attempt == last.attempt:
        return str(last) if here.seq != last.seq + 1 else None
    if here != (last.attempt + 1, 0):
        return str(last)
    ended_with = event.data.get("after") if event.mode == "attempt" else None
    return str(last) if ended_with is not None and ended_with != str(last) else None
