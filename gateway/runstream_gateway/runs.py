"""Runs as the API shows them, and what can be done to them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Literal

from pydantic_core import from_json

from runstream import Client, Documents, Run, RunFailedError, RunInfo, RunNotFound, RunStopped, Status
from runstream.model import StopAction
from runstream.request import PreparedRun, RunRequest
from runstream.tasks import cancel
from runstream_gateway.access import Allowed
from runstream_gateway.endings import ended, is_rolled_back, stop_and_wait
from runstream_gateway.errors import ApiError, not_found
from runstream_gateway.ids import iso
from runstream_gateway.jsonbytes import dumps
from runstream_gateway.marks import ApiMode, Marks, shown_config, shown_metadata
from runstream_gateway.pacing import paced
from runstream_gateway.reader import Beginning, Links, Reader
from runstream_gateway.removal import BeforeForgetting, delete_run
from runstream_gateway.states import States
from runstream_gateway.told_errors import error_of
from runstream_gateway.translate import FrameCache, Translator
from runstream_gateway.void_messages import VoidMessages

RunStatus = Literal["pending", "running", "success", "error", "timeout", "interrupted"]
_STATUSES: dict[Status, RunStatus] = {
    Status.QUEUED: "pending",
    Status.RUNNING: "running",
    Status.SUCCESS: "success",
    Status.ERROR: "error",
    Status.LOST: "error",
    Status.TIMEOUT: "timeout",
    Status.STOPPED: "interrupted",
    Status.INTERRUPTED: "interrupted",
}
_PAGE = 100
_AT_ONCE = 4
_PART_BYTES = 512 * 1024
_CANCELLED = "cancelled"
_FORGOTTEN_AFTER = 10.0
_logger = logging.getLogger("runstream.gateway")
_SHOWN_KWARGS = ("input", "command", "config", "context", "interrupt_before", "interrupt_after", "durability")


def api_status(status: Status) -> RunStatus:
    """A run's status by the names of the API.

    A run that stopped at an `interrupt()` is `interrupted`, as LangGraph documents it; its own server says `success`.
    """
    return _STATUSES[status]


def run_json(info: RunInfo, request: RunRequest | None) -> dict[str, Any]:
    """A run as the API shows it; its `kwargs` are what it was asked for with, as far as that is known.

    What the gateway has told the graph beside that (who calls, request headers) is not in it.
    """
    marks = Marks.of(info)
    asked = {} if request is None else request.model_dump(mode="json", include=set(_SHOWN_KWARGS))
    if request is not None:
        asked["config"] = shown_config(asked["config"], marks)
    kwargs = {**asked, "stream_mode": list(marks.stream_mode), "subgraphs": bool(request and request.subgraphs)}
    return {
        "run_id": info.run_id,
        "thread_id": info.thread_id,
        "assistant_id": marks.assistant_id,
        "metadata": shown_metadata(info.metadata),
        "status": api_status(info.status),
        "kwargs": kwargs,
        "multitask_strategy": marks.multitask_strategy,
        "created_at": iso(info.created_at),
        "updated_at": iso(info.ended_at or info.started_at or info.created_at),
    }


@dataclass(frozen=True)
class Readable:
    """What has to be known of a run to read its stream; `modes` are those of the API that it was asked for with."""

    run_id: str
    thread_id: str
    graph: str
    modes: tuple[ApiMode, ...]
    feedback_keys: tuple[str, ...] = ()

    @classmethod
    def of(cls, info: RunInfo) -> Readable:
        """Of a run's record."""
        marks = Marks.of(info)
        return cls(info.run_id, info.thread_id, info.graph, marks.stream_mode, marks.feedback_keys)


class Runs:
    """The runs of the API.

    One that was rolled back is not there any more from its end on: its record says so to every gateway. It is forgotten
    some seconds later, for a reader that is a step behind has yet to read its end. If the gateway that is to do that
    leaves before, record and stream stay for their retention, and are not shown.

    Args:
        client: knows them.
        threads: the documents of threads.
        states: knows what they have saved.
        before_forgetting: is told of runs that go.
        show_errors: tell the messages of all exceptions.
        forget_after: seconds between the end of a run that was rolled back, and its going.
    """

    def __init__(
        self,
        client: Client,
        threads: Documents,
        states: States,
        before_forgetting: BeforeForgetting,
        *,
        show_errors: bool,
        forget_after: float = _FORGOTTEN_AFTER,
    ) -> None:
        self._client = client
        self._forget_after = forget_after
        self._before_forgetting = before_forgetting
        self._threads = threads
        self._states = states
        self._show_errors = show_errors
        self._cache = FrameCache(show_errors=show_errors)
        self._void_messages = VoidMessages(client)
        self._forgetting: dict[str, asyncio.Task[None]] = {}

    async def aclose(self) -> None:
        """Give up what is still being waited for."""
        await cancel(self._forgetting.values())
        await self._void_messages.aclose()

    async def find(self, run_id: str, allowed: Allowed, *, thread_id: str | None = None) -> RunInfo:
        """A run's record.

        Args:
            run_id: the run.
            allowed: what the caller may see: by the thread's metadata, or by the run's own where it has no thread.
            thread_id: the thread that it has to be on.

        Raises:
            ApiError: 404, there is no such run, or it is not the caller's.
        """
        try:
            info = await self._client.get(run_id)
        except RunNotFound:
            raise not_found("run", run_id) from None
        if is_rolled_back(info) or (thread_id is not None and info.thread_id != thread_id):
            raise not_found("run", run_id)
        await self.check_visible(info, allowed)
        return info

    async def check_visible(self, info: RunInfo, allowed: Allowed) -> None:
        """Check that a run is the caller's to see.

        Raises:
            ApiError: 404, it is not.
        """
        if not await self._visible([info], allowed):
            raise not_found("run", info.run_id)

    async def view(self, info: RunInfo) -> dict[str, Any]:
        """A run as the API shows it."""
        return (await self._with_requests([info]))[0]

    async def views(self, infos: Sequence[RunInfo], *, kwargs: bool = True) -> AsyncIterator[dict[str, Any]]:
        """Iterate over runs as the API shows them.

        Args:
            infos: the runs.
            kwargs: whether what they were asked for with is wanted, too.
        """
        if not kwargs:
            for info in infos:
                yield run_json(info, None)
            return
        at, count = 0, 1
        while at < len(infos):
            views = await self._with_requests(infos[at : at + count])
            for view in views:
                yield view
            at += count
            # What a request takes is known when it is there: of those that may be large few are read at once.
            count = _AT_ONCE if max(len(dumps(view)) for view in views) <= _PART_BYTES // _AT_ONCE else 1

    async def _with_requests(self, infos: Sequence[RunInfo]) -> list[dict[str, Any]]:
        requests = await self._client.requests(info.run_id for info in infos)
        return [run_json(info, request) for info, request in zip(infos, requests, strict=True)]

    async def of_thread(self, thread_id: str, status: str | None = None, *, most: int) -> list[RunInfo]:
        """The runs of a thread, the newest first; `most` of them at most."""
        found: list[RunInfo] = []
        async for info in paced(self._client.thread_runs(thread_id)):
            if not is_rolled_back(info) and (status is None or api_status(info.status) == status):
                found.append(info)
                if len(found) == most:
                    break
        return found

    async def unended(self, statuses: Sequence[str], allowed: Allowed) -> list[RunInfo]:
        """All runs in one of these states (`pending`, `running`) that the caller may see."""
        wanted = {status for status, name in _STATUSES.items() if name in statuses}
        return await self._visible(
            [info async for info in paced(self._client.all_runs()) if info.status in wanted], allowed
        )

    async def newest(self, limit: int, allowed: Allowed) -> list[RunInfo]:
        """The newest runs that the caller may see."""
        found: list[RunInfo] = []
        page: list[RunInfo] = []
        # Their threads are asked for together: by `limit`, that would be a call for each run of somebody else.
        size = max(limit, _PAGE)
        async for info in paced(self._client.all_runs()):
            if is_rolled_back(info):
                continue
            page.append(info)
            if len(page) == size:
                found += await self._visible(page, allowed)
                page = []
                if len(found) >= limit:
                    break
        return [*found, *await self._visible(page, allowed)][:limit]

    async def seen(self, run_ids: Sequence[str], allowed: Allowed) -> list[RunInfo]:
        """Those of the runs that are there and that the caller may see."""
        found = await self._client.get_many(run_ids)
        there = [info for info in found if info is not None and not is_rolled_back(info)]
        return await self._visible(there, allowed)

    async def _visible(self, found: list[RunInfo], allowed: Allowed) -> list[RunInfo]:
        # Who may see what has no metadata at all may see everything; the threads need not be asked.
        if allowed.matches({}):
            return found
        ids = list(dict.fromkeys(info.thread_id for info in found))
        seen: set[str] = set()
        unknown: set[str] = set()
        at = 0
        async for part in self._threads.parts_of(ids, part_bytes=_PART_BYTES, part_length=_PAGE):
            for thread in part:
                if thread is None:
                    unknown.add(ids[at])
                elif allowed.matches(thread.data["metadata"]):
                    seen.add(thread.id)
                at += 1
        return [
            info
            for info in found
            if info.thread_id in seen or (info.thread_id in unknown and allowed.matches(shown_metadata(info.metadata)))
        ]

    def reader(
        self,
        run: Readable,
        beginning: Beginning,
        *,
        modes: Sequence[str] | None = None,
        stop_when_left: bool = False,
        links: Links | None = None,
        making_way: Callable[[], bool] | None = None,
    ) -> Reader:
        """One reader of a run.

        Args:
            run: the run.
            beginning: where it begins.
            modes: only these of the run's; all that were asked for when left out.
            stop_when_left: stop the run if the reader leaves before its end.
            links: gives what is told before the run's end.
            making_way: says whether it is the gateway that leaves; then the run goes on.
        """
        asked = run.modes
        if modes is not None:
            wanted = {_family(mode) for mode in modes}
            asked = tuple(mode for mode in asked if _family(mode) in wanted)

        async def restore(checkpoint_id: str) -> Any:
            request = await self._client.request(run.run_id)
            return await self._states.shown(run.graph, run.thread_id, checkpoint_id, request.output_keys)

        return Reader(
            self._client,
            run.run_id,
            beginning,
            Translator(run.run_id, asked, self._cache, show_errors=self._show_errors),
            restore=restore,
            void_messages=partial(self._void_messages.frames, run.run_id),
            on_disconnect="stop" if stop_when_left else "continue",
            links=links,
            making_way=making_way,
        )

    async def outcome(self, run_id: str) -> Any:
        """Wait for a run's end; what `wait` and `join` answer: the final values, or `__error__`."""
        try:
            result = await self._client.result(run_id)
        except RunStopped as stopped:
            return {} if is_rolled_back(stopped.info) else await self._saved(stopped.info)
        except RunFailedError as failed:
            error = failed.info.error
            return {
                "__error__": error_of(failed.info.status, error.model_dump() if error else None, show=self._show_errors)
            }
        except RunNotFound:
            return {}
        return {} if result is None else result

    async def _saved(self, info: RunInfo) -> Any:
        """What a run that was stopped has left of its thread."""
        if not self._states.knows(info.graph):
            return {}
        return (await self._states.get(info.graph, info.thread_id))["values"]

    async def cancel(self, info: RunInfo, action: StopAction, *, reason: str = "") -> None:
        """Ask that a run end; one that has ended is left as it is. After a rollback nothing is left of it.

        Raises:
            ApiError: 404, it has gone.
        """
        try:
            told = await self._client.stop(info.run_id, reason=reason or _CANCELLED, action=action)
        except RunNotFound:
            raise not_found("run", info.run_id) from None
        if action == "rollback" and told.outcome != "ended":
            self.forget_later([info.run_id])

    async def settled(self, info: RunInfo, action: StopAction, *, reason: str = "") -> None:
        """Wait for the end of a run that was cancelled.

        Raises:
            ApiError: 503, its worker lives and does not end it.
        """
        with suppress(RunNotFound):
            await stop_and_wait(self._client, info.run_id, reason=reason or _CANCELLED, action=action)

    async def delete(self, info: RunInfo) -> None:
        """Forget a run; one that goes on is stopped first.

        Raises:
            ApiError: 503, its worker lives and does not end it.
        """
        await delete_run(self._client, info.run_id, reason="it was deleted", before=self._before_forgetting)

    def forget_later(self, run_ids: Iterable[str]) -> None:
        """Have those of these runs gone that are rolled back, when they have ended."""
        for run_id in run_ids:
            if run_id in self._forgetting:
                continue
            task = self._forgetting[run_id] = asyncio.create_task(self._forget(run_id), name="gateway-forget")
            task.add_done_callback(partial(self._forgotten, run_id))

    def _forgotten(self, run_id: str, task: asyncio.Task[None]) -> None:
        self._forgetting.pop(run_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.warning("run %s was rolled back; its record stays until it expires: %s", run_id, error)

    async def _forget(self, run_id: str) -> None:
        with suppress(RunNotFound):
            # One that came to its end before its worker was told has done what it was asked for.
            if not is_rolled_back(await ended(self._client, run_id)):
                return
            await asyncio.sleep(self._forget_after)
            await self._before_forgetting(run_id)
            await self._client.delete(run_id)


def new_run_json(run: Run, prepared: PreparedRun) -> dict[str, Any]:
    """A run as it was enqueued, whatever has become of it since.

    Nobody is asked: a failure behind the enqueue would have clients enqueue it again.
    """
    info = RunInfo(
        run_id=run.run_id,
        graph=run.graph,
        thread_id=run.thread_id,
        status=Status.QUEUED,
        attempt=0,
        attempts=0,
        stream_mode=prepared.request.stream_mode,
        metadata=from_json(prepared.metadata_json),
        created_at=run.created_at,
        due_at=run.created_at + timedelta(milliseconds=prepared.due),
        max_attempts=prepared.max_attempts,
    )
    return run_json(info, prepared.request)


def _family(mode: str) -> str:
    base = mode.partition("|")[0].partition("/")[0]
    return "messages" if base == "messages-tuple" else base


def check_one_of_two(body_status: str | None, thread_id: str | None, run_ids: Sequence[str] | None) -> None:
    """Check that a request to cancel many says which: all of a status, or some of a thread.

    Raises:
        ApiError: 422, it says neither or both.
    """
    by_id = thread_id is not None or run_ids is not None
    if (body_status is None) is not by_id or (by_id and (thread_id is None or not run_ids)):
        raise ApiError(422, "give status, or thread_id with run_ids: one of the two, and not both")
