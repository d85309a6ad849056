"""One reader of a thread: the streams of its runs, one after the other, for as long as it stays."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Literal, NamedTuple, Self

from runstream import Client, RunInfo, RunNotFound
from runstream_gateway.errors import ApiError
from runstream_gateway.frames import Frame, frame
from runstream_gateway.ids import check_uuid
from runstream_gateway.reader import FIRST, FROM_THE_START, Beginning, Reader
from runstream_gateway.runs import Readable, Runs

ThreadMode = Literal["run_modes", "lifecycle", "state_update"]
_LOOK_AGAIN = 0.5
"""Seconds between looks for a thread's next run, while none is being read."""
_MS = re.compile(r"\d{1,15}", re.ASCII)


class ThreadPlace(NamedTuple):
    """A place in a thread's stream: an event of one of its runs. Its text is `run id/event id/when the run began`.

    The time (in ms since 1970) says what lies before the place, also when the run has gone.
    """

    run_id: str
    event_id: str
    began_at: int

    @classmethod
    def of(cls, last_event_id: str | None) -> ThreadPlace | None:
        """What a `Last-Event-ID` stands for; None for the start.

        Raises:
            ApiError: 422, it is no id of a thread's stream.
        """
        if last_event_id in FROM_THE_START:
            return None
        match (last_event_id or "").split("/"):
            case run_id, event_id, began_at if _MS.fullmatch(began_at):
                after = Beginning.of(event_id).after
                return cls(check_uuid(run_id, "Last-Event-ID"), after or FIRST, int(began_at))
        wanted = "must be an id of the thread's stream, run id/event id/ms, or '-' for the start"
        raise ApiError(422, f"Last-Event-ID: {last_event_id!r} {wanted}")


class _Began(NamedTuple):
    """By which runs are put in order: when it began, in ms since 1970, and its id."""

    at: int
    run_id: str


def _began(info: RunInfo) -> _Began | None:
    """When a run began; None if it has not. One that was stopped before has its end then, and nothing else."""
    time = info.started_at or info.ended_at
    return None if time is None else _Began(round(time.timestamp() * 1000), info.run_id)


class ThreadReader:
    """Reads the runs of a thread in the order in which they begin; an async context manager.

    Args:
        client: knows the runs.
        runs: makes their readers.
        thread_id: the thread.
        last_event_id: where to go on; None for what comes from now on.
        modes: `run_modes` for everything, `lifecycle` for beginnings and ends, `state_update` for the values.
        is_there: whether the thread is there still; its stream ends with it.
        settled: only what no later attempt can void.

    Raises:
        ApiError: 422, the id is none.
    """

    def __init__(
        self,
        client: Client,
        runs: Runs,
        thread_id: str,
        *,
        last_event_id: str | None,
        modes: Sequence[ThreadMode],
        is_there: Callable[[], Awaitable[bool]],
        settled: bool = False,
    ) -> None:
        self._is_there = is_there
        self._settled = settled
        self._client = client
        self._runs = runs
        self._thread_id = thread_id
        self._live = not last_event_id
        self._place = None if self._live else ThreadPlace.of(last_event_id)
        self._modes = frozenset(modes or ("run_modes",))
        self._done: set[str] = set()
        self._beginnings: dict[str, Beginning] = {}
        self._reader: Reader | None = None
        self._now = _Began(0, "")

    async def __aenter__(self) -> Self:
        """Leave out what lies before the place: for who begins with what comes from now on, all that has come."""
        for info in await self._infos():
            began, place = _began(info), self._place
            if began is None:
                continue
            if place is not None:
                if info.run_id == place.run_id:
                    self._beginnings[info.run_id] = Beginning(after=place.event_id)
                elif began < (place.began_at, place.run_id):
                    self._done.add(info.run_id)
            elif self._live and info.status.ended:
                self._done.add(info.run_id)
            elif self._live:
                self._beginnings[info.run_id] = Beginning(after=info.last_event_id)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def batch(self) -> list[Frame] | None:
        """The next frames; None when the thread has been deleted. Until then there is always more to come."""
        while True:
            while self._reader is None:
                if not await self._next_run():
                    return None
            frames = await self._frames()
            if frames:
                return frames

    async def _frames(self) -> list[Frame]:
        assert self._reader is not None  # noqa: S101 - as `batch` has seen to
        try:
            batch = await self._reader.batch()
        except RunNotFound:
            # It has been deleted, or rolled back. That is the end of the run, not of the thread.
            batch = None
        if batch is None:
            await self._leave()
            return []
        found = [self._named(one) for one in batch]
        return [one for one in found if one is not None]

    def _named(self, one: Frame) -> Frame | None:
        """A frame with an id that no other run of the thread has; the end of a run is none of the thread's."""
        began_at, run_id = self._now
        event_id = None if one.id is None else f"{run_id}/{one.id}/{began_at}"
        if one.event == "end":
            return frame("metadata", {"status": "run_done", "run_id": run_id}, event_id)
        return Frame(one.event, one.data, event_id) if self._is_wanted(one.event) else None

    def _is_wanted(self, event: str) -> bool:
        if "run_modes" in self._modes:
            return True
        is_state = event.partition("|")[0] == "values"
        return "state_update" in self._modes if is_state else "lifecycle" in self._modes and event in _LIFECYCLE

    async def _next_run(self) -> bool:
        """Wait for the next run that has begun, and begin to read it; False where the thread has gone instead."""
        while not await self._begun():
            if not await self._is_there():
                return False
            await asyncio.sleep(_LOOK_AGAIN)
        # Records are looked at one by one: of two that began meanwhile, only the later may have been seen to. By now
        # all are there that began before it.
        begun = await self._begun()
        if not begun:
            return True
        self._now = min(begun)
        info = begun[self._now]
        beginning = replace(self._beginnings.get(info.run_id, Beginning()), settled=self._settled)
        self._reader = await self._runs.reader(Readable.of(info), beginning).__aenter__()
        self._done.add(info.run_id)
        return True

    async def _begun(self) -> dict[_Began, RunInfo]:
        """The runs that have begun and have not been read."""
        known = {_began(info): info for info in await self._infos() if info.run_id not in self._done}
        return {began: info for began, info in known.items() if began is not None}

    async def _infos(self) -> list[RunInfo]:
        return [info async for info in self._client.thread_runs(self._thread_id)]

    async def _leave(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.__aexit__(None, None, None)


_LIFECYCLE = frozenset(("metadata", "error"))
