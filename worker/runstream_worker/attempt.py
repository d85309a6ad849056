"""One attempt of one run, from the claim to the end. A newcomer reads this file first.

claimed -> request -> graph -> start -> chunks -> publisher, watched by the guard -> outcome -> finish, or give back
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

import orjson
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import EmptyInputError, GraphDrained
from langgraph.pregel import Pregel
from langgraph.runtime import RunControl
from pydantic import ValidationError
from redis.exceptions import RedisError

from runstream.errors import ProtocolError, RunstreamError
from runstream.faults import is_passing, patiently
from runstream.model import ErrorInfo, Status
from runstream.request import RunRequest
from runstream.scripts import Claimed, Hold, Scripts
from runstream.tasks import cancel
from runstream_worker.arguments import needs_pending, to_command
from runstream_worker.breakpoints import state_at_breakpoint
from runstream_worker.chunks import Chunk, chunks
from runstream_worker.completion import missing_messages
from runstream_worker.graphs import GraphSource, graph_with
from runstream_worker.guard import Cause, Guard
from runstream_worker.infrastructure import Unavailable, is_infrastructure
from runstream_worker.origins import Origins, Placed
from runstream_worker.outbox import Outbox, Publisher
from runstream_worker.outcome import FinalState, GivenBack, NothingToGoOnFrom, Outcome, broken_off, failed
from runstream_worker.past import Past
from runstream_worker.redis_saver import Fence
from runstream_worker.resume import Start, first_start, is_there, next_start, start_over
from runstream_worker.run_saver import RunSaver, Taken, forget_runs
from runstream_worker.settings import WorkerSettings

_WRITE_RETRY = 0.1
_CANCEL_AGAIN_AFTER = 0.5
"""Long enough for a node that cleans up when it is cancelled, in seconds."""
_FAULT_DELAY_MAX = 30.0
_ROLLBACK_WITHIN = 30.0
_DISOWN_WITHIN = 5.0
_SHOWN_AS_STATE = frozenset(("checkpoints", "debug"))

Graph: TypeAlias = Pregel[Any, Any, Any, Any]
Saver: TypeAlias = BaseCheckpointSaver[Any]
_T = TypeVar("_T")

_logger = logging.getLogger("runstream.worker")


@dataclass(frozen=True)
class Means:
    """What a process has to execute attempts with."""

    worker_id: str
    graphs: Mapping[str, GraphSource]
    checkpointer: Saver | None
    scripts: Scripts
    outbox: Outbox
    settings: WorkerSettings


class Attempt:
    """One attempt: `run` executes it, `guard` ends it, `drain` has it stop where the next one can go on."""

    def __init__(self, claimed: Claimed, means: Means) -> None:
        self.run_id = claimed.run_id
        self.number = claimed.attempt
        self.guard = Guard()
        self._claimed = claimed
        self._means = means
        self._hold = Hold(claimed.run_id, claimed.attempt, means.worker_id)
        self._control = RunControl()
        self._taken = Taken()
        self._saver: Saver | None = None
        self._is_draining = False
        self._is_first = not claimed.after
        self._publisher = Publisher(
            means.outbox,
            self._hold,
            self.guard,
            first_seq=1 if self._is_first else 0,
            limit=means.settings.buffer_events,
            limit_bytes=means.settings.buffer_bytes,
        )

    async def run(self) -> Outcome | GivenBack | None:
        """Execute the attempt and write its end, or give the run back; None when the run was lost to another holder."""
        try:
            request = self._request()
        except ProtocolError as error:
            _logger.warning("run %s cannot be read: %s", self.run_id, error)
            return await self._leave(failed(error), None)
        ended = await self._leave(await self._supervise(request), request)
        if ended is None:
            await self._disown()
        return ended

    async def _disown(self) -> None:
        """Make sure that Redis knows of this attempt, which is over, also if it has come back without its claim."""
        try:
            forgotten = await patiently(
                lambda: self._means.scripts.disown(self._hold), _DISOWN_WITHIN, outlasts=is_passing
            )
        except (RedisError, OSError) as error:
            _logger.warning("run %s: cannot take down that attempt %d is over: %s", self.run_id, self.number, error)
        else:
            if forgotten:
                _logger.warning("run %s: Redis has lost what it knew of attempt %d", self.run_id, self.number)

    def drain(self) -> None:
        """Stop at the end of the step that runs, if the graph keeps checkpoints."""
        self._is_draining = True
        if self._saver is not None:
            self._control.request_drain()

    def _request(self) -> RunRequest:
        try:
            return RunRequest.model_validate_json(self._claimed.request)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "request"
            raise ProtocolError(
                f"the request was written by another version of runstream: {place}: {first['msg']}"
            ) from None

    async def _supervise(self, request: RunRequest) -> Outcome | GivenBack | None:
        """Run the graph until it ends or the guard says so; a graph that ignores its cancellation is left behind."""
        if self.guard.has_ended:
            return broken_off(self.guard)
        with Fence.of(self._hold).around():
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
            return self._broken_off(request)
        # A graph that came to its end in the same moment has done so; one that raised did it for being broken off.
        came_to_end = not work.cancelled() and work.exception() is None
        return self._outcome_of(work) if came_to_end or self.guard.cause is None else self._broken_off(request)

    def _broken_off(self, request: RunRequest) -> Outcome | GivenBack | None:
        outcome = broken_off(self.guard)
        if isinstance(outcome, GivenBack) and self._saver is None and not self._may_start_over(request):
            return Outcome(Status.LOST, ErrorInfo(type="WorkerShutdown", message=self.guard.detail))
        return outcome

    async def _cancel(self, work: asyncio.Task[Outcome]) -> None:
        self._taken.close()
        try:
            async with asyncio.timeout(self._means.settings.cancel_grace):
                await cancel([work], again_after=_CANCEL_AGAIN_AFTER)
        except TimeoutError:
            _logger.warning("run %s: the graph does not react to its cancellation and is left behind", self.run_id)
        self._publisher.seal()
        work.add_done_callback(_look_at)

    def _outcome_of(self, work: asyncio.Task[Outcome]) -> Outcome | GivenBack | None:
        if work.cancelled():
            return failed(asyncio.CancelledError("a node of the graph cancelled its own task"))
        error = work.exception()
        if error is None:
            return work.result()
        if isinstance(error, Unavailable):
            _logger.warning("run %s is given back: %s", self.run_id, error)
        elif not isinstance(error, RunstreamError | EmptyInputError | GraphDrained):
            _logger.warning("run %s: the graph raised", self.run_id, exc_info=error)
        return failed(error)

    # --- executing -------------------------------------------------------------------------------------------------

    async def _execute(self, request: RunRequest) -> Outcome:
        """Stream the graph into the publisher."""
        source = self._means.graphs.get(request.graph)
        if source is None:
            raise ProtocolError(f"this worker has no graph {request.graph!r}; it has {', '.join(self._means.graphs)}")
        final = FinalState()
        config = self._config(request, [final, _SlowDown(self._publisher)])
        keep_own = self._means.settings.checkpointer_url is None
        async with source.open(config, self._means.checkpointer, keep_own=keep_own) as opened:
            graph, saver = self._with_saver(opened, request)
            start = await self._start(request)
            if start.goes_on:
                config["configurable"].pop("checkpoint_id", None)
            if saver is not None:
                saver.forget_command = start.gives_again
            given = None if start.goes_on else await _input(graph, request, config)
            stops_at = None
            if start.goes_on and self._saver is not None:
                stops_at = await state_at_breakpoint(graph, self._saver, request, config)
            if stops_at is not None:
                # The graph says where it stands, and executes nothing.
                self._control.request_drain()
            stream = chunks(
                graph,
                given,
                config,
                modes=_modes(request, has_saver=saver is not None),
                version=request.version,
                subgraphs=request.subgraphs,
                control=self._control,
                **_options(request, has_saver=saver is not None),
            )
            try:
                async with aclosing(stream) as emitted:
                    await self._publish(emitted, request, start, final)
            except GraphDrained:
                if stops_at is None:
                    raise
            if stops_at is not None:
                await self._publish(_at_breakpoint(), request, start, final)
                final.take(stops_at.values)
            return final.outcome(graph, request.output_keys)

    def _config(self, request: RunRequest, callbacks: list[AsyncCallbackHandler]) -> RunnableConfig:
        configurable = {**request.config.get("configurable", {}), "thread_id": request.thread_id}
        # As LangGraph's own server has it; it tells whose a checkpoint is.
        metadata = {**request.config.get("metadata", {}), "run_id": self.run_id}
        more = {"configurable": configurable, "metadata": metadata, "callbacks": callbacks}
        return cast("RunnableConfig", {**request.config, **more})

    def _with_saver(self, graph: Graph, request: RunRequest) -> tuple[Graph, RunSaver | None]:
        """The graph with a checkpointer that belongs to this attempt, if it has any."""
        if not isinstance(graph.checkpointer, BaseCheckpointSaver):
            return graph, None
        self._saver = graph.checkpointer
        if self._is_draining:
            self._control.request_drain()
        saver = RunSaver(self._saver, self._hold, self._publisher, self._taken, self._means.scripts)
        # Eager: what a task has emitted is handed out when it ends, not when its step does.
        changes: dict[str, object] = {"checkpointer": saver, "stream_eager": True}
        if _SHOWN_AS_STATE.isdisjoint(request.stream_mode):
            # With v2 these show the state in its class, which has required fields that may be written later only.
            changes["_state_mapper"] = None
        return graph_with(graph, **changes), saver

    async def _start(self, request: RunRequest) -> Start:
        """Find out how to begin; from the second attempt on, publish it.

        Raises:
            Unavailable: the stream or the saved state cannot be read.
            NothingToGoOnFrom: the graph keeps no checkpoints, and the run may not start over.
        """
        try:
            return await self._found_start(request)
        except Exception as error:
            if is_infrastructure(error):
                raise Unavailable.because_of("cannot find out how to go on", error) from error
            raise

    async def _found_start(self, request: RunRequest) -> Start:
        if self._claimed.undo and self._saver is not None:
            await forget_runs(self._saver, request.thread_id, self._claimed.undo)
            await self._for_sure(lambda: self._means.scripts.undone(request.thread_id, self._claimed.undo))
        if self._is_first:
            start = await first_start(self._saver, request, self.run_id)
            if start.has_outlived:
                await self._complete(self._saver, request, start)
            return start
        past = Past.of(await self._for_sure(lambda: self._means.scripts.events(self.run_id)))
        if self._saver is not None:
            start = await next_start(self._saver, request, self.run_id, past)
        elif self._may_start_over(request):
            start = start_over(past)
        else:
            raise NothingToGoOnFrom(request.graph)
        await self._publisher.put_bytes(self._attempt_event(start), "attempt")
        await self._complete(self._saver, request, start)
        return start

    async def _complete(self, saver: Saver | None, request: RunRequest, start: Start) -> None:
        """Publish what the stream lacks of the messages that have been saved."""
        if saver is not None and "messages" in request.stream_mode:
            async for placed in missing_messages(saver, request.thread_id, self.run_id, start.past, start.told):
                await self._publisher.put(placed)

    async def _for_sure(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Make a call to the runs' own Redis, for which events wait as well, however long it is away."""
        return await patiently(call, None, outlasts=is_passing)

    def _may_start_over(self, request: RunRequest) -> bool:
        return request.restartable or request.graph in self._means.settings.restartable

    def _attempt_event(self, start: Start) -> bytes:
        data = {
            "attempt": self.number,
            "worker": self._means.worker_id,
            "at": time.time_ns() // 1_000_000,
            "after": self._claimed.after,
            "left": self._claimed.left,
            "checkpoint": start.checkpoint,
            "voids": start.voids,
        }
        return orjson.dumps({"m": "attempt", "d": data})

    async def _publish(
        self, emitted: AsyncIterator[Chunk], request: RunRequest, start: Start, final: FinalState
    ) -> None:
        """Publish what was asked for, and is not in the stream already."""
        wanted, marks = frozenset(request.stream_mode), start.marks()
        tells_ns = request.subgraphs or request.version == "v2"
        origins = Origins(start.finished, tells_ns=tells_ns) if self._saver is not None else None

        async def put(placed: Placed) -> None:
            if placed.chunk.mode in wanted and not is_there(placed, marks):
                await self._publisher.put(placed)

        try:
            async for chunk in emitted:
                self._taken.begin()
                final.see(chunk)
                for placed in origins.place(chunk) if origins is not None else (Placed(chunk),):
                    await put(placed)
                self._taken.end(_result_of(chunk))
        finally:
            # What waits for a chunk that was refused would keep the graph from being closed.
            self._taken.close()
        for placed in origins.rest() if origins is not None else ():
            await put(placed)

    # --- ending ----------------------------------------------------------------------------------------------------

    async def _leave(
        self, outcome: Outcome | GivenBack | None, request: RunRequest | None
    ) -> Outcome | GivenBack | None:
        """Write the end or give the run back, however often it takes; None when the run is not this attempt's."""
        await self._publisher.flush()
        if self.guard.cause in (Cause.LOST, Cause.FULL, Cause.REFUSED):
            # Learned from the replies to the last events; what was not published cannot have been a success.
            outcome = broken_off(self.guard)
        match outcome:
            case Outcome():
                if self.guard.cause is Cause.ROLLBACK and self._saver is not None and request is not None:
                    await self._roll_back(self._saver, request.thread_id)
                return await self._finish(outcome)
            case GivenBack():
                return await self._give_back(outcome)
            case None:
                return None

    async def _roll_back(self, saver: Saver, thread_id: str) -> None:
        try:
            async with asyncio.timeout(_ROLLBACK_WITHIN):
                await forget_runs(saver, thread_id, [self.run_id])
        except Exception:
            # The run ends all the same, and the thread keeps what it has saved.
            _logger.exception("run %s was to be rolled back, and its checkpoints cannot be removed", self.run_id)

    async def _finish(self, outcome: Outcome) -> Outcome | None:
        outcome = _of_bounded_size(outcome, self._means.settings.max_stream_bytes)
        record, event = _record(outcome), self._end_event(outcome)
        while self.guard.cause is not Cause.LOST:
            try:
                reply = await self._means.scripts.finish(
                    self._hold,
                    end_seq=self._publisher.next_seq,
                    event=event,
                    status=outcome.status,
                    record=record,
                    leave_gap=self._publisher.leaves_gap,
                )
            except (RedisError, OSError) as error:
                await self._wait_for_redis(error)
                continue
            if reply.outcome != "behind":
                self._publisher.close()
                return outcome if reply.outcome == "ok" else None
            # Redis has come back with less than it had acknowledged.
            self._publisher.go_back(reply.last_seq)
            await self._publisher.flush()
        return None

    async def _give_back(self, given: GivenBack) -> GivenBack | None:
        self._publisher.close()
        delay = min(2.0 ** (self.number - 1), _FAULT_DELAY_MAX) if given.cause == "fault" else 0.0
        while self.guard.cause is not Cause.LOST:
            try:
                reply = await self._means.scripts.release(
                    self._hold, given.cause, given.message, delay=round(delay * 1000)
                )
            except (RedisError, OSError) as error:
                await self._wait_for_redis(error)
            else:
                return given if reply != "not held" else None
        return None

    async def _wait_for_redis(self, error: Exception) -> None:
        if not is_passing(error):
            raise error
        _logger.warning("run %s: cannot write its end, trying again: %s", self.run_id, error)
        await asyncio.sleep(_WRITE_RETRY)

    def _end_event(self, outcome: Outcome) -> bytes:
        data: dict[str, Any] = {"status": outcome.status, "at": time.time_ns() // 1_000_000}
        if outcome.error is not None:
            data["error"] = outcome.error.model_dump()
        if outcome.reason is not None:
            data["reason"] = outcome.reason
        if self._publisher.next_seq == 0:
            data["after"] = self._claimed.after
        return orjson.dumps({"m": "end", "d": data})


class _SlowDown(AsyncCallbackHandler):
    """Holds a model back while too many events wait: LangGraph's own queue between model and reader has no bound.

    Only one that is called with `ainvoke` or `astream` is held back. For the others LangChain calls back in another
    event loop, and the worker's own may be blocked by the very call; to wait there for the worker would be to wait for
    ever.

    LangChain looks at `ignore_llm` before it calls a handler, token by token. As long as there is room that look is
    all that happens: a call would add a twentieth to what a token takes.
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


def _modes(request: RunRequest, *, has_saver: bool) -> list[Any]:
    """Those that were asked for, and those that are needed though nobody sees them: interrupts are in `updates`."""
    needed = ("updates", "tasks", "checkpoints") if has_saver else ("updates",)
    return list(dict.fromkeys([*request.stream_mode, *needed]))


async def _at_breakpoint() -> AsyncIterator[Chunk]:
    """What LangGraph emits where it was told to stop."""
    yield Chunk("updates", (), {"__interrupt__": ()})


def _result_of(chunk: Chunk) -> str | None:
    """The task whose result a chunk is."""
    if chunk.mode != "tasks":
        return None
    payload = cast("Mapping[str, Any]", chunk.data)
    return payload["id"] if "result" in payload else None


async def _input(graph: Graph, request: RunRequest, config: RunnableConfig) -> object:
    """What `astream` is given: the input, the command, or nothing."""
    if request.command is None:
        return request.input
    interrupts = (await graph.aget_state(config)).interrupts if needs_pending(request.command) else ()
    return to_command(request.command, pending=[interrupt.id for interrupt in interrupts])


def _options(request: RunRequest, *, has_saver: bool) -> dict[str, Any]:
    """The parameters of `astream` that are passed on as they are, where they were given."""
    options = {
        "context": request.context,
        "print_mode": request.print_mode or None,
        "output_keys": request.output_keys,
        "interrupt_before": request.interrupt_before,
        "interrupt_after": request.interrupt_after,
        "durability": request.durability if has_saver else None,
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


def _look_at(work: asyncio.Task[Outcome]) -> None:
    """Retrieve what a cancelled graph raised, so that asyncio does not complain that nobody did."""
    if not work.cancelled() and (error := work.exception()) is not None:
        _logger.debug("a cancelled graph raised", exc_info=error)
