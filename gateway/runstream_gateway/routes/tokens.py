"""Read tokens: so that a browser can read one run, or one thread, without holding a key."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field
from starlette.responses import Response

from runstream_gateway.auth.caller import Filter, Scope
from runstream_gateway.ids import check_uuid
from runstream_gateway.routes.common import Access, Accessing, Json, RunId, ThreadId
from runstream_gateway.routes.strict import StrictRoute
from runstream_gateway.shapes import REFUSALS

router = APIRouter(prefix="/threads/{thread_id}", tags=["read tokens"], responses=REFUSALS, route_class=StrictRoute)


class TokenCreate(BaseModel):
    """For how long a token is."""

    seconds: float = Field(default=900, ge=1, le=24 * 3600)


class TokenShape(BaseModel):
    """A token: sent as `Authorization: Bearer`, or as `?token=` where a browser cannot set headers."""

    token: str
    expires_at: int = Field(description="Seconds since 1970.")


@router.post("/token", response_model=TokenShape, summary="Make a read token for a thread")
async def of_thread(
    thread_id: ThreadId, access: Accessing, body: Annotated[TokenCreate | None, Body()] = None
) -> Response:
    """Whoever has it may read this thread, its state and its runs, for a while, and nothing else."""
    thread_id = check_uuid(thread_id, "thread_id")
    allowed = await access.to("threads", "read", {"thread_id": thread_id})
    await access.gateway.threads.get(thread_id, allowed)
    return await _issued(access, allowed, thread_id, None, body or TokenCreate())


@router.post("/runs/{run_id}/token", response_model=TokenShape, summary="Make a read token for a run")
async def of_run(
    thread_id: ThreadId, run_id: RunId, access: Accessing, body: Annotated[TokenCreate | None, Body()] = None
) -> Response:
    """Whoever has it may read this run and its stream, for a while, and nothing else."""
    thread_id, run_id = check_uuid(thread_id, "thread_id"), check_uuid(run_id, "run_id")
    allowed = await access.to("threads", "read", {"thread_id": thread_id, "run_id": run_id})
    info = await access.gateway.runs.find(run_id, allowed, thread_id=thread_id)
    return await _issued(access, allowed, thread_id, info.run_id, body or TokenCreate())


async def _issued(access: Access, allowed: Filter, thread_id: str, run_id: str | None, body: TokenCreate) -> Response:
    scope = Scope(thread_id, run_id, allowed.conditions)
    issued = await access.gateway.tokens.issue(access.caller, scope, seconds=body.seconds)
    return Json({"token": issued.token, "expires_at": issued.expires_at}, headers={"cache-control": "no-store"})
