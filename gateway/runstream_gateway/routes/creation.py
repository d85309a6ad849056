"""What all ways of creating a run share: who asks, for which assistant, on which thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import Request

from runstream import Document, Run
from runstream_gateway.access import Allowed
from runstream_gateway.assistants import Assistant
from runstream_gateway.bodies import RunCreate, StatelessRunCreate
from runstream_gateway.errors import ApiError
from runstream_gateway.ids import check_uuid, new_id
from runstream_gateway.routes.common import Access
from runstream_gateway.submit import Submission, configurable_headers, submit

_NOT_FOUND = "Thread or assistant not found."


@dataclass(frozen=True)
class Created:
    """A run that has been enqueued.

    Attributes:
        run: it.
        kept: whether its thread is one of the API's.
    """

    run: Run
    kept: bool

    @property
    def path(self) -> str:
        """Where it is found, from the base URL."""
        return f"/threads/{self.run.thread_id}/runs/{self.run.run_id}"

    def headers(self, leaf: str) -> dict[str, str]:
        """What tells a client where to come back to: `leaf` is the last part of that path."""
        return {"location": f"{self.path}/{leaf}", "content-location": self.path}


async def create_on_thread(access: Access, thread_id: str, body: RunCreate, request: Request) -> Created:
    """Enqueue a run on a thread.

    Raises:
        ApiError: 404, there is no such thread or assistant; 400, 403, 409, 422.
    """
    thread_id = check_uuid(thread_id, "thread_id")
    run_id = new_id()
    allowed, metadata = await _authorized(access, run_id, thread_id, body)
    assistant = await access.gateway.assistants.resolve(body.assistant_id, await _assistants(access))
    thread = await _thread(access, thread_id, body, metadata, allowed)
    about = {"assistant_id": assistant.assistant_id, "graph_id": assistant.graph_id}
    thread = await access.gateway.threads.change(thread.id, allowed, metadata=_first(thread, about), config={})
    submission = await _submission(access, run_id, body, assistant, thread, metadata, request)
    if body.multitask_strategy != "rollback":
        return await _submit(access, submission, body)
    rolled_back = [info.run_id async for info in access.gateway.client.thread_runs(thread.id) if not info.status.ended]
    created = await _submit(access, submission, body)
    access.gateway.runs.forget_later(rolled_back)
    return created


async def create_stateless(access: Access, body: StatelessRunCreate, request: Request) -> Created:
    """Enqueue a run that is given no thread. One that is to be kept gets one, and others a place that goes with them.

    Raises:
        ApiError: 404, there is no such assistant; 400, 403, 422.
    """
    if body.command is not None and body.command.resume is not None:
        raise ApiError(400, "command.resume: a stateless run has nothing to go on from; resume on its thread")
    run_id = new_id()
    allowed, metadata = await _authorized(access, run_id, None, body)
    assistant = await access.gateway.assistants.resolve(body.assistant_id, await _assistants(access))
    thread = None
    if body.on_completion == "keep":
        about = {"assistant_id": assistant.assistant_id, "graph_id": assistant.graph_id}
        thread = await access.gateway.threads.create(None, {**metadata, **about}, allowed)
    submission = await _submission(access, run_id, body, assistant, thread, metadata, request)
    return await _submit(access, submission, body)


async def _submission(
    access: Access,
    run_id: str,
    body: StatelessRunCreate,
    assistant: Assistant,
    thread: Document | None,
    metadata: dict[str, Any],
    request: Request,
) -> Submission:
    is_configured = assistant.context or body.context or (body.config or {}).get("configurable")
    fields = await access.gateway.assistants.context_fields(assistant) if is_configured else None
    return Submission(run_id, body, assistant, thread, metadata, _told(access, request), fields)


async def _submit(access: Access, submission: Submission, body: StatelessRunCreate) -> Created:
    gateway = access.gateway
    keeps_short = submission.thread is None and not body.after_seconds
    retention = gateway.settings.stateless_retention if keeps_short else None
    async with gateway.limiter.runs(access.caller, [submission.run_id]):
        run = await submit(gateway.client, submission, retention=retention)
    return Created(run, submission.thread is not None)


async def _authorized(
    access: Access, run_id: str, thread_id: str | None, body: StatelessRunCreate
) -> tuple[Allowed, dict[str, Any]]:
    """Which threads the caller may run on, and the run's metadata, to which the guard may have added."""
    on_thread = body if isinstance(body, RunCreate) else None
    value: dict[str, Any] = {
        "run_id": run_id,
        "thread_id": thread_id,
        "assistant_id": body.assistant_id,
        "status": "pending",
        "metadata": dict(body.metadata or {}),
        "multitask_strategy": None if on_thread is None else on_thread.multitask_strategy,
        "if_not_exists": None if on_thread is None else on_thread.if_not_exists,
        "after_seconds": body.after_seconds,
        "kwargs": body.model_dump(include={"input", "command", "config", "context"}, exclude_none=True),
    }
    allowed = await access.to("threads", "create_run", value)
    return allowed, value["metadata"]


async def _assistants(access: Access) -> Allowed:
    return await access.to("assistants", "read", {})


async def _thread(
    access: Access, thread_id: str, body: RunCreate, metadata: dict[str, Any], allowed: Allowed
) -> Document:
    threads = access.gateway.threads
    if body.if_not_exists == "create":
        return await threads.create(thread_id, metadata, allowed, if_exists="do_nothing")
    try:
        return await threads.get(thread_id, allowed)
    except ApiError:
        raise ApiError(404, _NOT_FOUND) from None


def _first(thread: Document, about: dict[str, str]) -> dict[str, str]:
    """What the first run of a thread tells of it."""
    known = thread.data["metadata"]
    return {} if known.get("graph_id") == about["graph_id"] else about


def _told(access: Access, request: Request) -> dict[str, Any]:
    rules = access.gateway.settings.headers
    return {**configurable_headers(request.headers, rules), **access.configurable}
