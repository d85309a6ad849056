"""Runs on threads: /threads/{thread_id}/runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from runstream import RunInfo
from runstream_gateway.auth.guard import Action
from runstream_gateway.bodies import CancelMany, RunCreate
from runstream_gateway.bounded_list import BoundedList
from runstream_gateway.errors import ApiError
from runstream_gateway.ids import check_uuid
from runstream_gateway.pacing import paced
from runstream_gateway.routes.answers import (
    awaited,
    check_words,
    joined_stream,
    new_stream,
    readable,
    text_stream,
    wants_text,
)
from runstream_gateway.routes.common import Access, Accessing, Json, RunId, ThreadId, query_list, selected
from runstream_gateway.routes.creation import create_on_thread
from runstream_gateway.routes.places import places
from runstream_gateway.routes.strict import StrictRoute
from runstream_gateway.runs import Readable, RunStatus, check_one_of_two
from runstream_gateway.shapes import EVENTS_OR_WORDS, REFUSALS, WORDS, RunPart, RunShape

router = APIRouter(prefix="/threads/{thread_id}/runs", tags=["runs"], responses=REFUSALS, route_class=StrictRoute)
many = APIRouter(tags=["runs"], responses=REFUSALS, route_class=StrictRoute)

LastEventId = Annotated[
    str | None, Header(description="Go on behind this event; `-1` for all of them. Without it: from now on.")
]
BeginBehind = Annotated[
    str | None, Query(alias="last_event_id", description="The same, for who sends no such header; the header wins.")
]
Modes = Annotated[list[str] | None, Query(description="Only these modes of the run's.")]
_NS = (
    "Only words of these namespaces: a subgraph by the name of its node, empty for the graph itself, `*` for all. "
    "The graph itself where nodes are named, else all."
)
Settled = Annotated[bool, Query(description="Only what no later attempt can void: each event once, as it is saved.")]
CancelOnDisconnect = Annotated[bool, Query(description="Stop the run if this reader leaves before its end.")]


@router.post("", response_model=RunShape, summary="Create a run")
async def create(thread_id: ThreadId, body: RunCreate, request: Request, access: Accessing) -> Response:
    """Enqueue a run; a worker takes it at once, or when its turn on the thread has come."""
    created = await create_on_thread(access, thread_id, body, request)
    return Json(created.to_json(), headers={"content-location": created.path})


@router.post("/stream", response_class=Response, responses=EVENTS_OR_WORDS, summary="Create a run and stream it")
async def create_and_stream(
    thread_id: ThreadId, body: RunCreate, request: Request, access: Accessing, settled: Settled = False
) -> Response:
    """Enqueue a run and send its events as they come (`text/event-stream`), or its words (`Accept: text/plain`)."""
    check_words(request, body.stream_mode)
    async with access.stream_to_come():
        created = await create_on_thread(access, thread_id, body, request)
        return await new_stream(access, created, body, request, settled=settled)


@router.post("/wait", summary="Create a run and wait for its result")
async def create_and_wait(thread_id: ThreadId, body: RunCreate, request: Request, access: Accessing) -> Response:
    """Enqueue a run and answer with its final values when it has ended."""
    async with access.stream_to_come():
        created = await create_on_thread(access, thread_id, body, request)
        return await awaited(
            access, readable(created, body), created.path, stop_when_left=body.on_disconnect == "cancel"
        )


@router.get("", response_model=list[RunPart], summary="List a thread's runs")
async def list_runs(
    thread_id: ThreadId,
    access: Accessing,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
    offset: Annotated[int, Query(ge=0)] = 0,
    status: RunStatus | None = None,
    select: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """The runs of a thread, the newest first."""
    await _thread(access, thread_id, "read")
    wanted = query_list(select)
    answer = BoundedList("runs", "ask for less at a time (limit, offset), or without kwargs (select)")
    async with access.turn():
        runs = access.gateway.runs
        found = await runs.of_thread(check_uuid(thread_id, "thread_id"), status, most=offset + limit)
        async for view in paced(runs.views(found[offset:], kwargs=wanted is None or "kwargs" in wanted)):
            answer.add(selected(view, wanted))
    return Json(answer.content)


@router.get("/{run_id}", response_model=RunShape, summary="Get a run")
async def get(thread_id: ThreadId, run_id: RunId, access: Accessing) -> Response:
    """A run."""
    return Json(await access.gateway.runs.view(await find(access, thread_id, run_id, "read")))


@router.get("/{run_id}/join", summary="Wait for a run's result")
async def join(
    thread_id: ThreadId, run_id: RunId, access: Accessing, cancel_on_disconnect: CancelOnDisconnect = False
) -> Response:
    """The final values of a run, when it has ended."""
    info = await find(access, thread_id, run_id, *reading(cancels=cancel_on_disconnect))
    path = f"/threads/{info.thread_id}/runs/{info.run_id}"
    return await awaited(access, Readable.of(info), path, stop_when_left=cancel_on_disconnect)


@router.get("/{run_id}/stream", response_class=Response, responses=EVENTS_OR_WORDS, summary="Stream a run")
async def stream(
    thread_id: ThreadId,
    run_id: RunId,
    request: Request,
    access: Accessing,
    last_event_id: LastEventId = None,
    stream_mode: Modes = None,
    cancel_on_disconnect: CancelOnDisconnect = False,
    begin_behind: BeginBehind = None,
    settled: Settled = False,
) -> Response:
    """The events of a run: from now on, or from where `Last-Event-ID` says; also after its end."""
    info = await find(access, thread_id, run_id, *reading(cancels=cancel_on_disconnect))
    if wants_text(request):
        return await text_stream(access, Readable.of(info), stop_when_left=cancel_on_disconnect, settled=settled)
    return await joined_stream(
        access,
        info,
        last_event_id or begin_behind,
        query_list(stream_mode),
        stop_when_left=cancel_on_disconnect,
        settled=settled,
    )


@router.get("/{run_id}/text", response_class=Response, responses=WORDS, summary="Stream a run's words")
async def text(
    thread_id: ThreadId,
    run_id: RunId,
    access: Accessing,
    settled: Settled = False,
    node: Annotated[list[str] | None, Query(description="Only words of these nodes.", max_length=100)] = None,
    ns: Annotated[list[str] | None, Query(description=_NS, max_length=100)] = None,
) -> Response:
    """The words of a run's AI messages as plain text, from its start: for `curl -N`."""
    run = Readable.of(await find(access, thread_id, run_id, "read"))
    return await text_stream(access, run, settled=settled, nodes=node, namespaces=ns)


@router.post(
    "/{run_id}/cancel",
    responses={202: {"description": "It has been asked to end."}},
    summary="Cancel a run",
)
async def cancel(
    thread_id: ThreadId,
    run_id: RunId,
    access: Accessing,
    wait: bool = False,
    action: Literal["interrupt", "rollback"] = "interrupt",
    reason: Annotated[str, Query(max_length=1000)] = "",
) -> Response:
    """Stop a run. What it has saved stays, or goes with it (`rollback`). One that has ended is left as it is."""
    info = await find(access, thread_id, run_id, "update")
    runs = access.gateway.runs
    await runs.cancel(info, action, reason=reason)
    if not wait:
        return Response(status_code=202)
    await runs.settled(info, action, reason=reason)
    path = f"/threads/{info.thread_id}/runs/{info.run_id}"
    return Json(await runs.outcome(info.run_id), headers=places(path, "join"))


@router.delete("/{run_id}", status_code=204, summary="Delete a run")
async def delete(thread_id: ThreadId, run_id: RunId, access: Accessing) -> Response:
    """Forget a run; one that goes on is stopped first. What it has saved of the thread stays."""
    await access.gateway.runs.delete(await find(access, thread_id, run_id, "delete"))
    return Response(status_code=204)


@many.post("/runs/cancel", status_code=204, summary="Cancel many runs")
async def cancel_many(
    body: CancelMany, access: Accessing, action: Literal["interrupt", "rollback"] = "interrupt"
) -> Response:
    """Stop all runs of a status, or these of a thread."""
    check_one_of_two(body.status, body.thread_id, body.run_ids)
    found = await _chosen(access, body)
    if not found:
        raise ApiError(404, "no such run is pending or running")
    for info in found:
        await access.gateway.runs.cancel(info, action)
    return Response(status_code=204)


async def _chosen(access: Access, body: CancelMany) -> list[RunInfo]:
    if body.status is None:
        run_ids = [check_uuid(run_id, "run_ids") for run_id in body.run_ids or ()]
        found = [await find(access, str(body.thread_id), run_id, "update") for run_id in run_ids]
        return [info for info in found if not info.status.ended]
    allowed = await access.to("threads", "update", {})
    statuses = ("pending", "running") if body.status == "all" else (body.status,)
    async with access.turn():
        return await access.gateway.runs.unended(statuses, allowed)


async def find(access: Access, thread_id: str, run_id: str, action: Action, *actions: Action) -> RunInfo:
    """A run on a thread, if the caller may do all this with it.

    Raises:
        ApiError: 404, 403, 422.
    """
    thread_id, run_id = check_uuid(thread_id, "thread_id"), check_uuid(run_id, "run_id")
    for each in (action, *actions):
        allowed = await access.to("threads", each, {"thread_id": thread_id, "run_id": run_id})
        info = await access.gateway.runs.find(run_id, allowed, thread_id=thread_id)
    return info


def reading(*, cancels: bool) -> tuple[Action, ...]:
    """What a reader does with a run. One whose leaving stops it does more than read."""
    return ("read", "update") if cancels else ("read",)


async def _thread(access: Access, thread_id: str, action: Action) -> Any:
    thread_id = check_uuid(thread_id, "thread_id")
    allowed = await access.to("threads", action, {"thread_id": thread_id})
    return await access.gateway.threads.get(thread_id, allowed)
