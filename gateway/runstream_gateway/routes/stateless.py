"""Runs that are given no thread: /runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from runstream import RunInfo
from runstream_gateway.access import EVERYTHING
from runstream_gateway.bodies import StatelessRunCreate
from runstream_gateway.errors import not_found
from runstream_gateway.ids import check_uuid
from runstream_gateway.routes.answers import (
    awaited,
    check_words,
    joined_stream,
    new_stream,
    readable,
    text_stream,
    wants_text,
)
from runstream_gateway.routes.common import Access, Accessing, Json, RunId, query_list
from runstream_gateway.routes.creation import create_many, create_stateless
from runstream_gateway.routes.runs import BeginBehind, CancelOnDisconnect, LastEventId, Modes, Settled, reading
from runstream_gateway.routes.strict import StrictRoute
from runstream_gateway.runs import Readable
from runstream_gateway.shapes import EVENTS_OR_WORDS, REFUSALS, RunShape

router = APIRouter(prefix="/runs", tags=["stateless runs"], responses=REFUSALS, route_class=StrictRoute)
_MOST_IN_BATCH = 1000


@router.post("", response_model=RunShape, summary="Create a stateless run")
async def create(body: StatelessRunCreate, request: Request, access: Accessing) -> Response:
    """Enqueue a run that is given no thread."""
    created = await create_stateless(access, body, request)
    return Json(created.to_json(), headers={"content-location": f"/runs/{created.run.run_id}"})


@router.post(
    "/stream", response_class=Response, responses=EVENTS_OR_WORDS, summary="Create a stateless run and stream it"
)
async def create_and_stream(
    body: StatelessRunCreate, request: Request, access: Accessing, settled: Settled = False
) -> Response:
    """Enqueue a run and send its events as they come. Its `Location` can be read like that of any run."""
    check_words(request, body.stream_mode)
    async with access.stream_to_come():
        return await new_stream(access, await create_stateless(access, body, request), body, request, settled=settled)


@router.post("/wait", summary="Create a stateless run and wait for its result")
async def create_and_wait(body: StatelessRunCreate, request: Request, access: Accessing) -> Response:
    """Enqueue a run and answer with its final values when it has ended."""
    async with access.stream_to_come():
        created = await create_stateless(access, body, request)
        return await awaited(
            access, readable(created, body), created.path, stop_when_left=body.on_disconnect == "cancel"
        )


@router.post("/batch", response_model=list[RunShape], summary="Create many stateless runs")
async def batch(
    bodies: Annotated[list[StatelessRunCreate], Body(min_length=1, max_length=_MOST_IN_BATCH)],
    request: Request,
    access: Accessing,
) -> Response:
    """Enqueue many runs; the answers are in their order."""
    # The first has been counted, as every request is.
    if others := len(bodies) - 1:
        await access.gateway.limiter.admit(access.caller, requests=others)
    return Json([created.to_json() for created in await create_many(access, bodies, request)])


@router.get("/{run_id}", response_model=RunShape, summary="Get a run by its id alone")
async def get(run_id: RunId, access: Accessing) -> Response:
    """A run, whatever its thread."""
    return Json(await access.gateway.runs.view(await find(access, run_id)))


@router.get("/{run_id}/join", summary="Wait for a run's result by its id alone")
async def join(run_id: RunId, access: Accessing, cancel_on_disconnect: CancelOnDisconnect = False) -> Response:
    """The final values of a run, when it has ended."""
    info = await find(access, run_id, cancels=cancel_on_disconnect)
    return await awaited(access, Readable.of(info), f"/runs/{info.run_id}", stop_when_left=cancel_on_disconnect)


@router.get(
    "/{run_id}/stream", response_class=Response, responses=EVENTS_OR_WORDS, summary="Stream a run by its id alone"
)
async def stream(
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
    info = await find(access, run_id, cancels=cancel_on_disconnect)
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


async def find(access: Access, run_id: str, *, cancels: bool = False) -> RunInfo:
    """A run by nothing but its id; whoever may not read it is not told whether it is there.

    Args:
        access: of the caller.
        run_id: the run.
        cancels: the caller may stop it, by leaving.

    Raises:
        ApiError: 403, 404, 422.
    """
    run_id = check_uuid(run_id, "run_id")
    runs = access.gateway.runs
    # First the run, for what may be read of it is a question of its thread.
    info = await runs.find(run_id, EVERYTHING)
    value = {"thread_id": info.thread_id, "run_id": run_id}
    allowed = await access.to_found("threads", "read", dict(value), missing=not_found("run", run_id))
    await runs.check_visible(info, allowed)
    # Whoever may read it knows that it is there.
    for action in reading(cancels=cancels)[1:]:
        await runs.check_visible(info, await access.to("threads", action, dict(value)))
    return info
