"""One reader of a thread: the streams of its runs, one after the other, for as long as it stays."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, NamedTuple, Self

from runstream import Client, RunInfo, Status
from runstream_gateway.errors import ApiError
from runstream_gateway.frames import Frame, frame
from runstream_gateway.ids import check_uuid
from runstream_gateway.reader import FROM_THE_START, Beginning, Reader
from runstream_gateway.runs import Readable, Runs

ThreadMode = Literal["run_modes", "lifecycle", "state_update"]
_LOOK_AGAIN = 0.5
"""Seconds between looks for a thread's next run, while none is being read."""


class ThreadPlace(NamedTuple):
    """A place in a thread's stream: an event of one of its runs. Its text is `run id/event id`."""

    run_id: str
    event_id: str

    @classmethod
    def of(cls, last_event_id: str | None) -> ThreadPlace | None:
        """What a `Last-Event-ID` stands for; None for the start.

        Raises:
            ApiError: 422, it is no id of a thread's stream.
        """
        if last_event_id in FROM_THE_START:
            return None
        run_id, slash, event_id = (last_event_id or "").partition("/")
        if not slash:
            raise ApiError(422, f"Last-Event-ID: {last_event_id!r} must be run id/event id, or '-' for the start")
        return cls(check_uuid(run_id, "Last-Event-ID"), str(Beginning.of(event_id).after or "0-0"))


class ThreadReader:
    """Reads the runs of a thread as they begin; an async context manager.

    Args:
        client: knows the runs.
        runs: makes their readers.
        thread_id: the thread.
        last_event_id: where to go on; None for what comes from now on.
        modes: `run_modes` for everything, `lifecycle` for beginnings and ends, `state_update` for the values.

    Raises:
        ApiError: 422, the id is none.
    """

    def __init__(
        self, client: Client, runs: Runs, thread_id: str, *, last_event_id: str | None, modes: Sequence[ThreadMode]
    ) -> None:
        self._client = client
        self._runs = runs
        self._thread_id = thread_id
        self._live = not last_event_id
        self._place = None if self._live else ThreadPlace.of(last_event_id)
        self._modes = frozenset(modes or ("run_modes",))
        self._read: set[str] = set()
        self._reader: Reader | None = None
        self._run_id = ""

    async def __aenter__(self) -> Self:
        """Leave out what is over already, if it is not wanted."""
        infos = await self._infos()
        if self._live:
            self._read = {info.run_id for info in infos if info.status.ended}
        elif self._place is not None:
            ids = [info.run_id for info in infos]
            if self._place.run_id in ids:
                self._read = set(ids[: ids.index(self._place.run_id)])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def batch(self) -> list[Frame] | None:
        """The next frames. There is always more to come."""
        while True:
            if self._reader is None:
                await self._next_run()
            frames = await self._frames()
            if frames:
                return frames

    async def _frames(self) -> list[Frame]:
        assert self._reader is not None  # noqa: S101 - as `batch` has seen to
        batch = await self._reader.batch()
        if batch is None:
            await self._leave()
            return []
        found = [self._named(one) for one in batch]
        return [one for one in found if one is not None]

    def _named(self, one: Frame) -> Frame | None:
        """A frame with an id that no other run of the thread has; the end of a run is none of the thread's."""
        event_id = None if one.id is None else f"{self._run_id}/{one.id}"
        if one.event == "end":
            return frame("metadata", {"status": "run_done", "run_id": self._run_id}, event_id)
        return Frame(one.event, one.data, event_id) if self._is_wanted(one.event) else None

    def _is_wanted(self, event: str) -> bool:
        if "run_modes" in self._modes:
            return True
        is_state = event.partition("|")[0] == "values"
        return "state_update" in self._modes if is_state else "lifecycle" in self._modes and event in _LIFECYCLE

    async def _next_run(self) -> None:
        """Wait for the next run that has begun, in the order of their creation, and begin to read it."""
        while (info := await self._begun()) is None:  # noqa: ASYNC110 - another process begins it
            await asyncio.sleep(_LOOK_AGAIN)
        place = self._place
        is_there = self._live and info.status == Status.RUNNING
        beginning = Beginning(live=True) if is_there else Beginning()
        if place is not None and place.run_id == info.run_id:
            beginning = Beginning(after=place.event_id)
        reader = await self._runs.reader(Readable.of(info), beginning).__aenter__()
        # All at once, for a heartbeat may have cancelled what comes before.
        self._reader, self._run_id, self._place, self._live = reader, info.run_id, None, False
        self._read.add(info.run_id)

    async def _begun(self) -> RunInfo | None:
        waiting = (info for info in await self._infos() if info.run_id not in self._read)
        return next((info for info in waiting if info.status != Status.QUEUED), None)

    async def _infos(self) -> list[RunInfo]:
        return [info async for info in self._client.thread_runs(self._thread_id)][::-1]

    async def _leave(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.__aexit__(None, None, None)


_LIFECYCLE = frozenset(("metadata", "error"))
