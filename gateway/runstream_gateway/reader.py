"""One reader of one run: where it begins, and the frames that it is sent until the run's end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from runstream import Client, Event, EventId, InvalidRequest, Status
from runstream_gateway.errors import ApiError
from runstream_gateway.frames import Frame, frame
from runstream_gateway.translate import Translator

_BATCH_BYTES = 128 * 1024
FIRST = "0-0"
"""Before all events of a run."""
FROM_THE_START = frozenset(("-1", "-", "0", FIRST))

Links = Callable[[], Awaitable[dict[str, str]]]
"""Gives the links by which feedback on a run can be left, by key."""

FindVoid = Callable[[Event], Awaitable[Sequence[Frame]]]
"""Gives frames with a `remove` message for each message of a run that an attempt's event has made void."""

RestoreValues = Callable[[str], Awaitable[Any]]
"""Gives the values of a run's thread at a checkpoint; None where it is not there any more."""


@dataclass(frozen=True)
class Beginning:
    """Where a reader begins: behind an event, at the start, or with what comes from now on.

    `settled` readers get an event only once no later attempt can void it.
    """

    after: str | None = None
    live: bool = False
    settled: bool = False

    @classmethod
    def of(cls, last_event_id: str | None, *, settled: bool = False) -> Beginning:
        """What a `Last-Event-ID` stands for; without one, from now on, as on LangGraph's own server.

        Raises:
            ApiError: 422, it is no event id.
        """
        if not last_event_id:
            return cls(live=True, settled=settled)
        if last_event_id in FROM_THE_START:
            return cls(settled=settled)
        try:
            return cls(after=str(EventId.parse(last_event_id, "Last-Event-ID")), settled=settled)
        except InvalidRequest as error:
            raise ApiError(422, str(error)) from None


class Reader:
    """Reads a run's events as frames; an async context manager.

    Args:
        client: reads them.
        run_id: the run.
        beginning: where to begin.
        translator: makes the frames, for this reader alone.
        restore: gives the state that a later attempt goes on from.
        void_messages: gives the frames that take back the messages which a later attempt has made void.
        on_disconnect: what becomes of the run if the reader leaves before its end. One that fails has not left.
        links: gives what a reader is told before the run's end.
        making_way: says whether it is the gateway that leaves; the reader comes back elsewhere, and the run goes on.
    """

    def __init__(
        self,
        client: Client,
        run_id: str,
        beginning: Beginning,
        translator: Translator,
        *,
        restore: RestoreValues,
        void_messages: FindVoid | None = None,
        on_disconnect: Literal["continue", "stop"] = "continue",
        links: Links | None = None,
        making_way: Callable[[], bool] | None = None,
    ) -> None:
        self._client = client
        self._run_id = run_id
        self._translator = translator
        self._restore = restore
        self._void_messages = void_messages
        self._links = links
        self._making_way = making_way
        self._read: deque[Event] = deque()
        self._frames: list[Frame] = []
        # Who is told sums has to read all; what it has seen already is not sent again.
        self._skip_live = translator.needs_all and beginning.live
        after = beginning.after if translator.needs_all else None
        self._seen = None if after is None else EventId.parse(after)
        begins_anew = translator.needs_all
        self._events = client.tail(
            run_id,
            after=None if begins_anew else beginning.after,
            live=beginning.live and not begins_anew,
            on_disconnect=on_disconnect,
            settled=beginning.settled,
        )
        self._takes_back = not beginning.settled

    async def __aenter__(self) -> Self:
        if self._skip_live:
            last = (await self._client.get(self._run_id)).last_event_id
            self._seen = None if last is None else EventId.parse(last)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        has_failed = kind is not None and not issubclass(kind, asyncio.CancelledError)
        if has_failed or (self._making_way is not None and self._making_way()):
            self._events.detach()
        await self._events.aclose()

    async def batch(self) -> list[Frame] | None:
        """The frames of what has come by now, at least one, and no more than 128 KiB but for the last; None at the end.

        May be cancelled and called again.

        Raises:
            RunNotFound: the run has gone.
            redis.exceptions.RedisError: Redis was away for too long.
        """
        while not self._frames:
            if not self._read:
                self._read.extend(await self._events.batch())
            if not self._read:
                return None
            size = 0
            while self._read and size < _BATCH_BYTES:
                known = len(self._frames)
                await self._take(self._read[0])
                self._read.popleft()
                size += sum(len(one.data) for one in self._frames[known:])
        frames, self._frames = self._frames, []
        return frames

    async def _take(self, event: Event) -> None:
        """Add an event's frames. What has to be waited for comes first: if it is cancelled, nothing has been done."""
        if event.mode in ("attempt", "end") and "rewinds" in event.data:
            self._seen = None  # What the client has seen under these ids, Redis has lost.
        is_seen = self._seen is not None and EventId.of(event.id) <= self._seen
        before = () if is_seen else await self._before(event)
        frames = self._translator.frames(event)
        if not is_seen:
            self._frames += [*before, *frames]

    async def _before(self, event: Event) -> Sequence[Frame]:
        """What a reader is told before an event, without an id of its own."""
        if event.mode == "attempt" and self._takes_back and event.data.get("voids"):
            return [*await self._removed(event), *await self._restored(event)]
        if event.mode == "end":
            is_interrupted = event.data.get("status") == Status.INTERRUPTED
            return [*(await self._interrupts() if is_interrupted else ()), *await self._feedback()]
        return ()

    async def _feedback(self) -> Sequence[Frame]:
        links = {} if self._links is None else await self._links()
        return (frame("feedback", links),) if links else ()

    async def _removed(self, event: Event) -> Sequence[Frame]:
        """LangGraph's way of taking a message back, for each of which nothing stands any more."""
        if self._void_messages is None or not self._translator.wants_tuples:
            return ()
        return await self._void_messages(event)

    async def _restored(self, event: Event) -> Sequence[Frame]:
        """The state that a later attempt goes on from: what a reader shows beyond it is void."""
        checkpoint = event.data.get("checkpoint") if self._translator.wants_values else None
        values = None if checkpoint is None else await self._restore(checkpoint)
        return () if values is None else (frame("values", values),)

    async def _interrupts(self) -> Sequence[Frame]:
        """What an interrupted run waits for, where the modes asked for do not tell."""
        if self._translator.tells_interrupts:
            return ()
        result = await self._client.result(self._run_id)
        interrupts = result.get("__interrupt__") if isinstance(result, dict) else None
        return () if not interrupts else (frame("updates", {"__interrupt__": interrupts}),)
