"""What a thread has saved: /threads/{thread_id}/state and /history."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from starlette.responses import Response

from runstream import Document
from runstream_gateway.bodies import Checkpoint, HistorySearch, StateAt, StateUpdate, checkpoint_in
from runstream_gateway.bounded_list import BoundedList
from runstream_gateway.errors import ApiError
from runstream_gateway.ids import check_uuid
from runstream_gateway.routes.common import Access, Accessing, Json, ThreadId, query_list, selected
from runstream_gateway.routes.strict import StrictRoute
from runstream_gateway.routes.threads import thread_access
from runstream_gateway.shapes import REFUSALS, StatePart, StateWritten

Select = Annotated[list[str] | None, Query(description="Only these fields; `values.<key>` is one of the values.")]

router = APIRouter(prefix="/threads/{thread_id}", tags=["state"], responses=REFUSALS, route_class=StrictRoute)


@router.get("/state", response_model=StatePart, summary="Get a thread's state")
async def get(thread_id: ThreadId, access: Accessing, subgraphs: bool = False, select: Select = None) -> Response:
    """The last state of a thread."""
    return await _state(access, thread_id, None, subgraphs=subgraphs, select=query_list(select))


@router.post("/state/checkpoint", response_model=StatePart, summary="Get a thread's state at a checkpoint")
async def get_at(thread_id: ThreadId, body: StateAt, access: Accessing) -> Response:
    """The state of a thread at a checkpoint."""
    return await _state(access, thread_id, body.checkpoint, subgraphs=bool(body.subgraphs), select=body.select)


@router.get("/state/{checkpoint_id}", response_model=StatePart, summary="Get a thread's state by a checkpoint's id")
async def get_by_id(
    thread_id: ThreadId, checkpoint_id: str, access: Accessing, subgraphs: bool = False, select: Select = None
) -> Response:
    """The state of a thread at a checkpoint."""
    at = Checkpoint(checkpoint_id=check_uuid(checkpoint_id, "checkpoint_id"))
    return await _state(access, thread_id, at, subgraphs=subgraphs, select=query_list(select))


@router.post("/state", response_model=StateWritten, summary="Update a thread's state")
async def update(thread_id: ThreadId, body: StateUpdate, access: Accessing) -> Response:
    """Write a state as if a node had returned these values. Refused while a run is on the thread."""
    thread_id, allowed = await thread_access(access, thread_id, "update", values=body.values)
    gateway = access.gateway
    thread = await gateway.threads.get(thread_id, allowed)
    if (await gateway.client.active([thread_id]))[0]:
        raise ApiError(409, f"a run is on thread {thread_id!r}; update its state when that has ended")
    graph = access.gateway.states.graph_of(thread.data["metadata"])
    if graph is None:
        raise ApiError(400, f"thread {thread_id!r} has had no run yet, so that its graph is not known")
    checkpoint = _checkpoint(body.checkpoint, body.checkpoint_id)
    async with access.storing("thread", thread_id, body.values):
        written = await gateway.states.update(
            graph, thread_id, body.values, as_node=body.as_node, checkpoint=checkpoint
        )
    await gateway.threads.change(thread_id, allowed, {}, known=thread)
    return Json({"checkpoint": written, "configurable": written, "checkpoint_id": written.get("checkpoint_id")})


@router.post("/history", response_model=list[StatePart], summary="Get a thread's states")
async def history(
    thread_id: ThreadId, access: Accessing, body: Annotated[HistorySearch | None, Body()] = None
) -> Response:
    """The states of a thread, the newest first."""
    return await _history(access, thread_id, body or HistorySearch())


@router.get("/history", response_model=list[StatePart], summary="Get a thread's states")
async def get_history(
    thread_id: ThreadId,
    access: Accessing,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
    before: str | None = None,
) -> Response:
    """The states of a thread, the newest first; `before` is a checkpoint's id."""
    return await _history(access, thread_id, HistorySearch(limit=limit, before=before))


async def _thread(access: Access, thread_id: str) -> Document:
    thread_id, allowed = await thread_access(access, thread_id, "read")
    return await access.gateway.threads.get(thread_id, allowed)


async def _state(
    access: Access, thread_id: str, at: Checkpoint | None, *, subgraphs: bool, select: Sequence[str] | None
) -> Response:
    thread = await _thread(access, thread_id)
    graph = access.gateway.states.graph_of(thread.data["metadata"])
    checkpoint = None if at is None else at.model_dump(exclude_none=True)
    state = await access.gateway.states.get(graph, thread.id, checkpoint, subgraphs=subgraphs)
    return Json(_selected(state, select))


async def _history(access: Access, thread_id: str, body: HistorySearch) -> Response:
    thread = await _thread(access, thread_id)
    answer = BoundedList("states", "ask for less at a time (limit, before), or for fewer fields (select)")
    found = access.gateway.states.history(
        access.gateway.states.graph_of(thread.data["metadata"]),
        thread.id,
        limit=body.limit,
        before=_before(body),
        metadata=body.metadata,
        checkpoint=_checkpoint(body.checkpoint, None),
    )
    async with access.turn(), aclosing(found):
        async for state in found:
            await access.gateway.lane.run(lambda state=state: answer.add(_selected(state, body.select)))  # type: ignore[misc] # bound
    return Json(answer.content)


def _selected(state: dict[str, Any], select: Sequence[str] | None) -> dict[str, Any]:
    """The fields of a state that are wanted; `values.messages` is one key of its values."""
    keys = {name.removeprefix("values.") for name in select or () if name.startswith("values.")}
    chosen = selected(state, select)
    if keys and "values" not in chosen and isinstance(state["values"], dict):
        chosen["values"] = {key: value for key, value in state["values"].items() if key in keys}
    return chosen


def _checkpoint(checkpoint: Checkpoint | None, checkpoint_id: str | None) -> dict[str, Any] | None:
    given = {} if checkpoint is None else checkpoint.model_dump(exclude_none=True)
    return {**given, **({"checkpoint_id": checkpoint_id} if checkpoint_id else {})} or None


def _before(body: HistorySearch) -> dict[str, Any] | None:
    """A checkpoint in any of the forms that clients send: its id, a checkpoint, a config that names one."""
    before = body.before
    if before is None:
        return None
    named = {"checkpoint_id": before} if isinstance(before, str) else before.get("configurable", before)
    if not isinstance(named, dict) or not isinstance(named.get("checkpoint_id"), str):
        raise ApiError(422, f"before: {before!r} must be a checkpoint's id, a checkpoint, or a config with one")
    check_uuid(named["checkpoint_id"], "before")
    namespace = None if body.checkpoint is None else body.checkpoint.checkpoint_ns
    return {"checkpoint_ns": namespace or "", **checkpoint_in(named, "before").named()}
