"""Feedback on runs: /threads/{thread_id}/runs/{run_id}/feedback."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from runstream import RunNotFound
from runstream_gateway.errors import not_found
from runstream_gateway.ids import check_uuid
from runstream_gateway.routes.common import Accessing, Json, RunId, ThreadId, gateway_of
from runstream_gateway.routes.runs import find
from runstream_gateway.routes.strict import StrictRoute
from runstream_gateway.shapes import REFUSALS

_LONGEST = 2_000


class _LinkRoute(StrictRoute):
    """A route to which a link leads: it is looked at before what is sent to it."""

    async def admit(self, request: Request) -> None:
        """Judge a request by its head.

        Raises:
            ApiError: 404, no such link was given out; otherwise as of any route.
        """
        await super().admit(request)
        if (key := request.path_params.get("key")) is not None:
            run_id = check_uuid(request.path_params["run_id"], "run_id")
            await gateway_of(request).feedback.check(run_id, key, request.query_params.get("token", ""))


router = APIRouter(
    prefix="/threads/{thread_id}/runs/{run_id}/feedback", tags=["feedback"], responses=REFUSALS, route_class=_LinkRoute
)


class FeedbackCreate(BaseModel):
    """What somebody thinks of a run."""

    score: float | bool | None = None
    value: Annotated[str | None, Field(max_length=_LONGEST)] = None
    comment: Annotated[str | None, Field(max_length=_LONGEST)] = None


class FeedbackShape(FeedbackCreate):
    """Feedback that was left."""

    key: str
    created_at: str


@router.get("", response_model=list[FeedbackShape], summary="List a run's feedback")
async def list_feedback(thread_id: ThreadId, run_id: RunId, access: Accessing) -> Response:
    """What has been left on a run, the oldest first."""
    info = await find(access, thread_id, run_id, "read")
    return Json(await access.gateway.feedback.of_run(info.run_id))


@router.post("/{key:path}", response_model=FeedbackShape, summary="Leave feedback on a run")
async def leave(
    thread_id: ThreadId,
    run_id: RunId,
    key: str,
    body: FeedbackCreate,
    request: Request,
    token: Annotated[str, Query()] = "",  # noqa: ARG001 - looked at by the route's class
) -> Response:
    """Leave feedback by a link that a run's stream gave out (its `feedback` event). The link is all that it takes."""
    gateway, run_id = gateway_of(request), check_uuid(run_id, "run_id")
    entry: dict[str, Any] = body.model_dump(exclude_none=True)
    try:
        info = await gateway.client.get(run_id)
    except RunNotFound:
        raise not_found("run", run_id) from None
    if info.thread_id != check_uuid(thread_id, "thread_id"):
        raise not_found("run", run_id)
    return Json(await gateway.feedback.leave(run_id, key, entry))
