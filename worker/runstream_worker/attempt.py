"""One attempt of one run, from the claim to the end. A newcomer reads this file first.

claimed -> request -> graph -> chunks -> publisher, watched by the guard -> outcome -> finish
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import orjson
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import EmptyInputError
from langgraph.pregel import Pregel
from pydantic import ValidationError
from redis.exceptions import RedisError

from runstream.errors import ProtocolError, RunstreamError
from runstream.faults import is_passing
from runstream.model import ErrorInfo, Status
from runstream.request import RunRequest
from runstream.scripts import Claimed, Scripts
from runstream.tasks import cancel
from runstream_worker.arguments import needs_pending, to_command
from runstream_worker.chunks import chunks
from runstream_worker.graphs import GraphSource
from runstream_worker.guard import Cause, Guard
from runstream_worker.outbox import Outbox, Publisher
from runstream_worker.outcome import FinalState, Outcome, broken_off, failed
from runstream_worker.redis_saver import Fence
from runstream_worker.settings import WorkerSettings

_FINISH_RETRY = 0.1
_CANCEL_AGAIN_AFTER = 0.5
"""Long enough for a node that cleans up when it is cancelled, in seconds."""

_logger = logging.getLogger("runstream.worker")


@dataclass(frozen=True)
class Means:
    """What a process has to execute attempts with."""

    graphs: Mapping[str, GraphSource]
    checkpointer: BaseCheckpointSaver[Any] | None
    scripts: Scripts
    outbox: Outbox
    settings: WorkerSettings


class Attempt:
    """One attempt: `run` executes it, `guard` ends it."""

    def __init__(self, claimed: Claimed, means: Means) -> None:
        self.run_id = claimed.run_id
        self.number = claimed.attempt
        self.guard = Guard()
        self._claimed = claimed
        self._means = means
        self._publisher = Publisher(
            means.outbox,
            claimed.run_id,
            claimed.attempt,
            self.guard,
            limit=means.settings.buffer_events,
            limit_bytes=means.settings.buffer_bytes,
        )

    async def run(self) -> Outcome | None:
        """Execute the attempt and write its end; None when the run was lost to another holder."""
        try:
            request = self._request()
        except ProtocolError as error:
            _logger.warning("run %s cannot be read: %s", self.run_id, error)
            return await self._finish(failed(error))
        return await self._finish(await self._supervise(request))

    def _request(self) -> RunRequest:
        try:
            return RunRequest.model_validate_json(self._claimed.request)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "request"
            raise ProtocolError(
                f"the request was written by another version of runstream: {place}: {first['msg']}"
            ) from None

    async def _supervise(self, request: RunRequest) -> Outcome | None:
        """Run the graph until it ends or the guard says so; a graph that ignores its cancellation is left behind."""
        with Fence(self.run_id, self.number).around():
            work = asyncio.create_task(self._execute(request), name=f"run-{self.run_id}")
        ended = asyncio.create_task(self.guard.wait())
        timeout = request.timeout or self._means.settings.run_timeout
        try:
            await asyncio.wait({work, ended}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
        if not work.done() and self.guard.cause is None:
            self.guard.end(Cause.TIMEOUT, f"the attempt took longer than {timeout} s")
        if not work.done():
            await self._cancel(work)
            return broken_off(self.guard)
        # A graph that came to its end in the same moment has done so; one that raised did it for being broken off.
        came_to_end = not work.cancelled() and work.exception() is None
        return self._outcome_of(work) if came_to_end or self.guard.cause is None else broken_off(self.guard)

    async def _cancel(self, work: asyncio.Task[Outcome]) -> None:
        try:
            async with asyncio.timeout(self._means.settings.cancel_grace):
                await cancel([work], again_after=_CANCEL_AGAIN_AFTER)
        except TimeoutError:
            _logger.warning("run %s: the graph does not react to its cancellation and is left behind", self.run_id)
        self._publisher.seal()
        work.add_done_callback(_look_at)

    def _outcome_of(self, work: asyncio.Task[Outcome]) -> Outcome | None:
        if work.cancelled():
            return failed(asyncio.CancelledError("a node of the graph cancelled its own task"))
        error = work.exception()
        if error is None:
            return work.result()
        if not isinstance(error, RunstreamError | EmptyInputError):
            _logger.warning("run %s: the graph raised", self.run_id, exc_info=error)
        return failed(error)

    async def _execute(self, request: RunRequest) -> Outcome:
        """Stream the graph into the publisher."""
        source = self._means.graphs.get(request.graph)
        if source is None:
            raise ProtocolError(f"this worker has no graph {request.graph!r}; it has {', '.join(self._means.graphs)}")
        final = FinalState()
        config = self._config(request, [final, _SlowDown(self._publisher)])
        wanted = frozenset(request.stream_mode)
        async with source.open(config, checkpointer=self._means.checkpointer) as graph:
            stream = chunks(
                graph,
                await _input(graph, request, config),
                config,
                # Interrupts are needed even where nobody asked to see them.
                modes=list(dict.fromkeys([*request.stream_mode, "updates"])),
                version=request.version,
                subgraphs=request.subgraphs,
                **_options(request),
            )
            async with aclosing(stream) as emitted:
                async for chunk in emitted:
                    final.see(chunk)
                    if chunk.mode in wanted:
                        await self._publisher.put(chunk)
            return final.outcome(graph, request.output_keys)

    def _config(self, request: RunRequest, callbacks: list[AsyncCallbackHandler]) -> RunnableConfig:
        configurable = {**request.config.get("configurable", {}), "thread_id": request.thread_id}
        return cast("RunnableConfig", {**request.config, "configurable": configurable, "callbacks": callbacks})

    async def _finish(self, outcome: Outcome | None) -> Outcome | None:
        """Write the end, once, however often it takes; None when the run is not this attempt's any more."""
        await self._publisher.flush()
        if self.guard.cause in (Cause.LOST, Cause.FULL, Cause.REFUSED):
            # Learned from the replies to the last events; what was not published cannot have been a success.
            outcome = broken_off(self.guard)
        if outcome is None:
            return None
        outcome = _of_bounded_size(outcome, self._means.settings.max_stream_bytes)
        end_seq = self._publisher.next_seq
        self._publisher.close()
        record, event = _record(outcome), _end_event(outcome)
        while self.guard.cause is not Cause.LOST:
            try:
                held = await self._means.scripts.finish(
                    self.run_id, self.number, end_seq=end_seq, event=event, status=outcome.status, record=record
                )
            except (RedisError, OSError) as error:
                if not is_passing(error):
                    raise
                _logger.warning("run %s: cannot write its end, trying again: %s", self.run_id, error)
                await asyncio.sleep(_FINISH_RETRY)
            else:
                return outcome if held else None
        return None


class _SlowDown(AsyncCallbackHandler):
    """Holds a model back while too many events wait: LangGraph's own queue between model and reader has no bound.

    Only one that is called with `ainvoke` or `astream` is held back. For the others LangChain calls back in another
    event loop, and the worker's own may be blocked by the very call; to wait there for the worker would be to wait for
    ever.

    LangChain looks at `ignore_llm` before it calls a handler, token by token. As long as there is room that look is all
    that happens: a call would add a twentieth to what a token takes.
    """

    run_inline = True
    ignore_chain = ignore_chat_model = ignore_agent = ignore_retriever = ignore_retry = ignore_custom_event = True

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._loop = asyncio.get_running_loop()

    @property
    def ignore_llm(self) -> bool:
        """Whether there is room, and nothing to wait for."""
        return self._publisher.has_room

    async def on_llm_new_token(self, token: object, **kwargs: Any) -> None:  # noqa: ARG002 - as langchain calls it
        """Wait for room."""
        if asyncio.get_running_loop() is self._loop:
            await self._publisher.room()


async def _input(graph: Pregel[Any, Any, Any, Any], request: RunRequest, config: RunnableConfig) -> object:
    """What `astream` is given: the input, the command, or nothing."""
    if request.command is None:
        return request.input
    interrupts = (await graph.aget_state(config)).interrupts if needs_pending(request.command) else ()
    return to_command(request.command, pending=[interrupt.id for interrupt in interrupts])


def _options(request: RunRequest) -> dict[str, Any]:
    """The parameters of `astream` that are passed on as they are, where they were given."""
    options = {
        "context": request.context,
        "print_mode": request.print_mode or None,
        "output_keys": request.output_keys,
        "interrupt_before": request.interrupt_before,
        "interrupt_after": request.interrupt_after,
        "durability": request.durability,
        "debug": request.debug,
    }
    return {name: value for name, value in options.items() if value is not None}


def _of_bounded_size(outcome: Outcome, limit: int) -> Outcome:
    """The outcome, or the error that its result is too large; over 512 MB Redis would cut the connection."""
    size = len(outcome.result or b"")
    if size <= limit:
        return outcome
    message = f"the final values are {size:,} bytes of JSON and the worker allows {limit:,} (max_stream_bytes)"
    return Outcome(Status.ERROR, ErrorInfo(type="ResultTooLarge", message=message))


def _record(outcome: Outcome) -> dict[str, str | bytes]:
    record: dict[str, str | bytes] = {}
    if outcome.error is not None:
        record["error"] = outcome.error.model_dump_json()
    if outcome.reason is not None:
        record["stop"] = outcome.reason
    if outcome.result is not None:
        record["result"] = outcome.result
    return record


def _end_event(outcome: Outcome) -> bytes:
    data: dict[str, Any] = {"status": outcome.status, "at": time.time_ns() // 1_000_000}
    if outcome.error is not None:
        data["error"] = outcome.error.model_dump()
    if outcome.reason is not None:
        data["reason"] = outcome.reason
    return orjson.dumps({"m": "end", "d": data})


def _look_at(work: asyncio.Task[Outcome]) -> None:
    """Retrieve what a cancelled graph raised, so that asyncio does not complain that nobody did."""
    if not work.cancelled() and (error := work.exception()) is not None:
        _logger.debug("a cancelled graph raised", exc_info=error)
