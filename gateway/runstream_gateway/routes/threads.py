"""Threads: /threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast, get_args

from fastapi import APIRouter, Body, Header, Query
from starlette.responses import Response

from runstream_gateway.access import Allowed
from runstream_gateway.auth.guard import Action
from runstream_gateway.bodies import ThreadCount, ThreadCreate, ThreadPatch, ThreadPrune, ThreadSearch
from runstream_gateway.bounded_list import BoundedList, check_paths
from runstream_gateway.errors import ApiError
from runstream_gateway.ids import check_uuid, new_id
from runstream_gateway.routes.common import Access, Accessing, Json, ThreadId, paged, query_list, selected
from runstream_gateway.routes.runs import Settled
from runstream_gateway.routes.strict import StrictRoute
from runstream_gateway.shapes import EVENTS, REFUSALS, Error, PrunedShape, ThreadPart, ThreadShape
from runstream_gateway.streaming import FrameResponse
from runstream_gateway.thread_reader import ThreadMode, ThreadReader
from runstream_gateway.threads import ThreadQuery

router = APIRouter(prefix="/threads", tags=["threads"], responses=REFUSALS, route_class=StrictRoute)


@router.post("", response_model=ThreadShape, summary="Create a thread")
async def create(access: Accessing, body: Annotated[ThreadCreate | None, Body()] = None) -> Response:
    """A new thread. Where there is one of this id, that is refused, or it is the answer (`if_exists`)."""
    body = body or ThreadCreate()
    given_id = None if body.thread_id is None else check_uuid(body.thread_id, "thread_id")
    value: dict[str, Any] = {"thread_id": given_id, "metadata": dict(body.metadata or {}), "if_exists": body.if_exists}
    allowed = await access.to("threads", "create", value)
    threads = access.gateway.threads
    thread_id = given_id or new_id()
    supersteps = [step.model_dump() for step in body.supersteps or ()]
    async with access.storing("thread", thread_id, value["metadata"], supersteps):
        created = await threads.create(
            thread_id,
            value["metadata"],
            allowed,
            is_own_id=given_id is None,
            if_exists=body.if_exists or "raise",
            supersteps=supersteps,
        )
    is_new = created.version == 1 and not body.supersteps and body.if_exists != "do_nothing"
    return Json(threads.new_view(created) if is_new else await threads.view(created))


@router.post("/search", response_model=list[ThreadPart], summary="Search threads")
async def search(access: Accessing, body: Annotated[ThreadSearch | None, Body()] = None) -> Response:
    """The threads that fit, the newest first; `X-Pagination-Total` tells how many there are."""
    body = body or ThreadSearch()
    check_paths(body.extract)
    threads = access.gateway.threads
    metadata, allowed = await _narrowed(access, body)
    query = ThreadQuery(metadata, body.values or {}, body.ids, body.status)
    async with access.turn():
        found = await threads.search(query, allowed, sort_by=body.sort_by or "created_at")
        found.sort(key=lambda one: one.key, reverse=body.sort_order != "asc")
        part, headers = paged([one.thread_id for one in found], body.limit, body.offset)
        answer = BoundedList("threads", "ask for less at a time (limit, offset), or for fewer fields (select)")
        async for views in threads.page(part, _fields(body.select, body.extract)):
            # Extracting decodes, and what is large takes long to encode.
            await access.gateway.lane.run(lambda views=views: _add(answer, views, body))  # type: ignore[misc] # bound now
    return Json(answer.content, headers=headers)


@router.post("/count", response_model=int, summary="Count threads")
async def count(access: Accessing, body: Annotated[ThreadCount | None, Body()] = None) -> Response:
    """How many threads fit."""
    body = body or ThreadCount()
    metadata, allowed = await _narrowed(access, body)
    query = ThreadQuery(metadata, body.values or {}, None, body.status)
    async with access.turn():
        return Json(len(await access.gateway.threads.search(query, allowed)))


@router.post(
    "/prune",
    response_model=PrunedShape,
    responses={501: {"model": Error, "description": "The checkpointer cannot do this."}},
    summary="Prune threads",
)
async def prune(access: Accessing, body: ThreadPrune) -> Response:
    """Remove threads, or all of their states but the last."""
    threads, pruned = access.gateway.threads, 0
    for thread_id in dict.fromkeys(check_uuid(one, "thread_ids") for one in body.thread_ids):
        allowed = await access.to("threads", "delete", {"thread_id": thread_id})
        try:
            if body.strategy == "delete":
                await threads.delete(thread_id, allowed)
                await access.gateway.storage.removed(access.caller, "thread", thread_id)
            else:
                await threads.prune(thread_id, allowed)
                await access.gateway.storage.shrunk(access.caller, "thread", thread_id)
        except ApiError as error:
            if error.status != 404:
                raise
        else:
            pruned += 1
    return Json({"pruned_count": pruned})


@router.get("/{thread_id}", response_model=ThreadShape, summary="Get a thread")
async def get(thread_id: ThreadId, access: Accessing) -> Response:
    """A thread, with its status and the values of its state."""
    thread_id, allowed = await thread_access(access, thread_id, "read")
    threads = access.gateway.threads
    return Json(await threads.view(await threads.get(thread_id, allowed)))


@router.patch(
    "/{thread_id}",
    response_model=ThreadShape,
    responses={204: {"description": "It was changed, and nothing else was to be told."}},
    summary="Change a thread's metadata",
)
async def patch(
    thread_id: ThreadId, body: ThreadPatch, access: Accessing, prefer: Annotated[str, Header()] = ""
) -> Response:
    """Merge into a thread's metadata, key by key. `Prefer: return=minimal` answers 204."""
    thread_id = check_uuid(thread_id, "thread_id")
    value: dict[str, Any] = {"thread_id": thread_id, "metadata": dict(body.metadata or {})}
    allowed = await access.to("threads", "update", value)
    threads = access.gateway.threads
    known = await threads.get(thread_id, allowed)
    async with access.storing("thread", thread_id, value["metadata"]):
        changed = await threads.change(thread_id, allowed, value["metadata"], known=known)
    if prefer == "return=minimal":
        return Response(status_code=204)
    return Json(await threads.view(changed))


@router.delete("/{thread_id}", status_code=204, summary="Delete a thread")
async def delete(thread_id: ThreadId, access: Accessing) -> Response:
    """Remove a thread with its runs and its state; runs that go on are stopped first."""
    thread_id, allowed = await thread_access(access, thread_id, "delete")
    await access.gateway.threads.delete(thread_id, allowed)
    await access.gateway.storage.removed(access.caller, "thread", thread_id)
    return Response(status_code=204)


@router.post("/{thread_id}/copy", response_model=ThreadShape, summary="Copy a thread")
async def copy(thread_id: ThreadId, access: Accessing) -> Response:
    """A new thread with the state and the metadata of this one."""
    thread_id, allowed = await thread_access(access, thread_id, "read")
    value: dict[str, Any] = {"metadata": {}}
    await access.to("threads", "create", value)
    threads, copy_id = access.gateway.threads, new_id()
    size = await threads.size(thread_id, allowed)
    async with access.gateway.storage.adding(access.caller, ("thread", copy_id, size)):
        copied = await threads.copy(thread_id, allowed, value["metadata"], copy_id)
    return Json(await threads.view(copied))


@router.get("/{thread_id}/stream", response_class=Response, responses=EVENTS, summary="Stream a thread")
async def stream(
    thread_id: ThreadId,
    access: Accessing,
    last_event_id: Annotated[str | None, Header(description="Go on behind this event; `-` for all.")] = None,
    stream_mode: Annotated[list[str] | None, Query(description="`run_modes`, `lifecycle`, `state_update`.")] = None,
    stream_modes: Annotated[list[str] | None, Query(description="The same, as LangGraph's server reads it.")] = None,
    settled: Settled = False,
) -> Response:
    """The streams of the thread's runs, one after the other. It does not end by itself."""
    thread_id, allowed = await thread_access(access, thread_id, "read")
    gateway = access.gateway
    await gateway.threads.get(thread_id, allowed)
    modes = _thread_modes(query_list([*(stream_mode or ()), *(stream_modes or ())]))

    async def is_there() -> bool:
        return await gateway.threads.exists(thread_id)

    reader = ThreadReader(
        gateway.client,
        gateway.runs,
        thread_id,
        last_event_id=last_event_id,
        modes=modes,
        is_there=is_there,
        settled=settled,
    )
    slot = await access.stream_slot()
    return FrameResponse(lambda: reader, access.streams, slot, heartbeat=gateway.settings.heartbeat)


async def _narrowed(access: Access, body: ThreadSearch | ThreadCount) -> tuple[dict[str, Any], Allowed]:
    """What the metadata of the threads has to contain, as the guard's handler has left it, and which may be seen.

    Raises:
        ApiError: 403.
    """
    value = {**body.model_dump(exclude_none=True), "metadata": dict(body.metadata or {})}
    allowed = await access.to("threads", "search", value)
    return value["metadata"], allowed


def _fields(select: Sequence[str] | None, extract: Mapping[str, str] | None) -> set[str] | None:
    """The fields that an answer needs; None for all."""
    if not select:
        return None
    return {*select, *(path.replace("[", ".").partition(".")[0] for path in (extract or {}).values())}


def _thread_modes(modes: Sequence[str] | None) -> list[ThreadMode]:
    known = get_args(ThreadMode)
    for mode in modes or ():
        if mode not in known:
            raise ApiError(422, f"stream_mode: {mode!r} must be one of {', '.join(known)}")
    return cast("list[ThreadMode]", list(modes or ()))


async def thread_access(access: Access, thread_id: str, action: Action, **value: Any) -> tuple[str, Any]:
    """A thread's id in its one spelling, and which threads the caller may do this with.

    Raises:
        ApiError: 403, 422.
    """
    thread_id = check_uuid(thread_id, "thread_id")
    return thread_id, await access.to("threads", action, {"thread_id": thread_id, **value})


def _add(answer: BoundedList, views: Sequence[Mapping[str, Any]], body: ThreadSearch) -> None:
    """Add threads to an answer as they were asked for."""
    for view in views:
        shown = selected(view, body.select)
        if body.extract:
            shown["extracted"] = answer.extracted(view, body.extract)
        answer.add(shown)
