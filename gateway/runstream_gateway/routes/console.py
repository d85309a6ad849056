"""The console: the page at /, and what it needs that LangGraph's API does not tell."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Final, Self

from fastapi import APIRouter, Header, Query
from pydantic_core import from_json
from starlette.responses import FileResponse, Response

from runstream import Client, Event, RunInfo, RunNotFound, WorkerInfo
from runstream.request import RunRequest
from runstream.text import text_of_message
from runstream_gateway.errors import not_found
from runstream_gateway.frames import Frame, frame
from runstream_gateway.ids import check_uuid, iso
from runstream_gateway.jsonbytes import dumps
from runstream_gateway.marks import Marks, shown_metadata
from runstream_gateway.reader import Beginning
from runstream_gateway.routes.common import Access, Accessing, Json
from runstream_gateway.routes.stateless import find
from runstream_gateway.shapes import REFUSALS
from runstream_gateway.streaming import FrameResponse
from runstream_gateway.told_errors import error_of

router = APIRouter(tags=["console"], include_in_schema=False, responses=REFUSALS)

_PAGE: Final = Path(__file__).parents[1] / "console"
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# What a run says is not to be trusted: no script but the page's own files, and no text that becomes markup.
_POLICY: Final = "; ".join([
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
])  # fmt: skip
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
_LONGEST_TITLE: Final = 200
# A page of titles must not read a page of inputs of any size.
_LARGE_REQUEST: Final = 256 * 1024
_LARGE_TITLE: Final = "(a large input)"
# Each takes a connection of those that all requests share.
_TITLES_AT_ONCE: Final = 8


@router.get("/")
async def page(accept: Annotated[str, Header()] = "") -> Response:
    """The page for a browser, `{"ok": true}` for any other client, as LangGraph's own server has it."""
    if _quality(accept, "text/html") > _quality(accept, "application/json"):
        headers = {**_HEADERS, "vary": "accept"}
        return FileResponse(_PAGE / "index.html", media_type="text/html; charset=utf-8", headers=headers)
    return Json({"ok": True}, headers={"vary": "accept"})


@router.get("/console/static/{name}")
async def static(name: str) -> Response:
    """A file of the page. None of them is a secret: the page asks for a key by itself."""
    path = _PAGE / name
    # The name is one part of a path, and of a kind that the page is made of: nothing else is there to be found.
    if "\\" in name or path.suffix not in _TYPES or path.parent != _PAGE or not path.is_file():
        raise not_found("file", name)
    return FileResponse(path, media_type=f"{_TYPES[path.suffix]}; charset=utf-8", headers=_HEADERS)


@router.get("/console/runs")
async def runs(access: Accessing, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> Response:
    """The newest runs of all that the caller may see."""
    allowed = await access.to("threads", "search", {})
    async with access.turn():
        found = await access.gateway.runs.newest(limit, allowed)
    return Json([_run_json(access, info) for info in found])


@router.get("/console/titles")
async def titles(access: Accessing, run_id: Annotated[list[str], Query(max_length=100)]) -> Response:
    """What runs were asked, in a line each. It never changes, so that a page asks once."""
    allowed = await access.to("threads", "search", {})
    gateway = access.gateway
    found = await gateway.runs.seen([check_uuid(each, "run_id") for each in run_id], allowed)
    sizes = await gateway.client.request_sizes(info.run_id for info in found)
    told = {info.run_id: _LARGE_TITLE for info, size in zip(found, sizes, strict=True) if size > _LARGE_REQUEST}
    small = [info.run_id for info in found if info.run_id not in told]
    for start in range(0, len(small), _TITLES_AT_ONCE):
        ids = small[start : start + _TITLES_AT_ONCE]
        requests = await asyncio.gather(*(_request(gateway.client, each) for each in ids))
        told |= {each: _title(request) for each, request in zip(ids, requests, strict=True)}
    return Json(told)


@router.get("/console/runs/{run_id}")
async def run(run_id: str, access: Accessing) -> Response:
    """A run, with what it was asked for."""
    info = await find(access, run_id)
    request = await _request(access.gateway.client, info.run_id)
    asked = {} if request is None else request.model_dump(mode="json", include={"input", "command"})
    return Json({**_run_json(access, info), "title": _title(request), **asked})


@router.get("/console/runs/{run_id}/state")
async def state(run_id: str, access: Accessing) -> Response:
    """What the run's thread has saved, also where the thread is none of the API's."""
    info = await find(access, run_id)
    return Json(await access.gateway.states.get(info.graph, info.thread_id))


@router.get("/console/runs/{run_id}/events")
async def events(run_id: str, access: Accessing, last_event_id: Annotated[str | None, Header()] = None) -> Response:
    """All events of a run, with its attempts and what they void; from the start, or from behind an event."""
    info = await find(access, run_id)
    gateway = access.gateway
    beginning = Beginning.of(last_event_id) if last_event_id else Beginning()
    return FrameResponse(
        lambda: _Events(gateway.client, info.run_id, beginning, show_errors=gateway.settings.show_errors),
        access.streams,
        await access.stream_slot(),
        heartbeat=gateway.settings.heartbeat,
    )


@router.get("/console/workers")
async def workers(access: Accessing) -> Response:
    """The live workers, for those who may see everything, since they are nobody's; null for others."""
    allowed = await access.to("threads", "search", {})
    if not allowed.matches({}):
        return Json(None)
    found = await access.gateway.client.workers()
    return Json([_worker_json(worker) for worker in found])


class _Events:
    """A run's events as they are, for one reader; an async context manager."""

    def __init__(self, client: Client, run_id: str, beginning: Beginning, *, show_errors: bool) -> None:
        self._events = client.tail(run_id, after=beginning.after)
        self._show_errors = show_errors

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._events.aclose()

    async def batch(self) -> list[Frame] | None:
        """The next frames; None after the last."""
        found = await self._events.batch()
        return [self._frame(event) for event in found] if found else None

    def _frame(self, event: Event) -> Frame:
        data = event.data
        if event.mode == "end" and "error" in data:
            data = {**data, "error": error_of(data.get("status"), data["error"], show=self._show_errors)}
        told = {"ns": event.ns, "task": event.task, "data": data}
        if event.call is not None:
            told["call"] = event.call
        if event.interrupts:
            told["interrupts"] = event.interrupts
        # A gap has the id of the event that follows: who goes on behind it would miss that one.
        return frame(event.mode, told, None if event.mode == "gap" else event.id)


async def _request(client: Client, run_id: str) -> RunRequest | None:
    try:
        return await client.request(run_id)
    except RunNotFound:
        return None


def _run_json(access: Access, info: RunInfo) -> dict[str, Any]:
    """A run as the console shows it: with its state and its attempts by runstream's own names."""
    error = None if info.error is None else info.error.model_dump()
    return {
        "run_id": info.run_id,
        "thread_id": info.thread_id,
        "stateless": Marks.of(info).stateless,
        "graph": info.graph,
        "status": info.status,
        "attempt": info.attempt,
        "worker": info.worker,
        "holders": [from_json(holder.model_dump_json()) for holder in info.holders],
        "failures": info.failures,
        "max_attempts": info.max_attempts,
        "stream_mode": info.stream_mode,
        "metadata": shown_metadata(info.metadata),
        "created_at": iso(info.created_at),
        "due_at": iso(info.due_at),
        "started_at": iso(info.started_at),
        "ended_at": iso(info.ended_at),
        "error": error_of(info.status, error, show=access.gateway.settings.show_errors),
        "stop_reason": info.stop_reason,
        "stream_bytes": info.stream_bytes,
    }


def _worker_json(worker: WorkerInfo) -> dict[str, Any]:
    told: dict[str, Any] = from_json(worker.model_dump_json())
    return told


def _title(request: RunRequest | None) -> str:
    """What a run was asked, in a line: the last message of its input, else the input itself."""
    if request is None:
        return ""
    if request.command is not None:
        return "(goes on)"
    given = request.input
    messages = given.get("messages") if isinstance(given, dict) else None
    last = messages[-1] if isinstance(messages, list) and messages else messages
    if isinstance(last, str):
        text = last
    elif isinstance(last, dict) and (said := text_of_message(last)):
        text = said
    else:
        text = "" if given is None else dumps(given)[: 4 * _LONGEST_TITLE].decode("utf-8", "ignore")
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_TITLE else f"{text[:_LONGEST_TITLE]}…"


def _quality(accept: str, media_type: str) -> float:
    """How much a client wants a media type, by its `Accept`; the closest of its ranges counts."""
    kind = media_type.partition("/")[0]
    ranges = {"*/*": 0, f"{kind}/*": 1, media_type: 2}
    best, quality = -1, 0.0
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if ranges.get(name, -1) > best:
            best, quality = ranges[name], _q(parameters)
    return quality


def _q(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
