"""What all ways of creating a run share: who asks, for which assistant, on which thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from redis.exceptions import RedisError

from runstream import Document, Run, RunstreamError
from runstream.request import PreparedRun
from runstream.usage import Kind
from runstream_gateway.access import Allowed
from runstream_gateway.assistants import Assistant
from runstream_gateway.bodies import RunCreate, StatelessRunCreate
from runstream_gateway.errors import ApiError, not_found
from runstream_gateway.ids import check_uuid, new_id
from runstream_gateway.jsonbytes import dumps
from runstream_gateway.routes.common import Access
from runstream_gateway.runs import new_run_json
from runstream_gateway.submit import Submission, named_checkpoint, run_spec
from runstream_gateway.webhooks.sharing import owner_key
from runstream_worker.start_checks import named_checkpoints

_TOLD_WITHIN = 3600.0
_THREAD_TOLD_WITHIN = 2.0
_BATCH_SIZE = 2
"""How many of the largest bodies the runs of a batch may come to."""
_NOT_FOUND = "Thread or assistant not found."

_logger = logging.getLogger("runstream.gateway")


@dataclass(frozen=True)
class Created:
    """A run that has been enqueued.

    Attributes:
        run: it.
        prepared: what was enqueued.
    """

    run: Run
    prepared: PreparedRun

    def to_json(self) -> dict[str, Any]:
        """The run as the API shows it."""
        return new_run_json(self.run, self.prepared)

    @property
    def path(self) -> str:
        """Where it is found, from the base URL."""
        return f"/threads/{self.run.thread_id}/runs/{self.run.run_id}"


@dataclass(frozen=True)
class _Plan:
    """A run that has been found right, and of which nothing has been written.

    Attributes:
        submission: what makes it up; the thread's version is 0 where it has yet to be created.
        allowed: which threads the caller may run on.
        prepared: what is enqueued.
    """

    submission: Submission
    allowed: Allowed
    prepared: PreparedRun


async def create_on_thread(access: Access, thread_id: str, body: RunCreate, request: Request) -> Created:
    """Enqueue a run on a thread.

    Raises:
        ApiError: 404, there is no such thread or assistant; 400, 403, 409, 422.
    """
    thread_id = check_uuid(thread_id, "thread_id")
    run_id = new_id()
    allowed, metadata = await _authorized(access, run_id, thread_id, body)
    await access.gateway.courier.check(body.webhook, owner=owner_key(access.caller.identity))
    assistant = await _assistant(access, body.assistant_id)
    thread = await _thread(access, thread_id, body, metadata, allowed)
    if named := named_checkpoint(body):
        await access.gateway.states.check_checkpoints(assistant.graph_id, thread_id, named)
    fields = await _context_fields(access, assistant, body)
    headers = access.gateway.settings.headers.admitted(request.headers)
    submission = Submission(run_id, body, assistant, thread, metadata, headers, access.configurable, fields)
    plan = await _planned(access, submission, allowed)
    if body.multitask_strategy == "rollback":
        return await _rolling_back(access, plan)
    return (await _enqueued(access, [plan]))[0]


async def _rolling_back(access: Access, plan: _Plan) -> Created:
    """Enqueue a run in the place of those that are on its thread, of which nothing is to be left.

    Those that end by themselves before the enqueue stay: each is looked at when it has ended.
    """
    runs = access.gateway.client.thread_runs(plan.prepared.request.thread_id)
    rolled_back = [info.run_id async for info in runs if not info.status.ended]
    created = await _enqueued(access, [plan])
    access.gateway.runs.forget_later(rolled_back)
    return created[0]


async def create_many(access: Access, bodies: Sequence[StatelessRunCreate], request: Request) -> list[Created]:
    """Enqueue runs that are given no thread, in their order; all of them, or none where one of them is refused.

    Raises:
        ApiError: as of one; 429.
    """
    checked: set[str] = set()
    plans: list[_Plan] = []
    left = most = _BATCH_SIZE * access.gateway.settings.max_body_bytes
    for body in bodies:
        plans.append(await _stateless(access, body, request, checked))
        left -= len(plans[-1].prepared.request_json)
        if left < 0:
            raise ApiError(
                422,
                f"batch: with what their assistants add, the first {len(plans)} runs have more than {most:,} bytes; "
                "send fewer at once",
            )
        await asyncio.sleep(0)  # a batch is prepared run by run, between other requests
    return await _enqueued(access, plans)


async def create_stateless(access: Access, body: StatelessRunCreate, request: Request) -> Created:
    """Enqueue a run that is given no thread. One that is to be kept gets one, and others a place that goes with them.

    Raises:
        ApiError: 404, there is no such assistant; 400, 403, 422.
    """
    return (await _enqueued(access, [await _stateless(access, body, request)]))[0]


async def _stateless(
    access: Access, body: StatelessRunCreate, request: Request, checked: set[str] | None = None
) -> _Plan:
    """What is to be enqueued; `checked` are the webhooks' hosts that need not be looked at again."""
    if body.command is not None and body.command.resume is not None:
        raise ApiError(400, "command.resume: a stateless run has nothing to go on from; resume on its thread")
    if named := named_checkpoint(body):
        given = next(iter(named_checkpoints(named).values()))
        raise ApiError(422, f"checkpoint: {given!r} is on no thread of a stateless run; go on from it on its thread")
    run_id = new_id()
    allowed, metadata = await _authorized(access, run_id, None, body)
    await access.gateway.courier.check(body.webhook, checked, owner=owner_key(access.caller.identity))
    assistant = await _assistant(access, body.assistant_id)
    thread = _new_thread(new_id(), metadata) if body.on_completion == "keep" else None
    fields = await _context_fields(access, assistant, body)
    headers = access.gateway.settings.headers.admitted(request.headers)
    submission = Submission(run_id, body, assistant, thread, metadata, headers, access.configurable, fields)
    return await _planned(access, submission, allowed)


async def _context_fields(access: Access, assistant: Assistant, body: StatelessRunCreate) -> Collection[str] | None:
    """What of a configuration the graph takes as its context; it is asked only where there is one."""
    is_configured = assistant.context or body.context or (body.config or {}).get("configurable")
    return await access.gateway.assistants.context_fields(assistant) if is_configured else None


async def _planned(access: Access, submission: Submission, allowed: Allowed) -> _Plan:
    gateway = access.gateway
    keeps_short = submission.thread is None and not submission.body.after_seconds
    retention = gateway.settings.stateless_retention if keeps_short else None
    if retention is not None and submission.body.webhook is not None:
        # A gateway that comes back has to find what it is to tell.
        retention = max(retention, _TOLD_WITHIN)
    prepared = await access.compute(lambda: gateway.client.prepare(run_spec(submission, retention=retention)))
    return _Plan(submission, allowed, prepared)


async def _enqueued(access: Access, plans: Sequence[_Plan]) -> list[Created]:
    """Write what was planned. Whatever could be refused for what it says has been, and so has what is too much."""
    gateway = access.gateway
    gateway.streams.check_open()
    run_ids = [plan.submission.run_id for plan in plans]
    kept = [item for plan in plans for item in _kept(plan)]
    async with (
        gateway.limiter.runs(access.caller, run_ids),
        gateway.storage.adding(access.caller, *kept),
        AsyncExitStack() as expected,
    ):
        threads = [await _existing_thread(access, plan) for plan in plans]
        for plan in plans:
            expecting = gateway.courier.expecting(
                plan.submission.run_id, plan.submission.body.webhook, owner=owner_key(access.caller.identity)
            )
            await expected.enter_async_context(expecting)
        runs = await gateway.client.enqueue_prepared([plan.prepared for plan in plans])
    for plan, thread in zip(plans, threads, strict=True):
        if thread is not None:
            await _tell_thread(access, plan, thread)
    return [Created(run, plan.prepared) for run, plan in zip(runs, plans, strict=True)]


def _kept(plan: _Plan) -> Iterator[tuple[Kind, str, int]]:
    """What a run adds to what the caller keeps: its record, its thread where that is new, its webhook."""
    submission, prepared = plan.submission, plan.prepared
    yield "run", submission.run_id, len(prepared.request_json) + len(prepared.metadata_json)
    if (thread := submission.thread) is not None:
        yield "thread", thread.id, 0 if thread.version > 0 else len(dumps(thread.data))
    if (webhook := submission.body.webhook) is not None:
        yield "webhook", submission.run_id, len(webhook)


async def _existing_thread(access: Access, plan: _Plan) -> Document | None:
    """Create the thread of a run if it is not there; gives it where it was there before."""
    thread = plan.submission.thread
    if thread is None or thread.version > 0:
        return thread
    metadata = {**thread.data["metadata"], **_about(plan)}
    created = await access.gateway.threads.create(thread.id, metadata, plan.allowed, if_exists="do_nothing")
    return None if created.version == 1 and created.data["metadata"] == metadata else created


async def _tell_thread(access: Access, plan: _Plan, thread: Document) -> None:
    """Have a thread know that there is one more run on it, and of which graph: its state is read as that graph's.

    The first run says it, and a later one of another graph says otherwise, as on LangGraph's server. It is written
    behind the enqueue, since a run that is refused changes nothing; so the run is there, and no failure is answered.
    """
    about = _about(plan)
    news = {} if thread.data["metadata"].get("graph_id") == about["graph_id"] else about
    try:
        async with asyncio.timeout(_THREAD_TOLD_WITHIN):
            await access.gateway.threads.change(thread.id, plan.allowed, news, known=thread)
    except (RedisError, RunstreamError, ApiError, OSError) as error:
        run_id = plan.submission.run_id
        _logger.warning("run %s was enqueued, and its thread %s was not told: %r", run_id, thread.id, error)


def _about(plan: _Plan) -> dict[str, str]:
    """What a run tells of its thread."""
    assistant = plan.submission.assistant
    return {"assistant_id": assistant.assistant_id, "graph_id": assistant.graph_id}


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
    known = await access.gateway.assistants.resolve(name_or_id)
    if known.is_system:
        return known
    missing = not_found("assistant", known.assistant_id)
    allowed = await access.to_found("assistants", "read", {"assistant_id": known.assistant_id}, missing=missing)
    if not allowed.matches(known.metadata):
        raise missing
    return known


async def _thread(
    access: Access, thread_id: str, body: RunCreate, metadata: dict[str, Any], allowed: Allowed
) -> Document:
    """The thread to run on; one of version 0 where it has yet to be created."""
    try:
        return await access.gateway.threads.get(thread_id, allowed)
    except ApiError:
        if body.if_not_exists == "create":
            return _new_thread(thread_id, metadata)
        raise ApiError(404, _NOT_FOUND) from None


def _new_thread(thread_id: str, metadata: dict[str, Any]) -> Document:
    return Document(thread_id, 0, {"metadata": metadata})
