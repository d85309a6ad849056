"""Publishing: the events of all attempts of a process go out over one connection, in batches that form by themselves.

While one batch is on its way to Redis, events gather; whatever has gathered goes in the next one, for all attempts in
one round trip. So a lone token leaves at once, and a burst is packed. Every reply says whether the attempt still holds
its run and whether somebody wants it stopped.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable

from runstream.errors import AttemptFenced, RunstreamError
from runstream.faults import is_passing
from runstream.scripts import Append, AppendReply, Hold, Scripts
from runstream_worker.encoding import JsonEncoder
from runstream_worker.events import EventEncoder
from runstream_worker.guard import Cause, Guard
from runstream_worker.origins import Placed
from runstream_worker.settlement import Settlement
from runstream_worker.tenure import Tenure

_BATCH_EVENTS = 500
_RETRY_DELAY = 0.05
_RETRY_DELAY_MAX = 1.0
_KEPT_EVENTS = 2000
_KEPT_BYTES = 1024 * 1024
_CAUSES = {"stop": Cause.STOP, "full": Cause.FULL}

_logger = logging.getLogger("runstream.worker")


class PublisherClosed(RunstreamError):
    """The attempt is over; what its graph still emits goes nowhere."""


class StreamTooLarge(RunstreamError):
    """A single event is larger than everything that the run may publish."""


class Publisher:
    """Publishes the events of one attempt, in order.

    It keeps those that it has published last: a Redis that comes back with less than it had acknowledged gets them
    again, under the same ids.

    Args:
        outbox: sends them.
        hold: the attempt.
        guard: is told when the attempt may not go on.
        first_seq: the sequence number of the attempt's first event: 1, or 0 where its own event has yet to be written.
        limit: how many events may wait before `put` does.
        limit_bytes: how many bytes of them.
        json: encodes what the chunks hold.
        tenure: decides whether the attempt still holds its run when a reply says that it does not; without it, the run
            is lost then.

    Attributes:
        settlement: which of the events are settled; the checkpointer notes there what it has saved.
    """

    def __init__(
        self,
        outbox: Outbox,
        hold: Hold,
        guard: Guard,
        *,
        first_seq: int,
        limit: int,
        limit_bytes: int,
        json: JsonEncoder | None = None,
        tenure: Tenure | None = None,
    ) -> None:
        self.json = json or JsonEncoder()
        self.hold = hold
        self._outbox = outbox
        self._guard = guard
        self._tenure = tenure
        self._in_doubt: asyncio.Task[None] | None = None
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._waiting_bytes = 0
        self._encoder = EventEncoder(self.json)
        self.settlement = Settlement()
        # Redis knows that events up to here are settled. The attempt's own event is, without a word.
        self._settled = 0
        self._settled_on_its_way = 0
        self._waiting: deque[bytes] = deque()
        self._kept = _Kept()
        self._on_its_way = 0
        self._next = first_seq
        self._next_to_send = first_seq
        self._leave_gap = False
        self._sealed = False
        self._closed = False
        self._progress = asyncio.Event()

    async def put(self, placed: Placed) -> None:
        """Publish a chunk; waits while too many of this attempt's events are on their way.

        Raises:
            EncodingError: the chunk holds something that JSON cannot carry, and the run is strict.
            StreamTooLarge: the chunk alone is more than the run may publish.
            PublisherClosed: the attempt is over.
        """
        self.put_now(placed)
        if not self.has_room:
            await self.room()

    async def put_bytes(self, event: bytes, mode: str) -> None:
        """Publish an event that has been encoded already."""
        self._append(event, mode)
        if not self.has_room:
            await self.room()

    def put_now(self, placed: Placed) -> None:
        """Publish a chunk, however many events are on their way.

        Raises:
            EncodingError, StreamTooLarge, PublisherClosed: as `put` does.
        """
        event = self._encoder.encode(placed, f"{self.hold.attempt}-{self._next}")
        self.settlement.publish(placed, self._next)
        self._append(event, placed.chunk.mode)

    def _append(self, event: bytes, mode: str) -> None:
        if self._sealed:
            raise PublisherClosed(f"attempt {self.hold.attempt} of run {self.hold.run_id} is over")
        if len(event) > self._outbox.byte_limit:
            limit = f"{self._outbox.byte_limit:,} (max_stream_bytes)"
            raise StreamTooLarge(f"one event of mode {mode} is {len(event):,} bytes and the run may publish {limit}")
        self._waiting.append(event)
        self._waiting_bytes += len(event)
        self._next += 1
        self._outbox.send(self)

    def publish_settled(self) -> None:
        """Publish how far the events are settled by now, with the next batch or without one."""
        if not self._closed and self.settlement.up_to(self._next) > self._settled:
            self._outbox.send(self)

    @property
    def has_room(self) -> bool:
        """Whether fewer events are waiting than the limit, or none will ever be taken again."""
        has_room = len(self._waiting) < self._limit and self._waiting_bytes < self._limit_bytes
        return has_room or self._closed

    async def room(self) -> None:
        """Wait until there is room. Token by token, this is what slows a model down."""
        while not self.has_room:
            await self._next_reply()

    async def flush(self) -> None:
        """Wait until everything has been published, or cannot be."""
        while self._next_to_send < self._next and not self._closed:
            await self._next_reply()

    async def published(self, seq: int) -> int:
        """Wait until every event before this sequence number has been published.

        Returns:
            The sequence number of the last one that Redis must have by then; -1 if it has lost some for good.

        Raises:
            AttemptFenced: that will not be.
        """
        while self._next_to_send < seq:
            await self._next_reply_or_fence()
        return -1 if self._leave_gap else seq - 1

    async def publish_again(self, last_seq: int) -> None:
        """Publish again what Redis has lost, which knows this attempt's events up to `last_seq` only.

        Raises:
            AttemptFenced: that will not be.
        """
        if self._on_its_way:
            # The reply to that will say the same.
            await self._next_reply_or_fence()
        elif last_seq < self._next_to_send - 1:
            self.go_back(last_seq)

    async def is_held(self) -> bool:
        """Ask Redis whether the attempt still holds its run; publish again what Redis has lost of its events.

        Raises:
            redis.exceptions.RedisError: Redis refuses to answer.
        """
        last_seq = None if self._tenure is None else await self._tenure.last_seq()
        if last_seq is None:
            return False
        if not self._closed:
            await self.publish_again(last_seq)
        return True

    def seal(self) -> None:
        """Take nothing more; what was taken is still published."""
        self._sealed = True

    def close(self) -> None:
        """Publish nothing more."""
        self._sealed = self._closed = True
        self._waiting.clear()
        self._waiting_bytes = 0
        self._progress.set()

    @property
    def next_seq(self) -> int:
        """The sequence number that the next event will have."""
        return self._next

    @property
    def leaves_gap(self) -> bool:
        """Whether Redis has lost events of this attempt that are not kept any more."""
        return self._leave_gap

    def take(self) -> Append | None:
        """The next batch to send; the same one until `settle` was told of its reply."""
        if self._closed or self._in_doubt is not None:
            return None
        self._on_its_way = min(len(self._waiting), _BATCH_EVENTS)
        settled = min(self.settlement.up_to(self._next), self._next_to_send + self._on_its_way - 1)
        if not self._on_its_way and settled <= self._settled:
            return None
        self._settled_on_its_way = max(settled, self._settled)
        batch = list(itertools.islice(self._waiting, self._on_its_way))
        news = self._settled_on_its_way if self._settled_on_its_way > self._settled else 0
        return Append(self.hold, self._next_to_send, batch, self._leave_gap, news)

    def settle(self, reply: AppendReply) -> None:
        """Take the reply to the batch that was on its way."""
        if self._closed:
            return
        if reply.outcome == "behind":
            self.go_back(int(reply.detail))
        elif reply.outcome in ("ok", "stop"):
            for _ in range(self._on_its_way):
                event = self._waiting.popleft()
                self._waiting_bytes -= len(event)
                self._kept.add(event)
            self._next_to_send += self._on_its_way
            self._settled = self._settled_on_its_way
            self._leave_gap = False
        elif reply.outcome == "full":
            self._break_off(int(reply.detail) + 1)
        else:
            self._in_doubt = asyncio.create_task(self._doubt(), name=f"doubt-{self.hold.run_id}")
        self._on_its_way = 0
        if reply.outcome in _CAUSES:
            self._guard.end(_CAUSES[reply.outcome], reply.detail)
        if self._waiting:
            self._outbox.send(self)
        self._progress.set()

    async def _doubt(self) -> None:
        """Find out what a reply that the run is lost means: send the same batch again, or nothing more."""
        try:
            held = await self.is_held()
        except AttemptFenced:
            held = False
        except Exception as error:  # noqa: BLE001 - whatever Redis refuses, it will not take these events either
            self.refuse(error)
            return
        self._in_doubt = None
        if held:
            self._outbox.send(self)
        else:
            self._break_off(self._next_to_send)
            self._guard.end(Cause.LOST)

    def go_back(self, last_seq: int) -> None:
        """Send again what Redis has lost, which knows this attempt's events up to `last_seq` only."""
        missing = self._next_to_send - last_seq - 1
        lost = self._kept.take_back(missing)
        self._leave_gap = len(lost) < missing
        if self._leave_gap:
            # What is encoded from now on refers to nothing before.
            self._encoder = EventEncoder(self.json)
        self._next_to_send -= len(lost)
        self._settled = 0
        self._waiting.extendleft(reversed(lost))
        self._waiting_bytes += sum(map(len, lost))
        self._outbox.send(self)

    def refuse(self, error: Exception) -> None:
        """Take it that Redis will never accept the batch that was on its way."""
        self._break_off(self._next_to_send)
        self._guard.end(Cause.REFUSED, f"Redis refuses this run's events: {error}")

    def _break_off(self, next_seq: int) -> None:
        # The end event goes behind what did arrive.
        self._next = self._next_to_send = next_seq
        self.close()

    async def _next_reply_or_fence(self) -> None:
        if self._closed:
            raise AttemptFenced(self.hold.run_id, self.hold.attempt)
        await self._next_reply()

    async def _next_reply(self) -> None:
        self._progress.clear()
        await self._progress.wait()


class _Kept:
    """The last events that were published, as many as may be kept."""

    def __init__(self) -> None:
        self._events: deque[bytes] = deque()
        self._bytes = 0

    def add(self, event: bytes) -> None:
        self._events.append(event)
        self._bytes += len(event)
        while len(self._events) > _KEPT_EVENTS or self._bytes > _KEPT_BYTES:
            self._bytes -= len(self._events.popleft())

    def take_back(self, count: int) -> list[bytes]:
        """The last of them, in their order; fewer where fewer are kept."""
        back = [self._events.pop() for _ in range(min(count, len(self._events)))]
        self._bytes -= sum(map(len, back))
        return back[::-1]


class Outbox:
    """Sends what the publishers of a process hold.

    Args:
        scripts: on a connection of its own.
        byte_limit: what the events of one run may amount to.
        on_fault: is told, once per outage, that Redis refuses or is away.
    """

    def __init__(
        self, scripts: Scripts, *, byte_limit: int, on_fault: Callable[[Exception], None] | None = None
    ) -> None:
        self._scripts = scripts
        self.byte_limit = byte_limit
        self._on_fault = on_fault or _log_fault
        self._dirty: dict[Publisher, None] = {}
        self._work = asyncio.Event()

    def send(self, publisher: Publisher) -> None:
        """Send what the publisher holds, with the next round trip."""
        self._dirty[publisher] = None
        self._work.set()

    async def run(self) -> None:
        """Send, until cancelled. While Redis is away or not ready, the batches wait, and with them the graphs."""
        delay = _RETRY_DELAY
        while True:
            await self._work.wait()
            self._work.clear()
            publishers, self._dirty = self._dirty, {}
            fault = await self._deliver(publishers)
            if fault is None:
                delay = _RETRY_DELAY
                continue
            if delay == _RETRY_DELAY:
                self._on_fault(fault)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_DELAY_MAX)

    async def _deliver(self, publishers: Iterable[Publisher]) -> Exception | None:
        """One round trip; the fault, if some batches have to be sent again."""
        batches = [(publisher, batch) for publisher in publishers if (batch := publisher.take()) is not None]
        if not batches:
            return None
        try:
            replies = await self._scripts.append([batch for _, batch in batches], byte_limit=self.byte_limit)
        except Exception as error:  # noqa: BLE001 - whatever it is, the runs are told, and the others go on
            replies = [error] * len(batches)
        fault: Exception | None = None
        for (publisher, _), reply in zip(batches, replies, strict=True):
            if isinstance(reply, AppendReply):
                publisher.settle(reply)
            elif is_passing(reply):
                fault = reply
                self.send(publisher)
            else:
                publisher.refuse(reply)
        return fault


def _log_fault(error: Exception) -> None:
    _logger.warning("cannot publish, trying again: %s: %s", type(error).__name__, error)
