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
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from runstream.codec import Decoder, MissingBase
from runstream.errors import ProtocolError, RunNotFound, RunstreamError
from runstream.faults import AWAY, is_passing, patiently
from runstream.history import History, Place
from runstream.keys import Keys
from runstream.missing import confirm_missing, read_run
from runstream.model import Event, EventId, Status
from runstream.scripts import Scripts
from runstream.tasks import cancel
from runstream.xread import Entry, entries_of, packed, xread

PAGE = 500
"""How many events a reader that catches up asks for at once, and"""
PAGE_BYTES = 128 * 1024
"""how many bytes of them: a larger event comes alone."""
_READ_BYTES = 4 * 1024 * 1024
"""How many bytes the shared read asks for at once, as far as can be told from the events that came before."""
_USUAL_EVENT = 512.0
_FORGETS = 0.95
_PLAIN_PAGE = 32
_WAKE_TTL_MS = 60_000
_RETRY_DELAY = 0.05
_RETRY_DELAY_MAX = 1.0
_CROWD = 200
"""With so many streams a read takes a millisecond or so, the shortest time for which asyncio can sleep."""
_REST_PER_WATCH = 5e-6
_REST_MAX = 0.01

_PLACE_FIELDS = ("status", "attempt", "seq", "end_id", "after", "worker")

_T = TypeVar("_T")


class Feed:
    """The shared read's side of one reader: a bounded buffer and the reader's alarm clock.

    Args:
        run_id: the run.
        limit: how many events the buffer takes,
        limit_bytes: and how many bytes of them; one event in any case.
        history: what the reader was given.
    """

    __slots__ = (
        "_bytes",
        "alarm",
        "buffer",
        "failure",
        "finished",
        "history",
        "limit",
        "limit_bytes",
        "overflown",
        "run_id",
        "settled",
    )

    def __init__(self, run_id: str, limit: int, limit_bytes: int, history: History) -> None:
        self.run_id = run_id
        self.history = history
        self.limit = limit
        self.limit_bytes = limit_bytes
        self._bytes = 0
        self.buffer: deque[Event] = deque()
        self.alarm = asyncio.Event()
        self.overflown = False
        self.failure: Exception | None = None
        self.finished = False
        self.settled: EventId | None = None

    def settle(self, up_to: EventId) -> None:
        """Take it that the run's events up to this id are settled."""
        self.settled = up_to
        self.alarm.set()

    def offer(self, event: Event) -> None:
        """Put an event into the buffer; where there is no room, drop them all: the reader reads them again."""
        if self.overflown:
            return
        is_full = self.buffer and self._bytes + event.size > self.limit_bytes
        if is_full or len(self.buffer) >= self.limit:
            self.buffer.clear()
            self.overflown = True
        else:
            self.buffer.append(event)
            self._bytes += event.size
        self.alarm.set()

    def send_back(self) -> None:
        """Have the reader catch up by itself, once it has taken what is in the buffer."""
        self.overflown = True
        self.alarm.set()

    def take(self) -> Event:
        """Take the next event out of the buffer, in which there must be one."""
        event = self.buffer.popleft()
        self._bytes -= event.size
        return event

    def finish(self) -> None:
        """Tell the reader that the run has ended before the place from which it wanted to read."""
        self.finished = True
        self.alarm.set()

    def fail(self, failure: Exception) -> None:
        """Tell the reader that nothing more will come, and why."""
        self.failure = failure
        self.alarm.set()


class Page(NamedTuple):
    """Some entries of a run's stream, and whether there are more behind them."""

    entries: list[Entry]
    has_more: bool


class _Watch:
    """One stream of the shared read: where it has got to, and who listens; key and position as XREAD takes them."""

    __slots__ = ("decoder", "feeds", "packed_key", "packed_position", "position")

    def __init__(self, key: str, position: EventId) -> None:
        self.decoder = Decoder()
        self.feeds: dict[Feed, EventId] = {}
        self.packed_key = packed(key.encode())
        self.advance(position, str(position).encode())

    def advance(self, position: EventId, entry_id: bytes) -> None:
        """Go on reading behind this entry."""
        self.position = position
        self.packed_position = packed(entry_id)


class _SettledWatch:
    """How far one run's events are settled, for its readers that want only those."""

    __slots__ = ("feeds", "packed_key", "packed_position", "up_to")

    def __init__(self, key: str) -> None:
        self.feeds: set[Feed] = set()
        self.packed_key = packed(key.encode())
        self.up_to = EventId(0, 0)
        self.packed_position = packed(b"0-0")

    def advance(self, entry_id: bytes) -> None:
        """Go on reading behind this entry, whose id says how far."""
        self.up_to = EventId.of(entry_id.decode())
        self.packed_position = packed(entry_id)
        for feed in self.feeds:
            feed.settle(self.up_to)


class Tails:
    """Every tail of a process: the shared read and the readers behind it.

    Args:
        calls: the connections on which readers catch up.
        blocking: the connection of the shared read; closed by `aclose`.
        keys: the cell's keys.
        scripts: of the same Redis.
        pages_at_once: how many readers may read a page at a time; the others wait for their turn, so that the calls of
            others find a connection.
        buffer: how many events wait for a slow reader.
        buffer_bytes: how many bytes of them.
        reconnect_timeout: seconds that Redis may be away before readers are told.
        probe_interval: how often, in seconds, it is looked whether the runs that are watched still exist.
    """

    def __init__(
        self,
        calls: Redis,
        blocking: Redis,
        keys: Keys,
        scripts: Scripts,
        *,
        pages_at_once: int,
        buffer: int,
        buffer_bytes: int,
        reconnect_timeout: float,
        probe_interval: float,
    ) -> None:
        self._calls = calls
        self._blocking = blocking
        self._keys = keys
        self._scripts = scripts
        self._paging = asyncio.Semaphore(pages_at_once)
        self._buffer = buffer
        self._buffer_bytes = buffer_bytes
        self._largest_event = _USUAL_EVENT
        self._reconnect_timeout = reconnect_timeout
        self._probe_interval = probe_interval
        self._watches: dict[str, _Watch] = {}
        self._settled: dict[str, _SettledWatch] = {}
        self._wake_key = keys.wake(secrets.token_hex(8))
        self._wake_position = b"0-0"
        self._joined = False
        self._may_not_eval = False
        self._waking: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def watching(self) -> int:
        """How many readers take part in the shared read."""
        return sum(len(watch.feeds) for watch in self._watches.values())

    async def aclose(self) -> None:
        """End the shared read; readers that still wait are told that the client is closed."""
        self._closed = True
        await cancel([self._reading, self._waking])
        self._fail_all(RunstreamError("the client is closed"))
        await self._blocking.aclose()

    def new_feed(self, run_id: str, history: History) -> Feed:
        """A buffer for one reader; `history` is what the reader was given."""
        if self._closed:
            raise RunstreamError("the client is closed")
        return Feed(run_id, self._buffer, self._buffer_bytes, history)

    def attach(
        self, feed: Feed, cursor: EventId, position: EventId, decoder: Decoder, *, settled: bool = False
    ) -> EventId:
        """Join the shared read from `position` on, or from where it has got to if that is further.

        Args:
            feed: where the events go.
            cursor: the last event that the reader knows. It may be ahead of the stream: then nothing comes until the
                stream has passed it, but the end does.
            position: the cursor, or the end of the stream where that is before it.
            decoder: the reader's.
            settled: whether the reader wants to know how far the events are settled.

        Returns:
            The id after which events come through the feed; what lies before it is the reader's to read.
        """
        watch = self._watches.get(feed.run_id)
        if watch is None:
            watch = self._watches[feed.run_id] = _Watch(self._keys.events(feed.run_id), position)
            self._wake()
        if settled:
            self._attach_settled(feed)
        watch.decoder.adopt(decoder)
        joined_at = watch.feeds[feed] = max(cursor, watch.position)
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_all(), name="runstream-tail")
        return joined_at

    def _attach_settled(self, feed: Feed) -> None:
        watch = self._settled.get(feed.run_id)
        if watch is None:
            watch = self._settled[feed.run_id] = _SettledWatch(self._keys.settled(feed.run_id))
            self._wake()
        watch.feeds.add(feed)
        feed.settle(watch.up_to)

    def detach(self, feed: Feed) -> None:
        """Leave the shared read."""
        settled = self._settled.get(feed.run_id)
        if settled is not None:
            settled.feeds.discard(feed)
            if not settled.feeds:
                del self._settled[feed.run_id]
        watch = self._watches.get(feed.run_id)
        if watch is not None and watch.feeds.pop(feed, None) is not None and not watch.feeds:
            del self._watches[feed.run_id]

    async def page(self, run_id: str, after: EventId, until: EventId | None = None) -> Page:
        """The next events after an id, at most a page of them."""
        last = "+" if until is None else str(until)

        async def read() -> tuple[bool, list[tuple[bytes, list[bytes]]]]:
            async with self._paging:
                if not self._may_not_eval:
                    with contextlib.suppress(NoPermissionError):
                        return await self._scripts.page(run_id, f"({after}", last, most=PAGE, most_bytes=PAGE_BYTES)
                # A user of Redis that only reads calls no scripts. It counts entries, since it cannot count bytes.
                raw = await self._scripts.plain_page(run_id, f"({after}", last, most=_PLAIN_PAGE)
                self._may_not_eval = True
                return len(raw) == _PLAIN_PAGE, raw

        has_more, raw = await self.patiently(read)
        return Page(list(entries_of(raw)), has_more)

    async def decode(self, run_id: str, decoder: Decoder, entry: Entry) -> Event:
        """Decode an entry, fetching the event that it refers to where the decoder has not seen it."""
        event_id = entry[0].decode()
        try:
            return decoder.decode(event_id, entry[1])
        except MissingBase as missing:
            key, base_id = self._keys.events(run_id), missing.base_id
            found = cast("list[Entry]", await self.patiently(lambda: self._calls.xrange(key, base_id, base_id)))
            decoder.add_base(base_id, found[0][1] if found else None)
            try:
                return decoder.decode(event_id, entry[1])
            except MissingBase:
                told = f"event {event_id} refers to {base_id}, which is no message"
                raise ProtocolError(f"{told}: it is not an event of format 1") from None

    async def place_of(self, run_id: str) -> Place:
        """How far the run has got.

        Raises:
            RunNotFound: the run has no record.
        """
        key, fields = self._keys.run(run_id), _PLACE_FIELDS
        values = await read_run(
            self._calls,
            self.patiently,
            run_id,
            key,
            read=lambda: cast("Any", self._calls).hmget(key, *fields),
            found=lambda values: values[0] is not None,
        )
        return _place(values)

    async def patiently(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Make a call that only reads; while Redis is away, again, for as long as a reader waits."""
        if self._closed:
            raise RunstreamError("the client is closed")
        return await patiently(call, self._reconnect_timeout)

    async def _read_all(self) -> None:
        """The shared read: goes on while there is somebody to read for."""
        loop = asyncio.get_running_loop()
        away_since: float | None = None
        delay, next_probe = _RETRY_DELAY, loop.time() + self._probe_interval
        while self._watches:
            try:
                await self._read_and_deliver()
                await self._rest()
                if loop.time() > next_probe:
                    await self._probe()
                    next_probe = loop.time() + self._probe_interval
                away_since, delay = None, _RETRY_DELAY
            except Exception as error:  # noqa: BLE001 - whatever it is, no reader may wait for a read that has ended
                away_since = away_since or loop.time()
                is_over = loop.time() - away_since > self._reconnect_timeout
                if not is_passing(error) and not isinstance(error, AWAY):
                    await self._fail_those_at_fault(error)
                elif is_over or not is_passing(error):
                    self._fail_all(error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_DELAY_MAX)

    async def _read_and_deliver(self) -> None:
        watches = dict(self._watches)
        read: list[_Watch | _SettledWatch] = [*watches.values(), *self._settled.values()]
        # Each stream gives as many entries as are asked for, so what comes at once is bounded for all of them together.
        room = max(1, int(_READ_BYTES / self._largest_event))
        self._largest_event = max(_USUAL_EVENT, self._largest_event * _FORGETS)
        if len(read) > room:
            is_new = False
            for start in range(0, len(read), room):
                is_new |= await self._read_some(read[start : start + room], watches, count=1, block_ms=None)
            if is_new:
                return
        count = max(1, min(PAGE, room // len(read)))
        await self._read_some(read, watches, count=count, block_ms=round(self._probe_interval * 1000))

    async def _read_some(
        self,
        read: Sequence[_Watch | _SettledWatch],
        watches: Mapping[str, _Watch],
        *,
        count: int,
        block_ms: int | None,
    ) -> bool:
        """Read some of the streams and hand out what has come; return whether anything has."""
        keys = [packed(self._wake_key.encode()), *(watch.packed_key for watch in read)]
        positions = [packed(self._wake_position), *(watch.packed_position for watch in read)]
        reply = await xread(self._blocking, keys, positions, count=count, block_ms=block_ms)
        await self._deliver(reply, watches)
        return bool(reply)

    async def _rest(self) -> None:
        """Let events gather where a read is dear: Redis and this process both take time for each stream in it."""
        if len(self._watches) >= _CROWD:
            await asyncio.sleep(min(len(self._watches) * _REST_PER_WATCH, _REST_MAX))

    async def _deliver(self, reply: Iterable[tuple[bytes, Iterator[Entry]]], watches: Mapping[str, _Watch]) -> None:
        """Hand a reply out to the watches that it was read for; a watch that came meanwhile is at another place."""
        prefix = len(self._keys.run(""))
        for key, entries in reply:
            name = key.decode()
            if name == self._wake_key:
                *_, (self._wake_position, _) = entries
                continue
            run_id, _, kind = name[prefix:].partition(":")
            if kind == "settled":
                *_, (up_to, _) = entries
                if run_id in self._settled:
                    self._settled[run_id].advance(up_to)
                continue
            watch = watches[run_id]
            if run_id in self._watches and self._watches[run_id] is watch:
                await self._deliver_run(run_id, watch, entries)

    async def _deliver_run(self, run_id: str, watch: _Watch, entries: Iterator[Entry]) -> None:
        for entry in entries:
            try:
                event = await self.decode(run_id, watch.decoder, entry)
            except ProtocolError as error:
                self._fail(run_id, error)
                return
            position = EventId.of(event.id)
            self._largest_event = max(self._largest_event, event.size)
            watch.advance(position, entry[0])
            for feed, joined_at in watch.feeds.items():
                if position > joined_at:
                    feed.offer(event)
                elif event.mode == "end":
                    feed.finish()
        for feed in [feed for feed in watch.feeds if feed.overflown]:
            self.detach(feed)

    async def _probe(self) -> None:
        """Look after readers that would wait for ever: the run does not exist any more, or has another history now."""
        run_ids = list(self._watches)
        pipe = self._calls.pipeline(transaction=False)
        for run_id in run_ids:
            pipe.hmget(self._keys.run(run_id), list(_PLACE_FIELDS))
        for run_id, values in zip(run_ids, await pipe.execute(), strict=True):
            if values[0] is not None:
                self._compare(run_id, _place(values))
            else:
                try:
                    await confirm_missing(self._calls, run_id, self._keys.run(run_id))
                except RunNotFound as missing:
                    self._fail(run_id, missing)

    def _compare(self, run_id: str, place: Place) -> None:
        """Send readers back that were given, or wait for, what Redis has come back without."""
        watch = self._watches.get(run_id)
        for feed in list(watch.feeds) if watch is not None else ():
            is_beyond = watch is not None and place.end is not None and watch.position >= place.end
            if is_beyond or feed.history.lost_by(place) is not None:
                self.detach(feed)
                feed.send_back()

    async def _fail_those_at_fault(self, error: Exception) -> None:
        """Redis refused a read of many streams: find those that are no streams; where none is found, fail all."""
        before = len(self._watches)
        for run_id in list(self._watches):
            try:
                await self._calls.xrange(self._keys.events(run_id), count=1)
            except ResponseError as refusal:
                self._fail(run_id, refusal)
            except AWAY:
                return
        if len(self._watches) == before:
            self._fail_all(error)

    def _fail(self, run_id: str, error: Exception) -> None:
        watch = self._watches.pop(run_id, None)
        self._settled.pop(run_id, None)
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
            # Where Redis is away or full the read will come back by itself, and take the new streams in then.
            with contextlib.suppress(RedisError, OSError):
                await pipe.execute()


def _place(values: Sequence[bytes | None]) -> Place:
    """How far a run has got, from the fields of its record that exists."""
    status, attempt, seq, end_id, after, worker = (None if value is None else value.decode() for value in values)
    number, count = int(attempt or 0), int(seq or -1)
    # An attempt that has not written anything yet stands where the one before it has come to.
    last = EventId(number, count) if count >= 0 else EventId.of(after or "0-0")
    end = None if end_id is None else EventId.of(end_id)
    return Place(last, end, number, worker, is_running=status == Status.RUNNING)
