"""What the API answers with, for its OpenAPI page: LangGraph's own names and types."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel
from typing_extensions import TypedDict


class Error(BaseModel):
    """Why a request was refused."""

    detail: str


class RunShape(BaseModel):
    """A run."""

    run_id: str
    thread_id: str
    assistant_id: str | None
    metadata: dict[str, Any]
    status: Literal["pending", "running", "success", "error", "timeout", "interrupted"]
    kwargs: dict[str, Any]
    multitask_strategy: str
    created_at: str
    updated_at: str


class RunPart(TypedDict, total=False):
    """A run, or the fields of it that were selected."""

    run_id: str
    thread_id: str
    assistant_id: str | None
    metadata: dict[str, Any]
    status: Literal["pending", "running", "success", "error", "timeout", "interrupted"]
    kwargs: dict[str, Any]
    multitask_strategy: str
    created_at: str
    updated_at: str


class ThreadShape(BaseModel):
    """A thread."""

    thread_id: str
    created_at: str
    updated_at: str
    state_updated_at: str
    metadata: dict[str, Any]
    config: dict[str, Any]
    status: Literal["idle", "busy", "interrupted", "error"]
    values: Any
    interrupts: dict[str, list[dict[str, Any]]]
    error: dict[str, str] | None = None


class ThreadPart(TypedDict, total=False):
    """A thread, or the fields of it that were selected, and what was to be extracted from it."""

    thread_id: str
    created_at: str
    updated_at: str
    state_updated_at: str
    metadata: dict[str, Any]
    config: dict[str, Any]
    status: Literal["idle", "busy", "interrupted", "error"]
    values: Any
    interrupts: dict[str, list[dict[str, Any]]]
    error: dict[str, str]
    extracted: dict[str, Any]


class PrunedShape(BaseModel):
    """How many threads were pruned."""

    pruned_count: int


class StatePart(TypedDict, total=False):
    """A thread's state at a checkpoint, or the fields of it that were selected."""

    values: Any
    next: list[str]
    tasks: list[dict[str, Any]]
    metadata: dict[str, Any] | None
    created_at: str | None
    checkpoint: dict[str, Any] | None
    parent_checkpoint: dict[str, Any] | None
    interrupts: list[dict[str, Any]]
    checkpoint_id: str | None
    parent_checkpoint_id: str | None


class StateWritten(BaseModel):
    """Where an update has been written to."""

    checkpoint: dict[str, Any]
    configurable: dict[str, Any]
    checkpoint_id: str | None


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": told}
    for status, told in {
        400: "Parts of the request exclude each other.",
        401: "Nobody knows who calls.",
        403: "The caller may not do this.",
        404: "There is no such thing, or it is not the caller's.",
        408: "The body did not arrive in time.",
        409: "What is there already is in the way.",
        413: "The body is too large.",
        422: "Something in the request is not as it has to be.",
        429: "Too much at once; `Retry-After` says when to come back.",
        503: "Redis, or the checkpoints' database, cannot be reached.",
    }.items()
}


_EVENT = {
    "type": "object",
    "properties": {
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": {}},
        "id": {"type": "string", "description": "What `Last-Event-ID` takes to go on behind this."},
    },
    "required": ["event", "data"],
}
_EVENTS = {"text/event-stream": {"itemSchema": _EVENT}}
_WORDS = {"text/plain": {"schema": {"type": "string"}}}

# These are given together with a response class that has no media type, so that FastAPI adds none.
EVENTS: dict[int | str, dict[str, Any]] = {200: {"description": "Server-sent events.", "content": _EVENTS}}
WORDS: dict[int | str, dict[str, Any]] = {200: {"description": "The words.", "content": _WORDS}}
EVENTS_OR_WORDS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events; with `Accept: text/plain` the words only.",
        "content": {**_EVENTS, **_WORDS},
    }
}
