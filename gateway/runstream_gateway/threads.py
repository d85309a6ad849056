"""Threads: their documents, and what their runs and their state make of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

from runstream import Client, Document, Documents, RunInfo, Status
from runstream_gateway.access import Allowed
from runstream_gateway.containment import Containment
from runstream_gateway.copying import copy_state
from runstream_gateway.errors import ApiError, not_found
from runstream_gateway.ids import iso, now
from runstream_gateway.jsonbytes import dumps
from runstream_gateway.lane import Lane
from runstream_gateway.marks import shown_metadata
from runstream_gateway.metadata import check_metadata
from runstream_gateway.removal import BeforeForgetting, delete_runs_of
from runstream_gateway.states import EMPTY_STATE, States
from runstream_gateway.told_errors import error_of

_logger = logging.getLogger("runstream.gateway")

ThreadStatus = Literal["idle", "busy", "interrupted", "error"]
ThreadKey = Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"]
_FAILED = (Status.ERROR, Status.TIMEOUT, Status.LOST)
_AT_ONCE = 20
_PART_BYTES = 512 * 1024
_OF_STATE = frozenset(("values", "interrupts", "state_updated_at"))
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class ThreadQuery:
    """Which threads are looked for; what is left empty does not matter."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    ids: Sequence[str] | None = None
    status: ThreadStatus | None = None


class Found(NamedTuple):
    """A thread that was looked for, and what it is sorted by."""

    thread_id: str
    key: str


class Threads:
    """The threads of the API.

    Args:
        client: knows their runs.
        documents: of the kind `thread`.
        states: knows what they have saved.
        before_forgetting: is told of runs that go.
        lane: compares what takes long.
        show_errors: tell the messages of all exceptions.
    """

    def __init__(
        self,
        client: Client,
        documents: Documents,
        states: States,
        before_forgetting: BeforeForgetting,
        lane: Lane,
        *,
        show_errors: bool,
    ) -> None:
        self._lane = lane
        self._client = client
        self._before_forgetting = before_forgetting
        self._documents = documents
        self._states = states
        self._show_errors = show_errors

    async def create(
        self,
        thread_id: str,
        metadata: Mapping[str, Any],
        allowed: Allowed,
        *,
        is_own_id: bool = False,
        if_exists: Literal["raise", "do_nothing"] = "raise",
        supersteps: Sequence[Mapping[str, Any]] = (),
        after_failure: bool = False,
    ) -> Document:
        """Write a new thread.

        Args:
            thread_id: its id.
            metadata: what is known of it.
            allowed: which threads the caller may see.
            is_own_id: the id was made by the gateway, so nothing can be there under it.
            if_exists: what to do where there is one of this id; `do_nothing` gives that one, as it is.
            supersteps: the states that it had elsewhere.
            after_failure: whether the state that it is about to get is that of a run which failed. There are tasks
                left in it then, and nobody is asked anything.

        Raises:
            ApiError: 409, there is one of this id, and that was not to be, or there is something of somebody else's;
                404, 422: the supersteps are not the graph's, and nothing of the thread is left; 422, too much metadata.
        """
        check_metadata(metadata)
        if not is_own_id and await self._is_anothers(thread_id, allowed):
            raise ApiError(409, f"thread {thread_id!r} not found")
        at = now()
        data: dict[str, Any] = {"created_at": at, "updated_at": at, "metadata": dict(metadata), "config": {}}
        if after_failure:
            data["after_failure"] = True
        created = await self._documents.create(thread_id, data)
        if created is not None:
            if supersteps:
                await self._take_supersteps(created, supersteps)
            return created
        # Whose it is matters first: an id tells nobody that somebody else's thread exists.
        known = await self.get(thread_id, allowed, missing=409)
        if if_exists == "raise":
            raise ApiError(409, f"thread {thread_id!r} exists already")
        return known

    async def _is_anothers(self, thread_id: str, allowed: Allowed) -> bool:
        """Whether what is kept under an id without a thread is none of the caller's.

        A stateless run keeps what is its own under its id, and a checkpointer may keep states for longer than their
        thread: who gave that id a thread would own them.
        """
        if allowed.matches({}) or await self._documents.get(thread_id) is not None:
            return False
        runs = [info async for info in self._client.thread_runs(thread_id)]
        if runs or self._states.saver is None:
            return not all(allowed.matches(shown_metadata(info.metadata)) for info in runs)
        return await self._states.saver.aget_tuple({"configurable": {"thread_id": thread_id}}) is not None

    async def exists(self, thread_id: str) -> bool:
        """Whether there is a thread of this id, whosever it is."""
        return await self._documents.get(thread_id) is not None

    async def get(self, thread_id: str, allowed: Allowed, *, missing: int = 404) -> Document:
        """A thread's document.

        Raises:
            ApiError: 404 or what `missing` says: there is none, or it is not the caller's.
        """
        known = await self._documents.get(thread_id)
        if known is None or not allowed.matches(known.data["metadata"]):
            raise ApiError(missing, f"thread {thread_id!r} not found")
        return known

    async def change(
        self, thread_id: str, allowed: Allowed, metadata: Mapping[str, Any], *, known: Document | None = None
    ) -> Document:
        """Merge into a thread's metadata, key by key.

        Args:
            thread_id: the thread.
            allowed: what the caller may see.
            metadata: what is merged in.
            known: as the thread was read a moment ago, if it was.

        Raises:
            ApiError: 404, there is none, or it is not the caller's; 422, it would be too much.
        """

        def merged(data: dict[str, Any]) -> dict[str, Any]:
            if not allowed.matches(data["metadata"]):
                raise not_found("thread", thread_id)
            whole = {**data["metadata"], **metadata}
            if metadata:
                check_metadata(whole)
            return {**data, "metadata": whole, "updated_at": now()}

        changed = await self._documents.update(thread_id, merged, known=known)
        if changed is None:
            raise not_found("thread", thread_id)
        return changed

    async def delete(self, thread_id: str, allowed: Allowed) -> None:
        """Remove a thread with its runs and its state; runs that go on are stopped first.

        The thread itself goes last: where this fails on the way, it can be repeated.

        Raises:
            ApiError: 404, there is none, or it is not the caller's; 503, a run does not end.
        """
        await self.get(thread_id, allowed)
        await delete_runs_of(self._client, thread_id, reason="its thread was deleted", before=self._before_forgetting)
        if self._states.saver is not None:
            await self._states.saver.adelete_thread(thread_id)
        await self._documents.delete(thread_id)

    async def size(self, thread_id: str, allowed: Allowed) -> int:
        """Return how many bytes a thread takes, with its states.

        Raises:
            ApiError: 404, there is none, or it is not the caller's.
        """
        known = await self.get(thread_id, allowed)
        return len(dumps(known.data)) + await self._states.size(thread_id)

    async def copy(self, thread_id: str, allowed: Allowed, metadata: Mapping[str, Any], copy_id: str) -> Document:
        """Make a new thread with the state and the metadata of another; none where its state cannot be copied.

        Args:
            thread_id: the thread that is copied.
            allowed: which threads the caller may see.
            metadata: what the new one's is to have besides.
            copy_id: the id of the new one, made by the gateway.

        Raises:
            ApiError: 404, there is none, or it is not the caller's.
        """
        known = await self.get(thread_id, allowed)
        has_failed = await self._has_failed(known)
        kept = {**known.data["metadata"], **metadata}
        copied = await self.create(copy_id, kept, allowed, is_own_id=True, after_failure=has_failed)
        if self._states.saver is not None:
            try:
                await copy_state(self._states.saver, thread_id, copied.id)
            except BaseException:
                await self._unmake(copied.id)
                raise
        return copied

    async def _has_failed(self, thread: Document) -> bool:
        """Whether a thread's state is what a run that failed has left."""
        (active,), (last,) = await self._client.active([thread.id]), await self._client.last_runs([thread.id])
        if last is None:
            return bool(thread.data.get("after_failure"))
        return not active and last.status in _FAILED

    async def prune(self, thread_id: str, allowed: Allowed) -> None:
        """Remove all of a thread's states but the last.

        Raises:
            ApiError: 404, there is none, or it is not the caller's; 501, the checkpointer cannot do it.
        """
        await self.get(thread_id, allowed)
        if self._states.saver is None:
            return
        try:
            await self._states.saver.aprune([thread_id], strategy="keep_latest")
        except NotImplementedError:
            raise ApiError(501, "the checkpointer cannot remove a part of a thread's states") from None

    async def _take_supersteps(self, thread: Document, supersteps: Sequence[Mapping[str, Any]]) -> None:
        """Write the states of a new thread that was elsewhere before, step by step; all of them, or no thread."""
        try:
            graph = self._states.graph_of(thread.data["metadata"])
            await self._states.take(graph, thread.id, [step["updates"] for step in supersteps])
        except BaseException:
            await self._unmake(thread.id)
            raise

    async def _unmake(self, thread_id: str) -> None:
        """Leave nothing of a thread that could not be made, of which nobody knows yet."""
        try:
            if self._states.saver is not None:
                await self._states.saver.adelete_thread(thread_id)
        finally:
            await self._documents.delete(thread_id)

    async def search(self, query: ThreadQuery, allowed: Allowed, *, sort_by: ThreadKey = "created_at") -> list[Found]:
        """Return which threads are looked for, the newest first, with what they are to be sorted by.

        Raises:
            ApiError: 422, that takes too many comparisons.
        """
        metadata, values = Containment(query.metadata, "metadata"), Containment(query.values, "values")
        fields = {
            *(("status",) if query.status or sort_by == "status" else ()),
            *(("values",) if query.values else ()),
            *(("state_updated_at",) if sort_by == "state_updated_at" else ()),
        }
        found: list[Found] = []
        async for part in self._candidates(query.ids):
            fitting = await self._fitting(part, metadata, allowed)
            views = await self.views(fitting, fields) if fields else []
            if query.status is not None:
                views = [view for view in views if view["status"] == query.status]
            if values:
                # Decoding the values is a part of comparing them.
                views = await self._lane.run(lambda views=views: _with_values(views, values))  # type: ignore[misc] # now
            if fields:
                found += [Found(view["thread_id"], str(view[sort_by] or "")) for view in views]
            else:
                found += [Found(one.id, one.id if sort_by == "thread_id" else one.data[sort_by]) for one in fitting]
        return found

    async def _fitting(
        self, documents: Sequence[Document], metadata: Containment, allowed: Allowed
    ) -> Sequence[Document]:
        seen = [document for document in documents if allowed.matches(document.data["metadata"])]
        if not metadata or not seen:
            return seen

        def compared() -> Sequence[Document]:
            return [document for document in seen if metadata.is_in(document.data["metadata"])]

        return compared() if metadata.is_linear else await self._lane.run(compared)

    async def _candidates(self, ids: Sequence[str] | None) -> AsyncIterator[list[Document]]:
        if ids is None:
            async for part in self._documents.parts(part_bytes=_PART_BYTES):
                yield part
            return
        async for named in self._documents.parts_of(list(dict.fromkeys(ids)), part_bytes=_PART_BYTES):
            yield [document for document in named if document is not None]

    async def page(
        self, ids: Sequence[str], fields: Collection[str] | None = None
    ) -> AsyncIterator[Sequence[dict[str, Any]]]:
        """Iterate over threads as the API shows them, a few at a time; those that have gone are left out.

        Args:
            ids: the threads.
            fields: as for `views`.
        """
        async for named in self._documents.parts_of(ids, part_bytes=_PART_BYTES):
            for part in _parts([document for document in named if document is not None]):
                yield await self.views(part, fields)

    def new_view(self, document: Document) -> dict[str, Any]:
        """A thread that has just been made, which has neither runs nor a state."""
        return _shown(document, active=0, last=None, state=EMPTY_STATE, show_errors=self._show_errors)

    async def view(self, document: Document) -> dict[str, Any]:
        """A thread as the API shows it."""
        return (await self.views([document]))[0]

    async def views(self, documents: Sequence[Document], fields: Collection[str] | None = None) -> list[dict[str, Any]]:
        """Threads as the API shows them.

        Args:
            documents: the threads.
            fields: what is wanted of them, all when left out. Their states are read only where these depend on them.
        """
        ids = [document.id for document in documents]
        active, last = await self._client.active(ids), await self._client.last_runs(ids)
        views: list[dict[str, Any]] = []
        for part in _parts(list(zip(documents, active, last, strict=True))):
            views += await asyncio.gather(*(self._view(*each, fields=fields) for each in part))
        return views

    async def _view(
        self, document: Document, active: int, last: RunInfo | None, *, fields: Collection[str] | None
    ) -> dict[str, Any]:
        depends = not active and (last is None or last.status not in _FAILED)
        wanted = fields is None or not _OF_STATE.isdisjoint(fields) or (depends and "status" in fields)
        state = await self._state(document, last) if wanted else EMPTY_STATE
        return _shown(document, active=active, last=last, state=state, show_errors=self._show_errors)

    async def _state(self, document: Document, last: RunInfo | None) -> Mapping[str, Any]:
        """A thread's last state; where its graph cannot show it, an empty one that says so in `error`.

        A graph that cannot must hide neither the thread nor others. A database that is away hides all of them.

        Raises:
            Unavailable: the checkpoints' database is away.
        """
        graph = self._states.graph_of(document.data["metadata"])
        # A thread may be of a graph that is not here, or not any more.
        if not self._states.knows(graph):
            return EMPTY_STATE
        try:
            return await self._states.get(graph, document.id)
        except ApiError as error:
            _logger.warning("thread %s is shown without its state: %s", document.id, error.detail)
            stopped = last is not None and last.status is Status.INTERRUPTED
            unreadable = {"error": "StateUnreadable", "message": error.detail}
            return {**EMPTY_STATE, "next": ["unknown"] if stopped else [], "error": unreadable}


def _parts(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for at in range(0, len(items), _AT_ONCE):
        yield items[at : at + _AT_ONCE]


def _shown(
    document: Document, *, active: int, last: RunInfo | None, state: Mapping[str, Any], show_errors: bool
) -> dict[str, Any]:
    data = document.data
    failed = not active and last is not None and last.status in _FAILED
    is_left = last is None and data.get("after_failure", False)
    view = {
        "thread_id": document.id,
        "created_at": data["created_at"],
        "updated_at": max(data["updated_at"], iso(last.ended_at) or "" if last is not None else ""),
        "state_updated_at": state["created_at"] or data["updated_at"],
        "metadata": data["metadata"],
        "config": data["config"],
        "status": _status(active, failed=failed, state={"next": []} if is_left else state),
        "values": state["values"] if state["checkpoint"] else None,
        "interrupts": {task["id"]: task["interrupts"] for task in state["tasks"] if task["interrupts"]},
    }
    if failed and last is not None:
        error = last.error.model_dump() if last.error else None
        view["error"] = error_of(last.status, error, show=show_errors)
    elif "error" in state:
        view["error"] = state["error"]
    return view


def _status(active: int, *, failed: bool, state: Mapping[str, Any]) -> ThreadStatus:
    if active:
        return "busy"
    if failed:
        return "error"
    return "interrupted" if state["next"] else "idle"


def _with_values(views: Sequence[dict[str, Any]], values: Containment) -> list[dict[str, Any]]:
    return [view for view in views if values.is_in(view["values"])]
