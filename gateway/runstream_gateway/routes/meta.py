"""The service itself: /ok, /info. Nobody needs a key to ask."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from langgraph.version import __version__ as langgraph_version
from pydantic import BaseModel, Field
from starlette.responses import Response

from runstream import __version__
from runstream_gateway.health import health
from runstream_gateway.routes.common import Json, gateway_of
from runstream_gateway.shapes import REFUSALS

router = APIRouter(tags=["service"])


class Part(BaseModel):
    """Something that a gateway depends on."""

    ok: bool
    needed_for: str
    detail: str | None = Field(default=None, description="What is wrong.")
    warning: str | None = Field(default=None, description="What will go wrong one day.")


class WorkersPart(Part):
    """The workers."""

    live: int = Field(description="How many have said something within the last minute.")


class GraphsPart(Part):
    """The graphs, where some of them cannot be loaded."""

    not_loaded: list[str] = Field(description="Their names. Runs of the other graphs are served.")


class Health(BaseModel):
    """Whether requests can be served. Without workers they can: runs are kept until there is one."""

    ok: bool
    redis: Part | None = None
    checkpointer: Part | None = None
    workers: WorkersPart | None = None
    graphs: GraphsPart | None = None


class Info(BaseModel):
    """What this server is, in the words of LangGraph's own."""

    version: str
    langgraph_py_version: str
    flags: dict[str, bool]
    host: dict[str, str | None]


@router.get(
    "/ok",
    response_model=Health,
    response_model_exclude_none=True,
    responses={
        422: REFUSALS[422],
        503: {"model": Health, "description": "Redis or the checkpoints' database cannot be used."},
    },
    summary="Is the server well",
)
async def ok(
    request: Request,
    check_db: Annotated[bool, Query(description="False asks only whether this process answers.")] = True,
) -> Response:
    """Whether requests can be served, and how the parts are that this depends on."""
    if not check_db:
        return Json({"ok": True})
    parts = await health(gateway_of(request))
    is_ok = parts["redis"]["ok"] and parts["checkpointer"]["ok"]
    return Json({"ok": is_ok, **parts}, status_code=200 if is_ok else 503)


@router.get("/info", response_model=Info, summary="What the server is")
async def info() -> dict[str, Any]:
    """Versions and abilities. LangGraph's user interfaces ask this first."""
    return {
        "version": __version__,
        "langgraph_py_version": langgraph_version,
        "flags": {
            "assistants": True,
            "crons": False,
            "langsmith": False,
            "langsmith_tracing_replicas": False,
            "langsmith_tracing_session_on_runs": False,
        },
        "host": {
            "kind": "self-hosted",
            "project_id": None,
            "host_revision_id": None,
            "revision_id": None,
            "tenant_id": None,
        },
    }
