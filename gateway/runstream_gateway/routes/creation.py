"""What all ways of creating a run share: who asks, for which assistant, on which thread."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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

_TOLD_WITHIN = 3600.0
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
    await access.gateway.courier.check(body.webhook)
    assistant = await _assistant(access, body.assistant_id)
    # Whoever has too many runs gets no thread, either.
    async with access.gateway.limiter.runs(access.caller, [run_id]):
        thread = await _thread(access, thread_id, body, metadata, allowed)
        about = {"assistant_id": assistant.assistant_id, "graph_id": assistant.graph_id}
        thread = await access.gateway.threads.change(thread.id, allowed, _first(thread, about), known=thread)
        fields = await _context_fields(access, assistant, body)
        told = _told(access, request)
        submission = Submission(run_id, body, assistant, thread, metadata, told, fields)
        if body.multitask_strategy == "rollback":
            return await _rolling_back(access, thread.id, submission)
        return await _submit(access, submission)


async def _rolling_back(access: Access, thread_id: str, submission: Submission) -> Created:
    """Enqueue a run in the place of those that are on its thread, of which nothing is to be left."""
    runs = access.gateway.client.thread_runs(thread_id)
    rolled_back = [info.run_id async for info in runs if not info.status.ended]
    created = await _submit(access, submission)
    access.gateway.runs.forget_later(rolled_back)
    return created


async def create_many(access: Access, bodies: Sequence[StatelessRunCreate], request: Request) -> list[Created]:
    """Enqueue runs that are given no thread, in their order; none of them where the caller may not have as many.

    Raises:
        ApiError: as of one; 429.
    """
    run_ids = [new_id() for _ in bodies]
    async with access.gateway.limiter.runs(access.caller, run_ids):
        return [
            await create_stateless(access, body, request, run_id=run_id)
            for body, run_id in zip(bodies, run_ids, strict=True)
        ]


async def create_stateless(
    access: Access, body: StatelessRunCreate, request: Request, *, run_id: str | None = None
) -> Created:
    """Enqueue a run that is given no thread. One that is to be kept gets one, and others a place that goes with them.

    Raises:
        ApiError: 404, there is no such assistant; 400, 403, 422.
    """
    if body.command is not None and body.command.resume is not None:
        raise ApiError(400, "command.resume: a stateless run has nothing to go on from; resume on its thread")
    run_id = run_id or new_id()
    allowed, metadata = await _authorized(access, run_id, None, body)
    await access.gateway.courier.check(body.webhook)
    assistant = await _assistant(access, body.assistant_id)
    async with access.gateway.limiter.runs(access.caller, [run_id]):
        thread = None
        if body.on_completion == "keep":
            about = {"assistant_id": assistant.assistant_id, "graph_id": assistant.graph_id}
            thread = await access.gateway.threads.create(None, {**metadata, **about}, allowed)
        fields = await _context_fields(access, assistant, body)
        told = _told(access, request)
        return await _submit(access, Submission(run_id, body, assistant, thread, metadata, told, fields))


async def _context_fields(access: Access, assistant: Assistant, body: StatelessRunCreate) -> Collection[str] | None:
    """What of a configuration the graph takes as its context; it is asked only where there is one."""
    is_configured = assistant.context or body.context or (body.config or {}).get("configurable")
    return await access.gateway.assistants.context_fields(assistant) if is_configured else None


async def _submit(access: Access, submission: Submission) -> Created:
    gateway = access.gateway
    keeps_short = submission.thread is None and not submission.body.after_seconds
    retention = gateway.settings.stateless_retention if keeps_short else None
    if retention is not None and submission.body.webhook is not None:
        # A gateway that comes back has to find what it is to tell.
        retention = max(retention, _TOLD_WITHIN)
    async with gateway.courier.expecting(submission.run_id, submission.body.webhook):
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


async def _assistant(access: Access, name_or_id: str) -> Assistant:
    """The assistant that a run is to be of. The graphs' own are everybody's, without a question."""
    assistants = access.gateway.assistants
    known = await assistants.resolve(name_or_id)
    if known.is_system:
        return known
    allowed = await access.to("assistants", "read", {"assistant_id": known.assistant_id})
    return await assistants.resolve(known.assistant_id, allowed)


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
