"""The graph of one attempt at work: how it is opened, where it begins, and what of it is published.

request -> graph -> start -> chunks -> origins -> publisher -> outcome
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

import orjson
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import GraphDrained
from langgraph.pregel import Pregel
from langgraph.runtime import RunControl

from runstream.errors import ProtocolError
from runstream.faults import is_passing, patiently
from runstream.request import OUTPUT_KEYS, RunRequest
from runstream.scripts import Claimed, Hold, Scripts
from runstream_worker.arguments import needs_pending, to_command
from runstream_worker.auth_user import with_auth_user
from runstream_worker.breakpoints import state_at_breakpoint
from runstream_worker.calls import ModelCalls
from runstream_worker.chunks import EVENTS, Chunk, chunks
from runstream_worker.completion import missing_messages
from runstream_worker.context import fitting_context
from runstream_worker.factories import Access
from runstream_worker.graphs import GraphSource, graph_with
from runstream_worker.held_halves import HeldHalves
from runstream_worker.infrastructure import Unavailable, is_infrastructure
from runstream_worker.origins import Origins, Placed
from runstream_worker.outbox import Outbox, Publisher
from runstream_worker.outcome import FinalState, NothingToGoOnFrom, Outcome
from runstream_worker.past import Past
from runstream_worker.patient_saver import patient
from runstream_worker.persistence import no_store
from runstream_worker.removals import Removals
from runstream_worker.resume import Start, first_start, is_there, next_start, start_over
from runstream_worker.run_saver import RunSaver, Taken, forget_runs
from runstream_worker.settings import WorkerSettings
from runstream_worker.start_checks import check_start

_SHOWN_AS_STATE = frozenset(("checkpoints", "debug"))

Graph: TypeAlias = Pregel[Any, Any, Any, Any]
Saver: TypeAlias = BaseCheckpointSaver[Any]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Means:
    """What a process has to execute attempts with."""

    worker_id: str
    graphs: Mapping[str, GraphSource]
    checkpointer: Saver | None
    scripts: Scripts
    outbox: Outbox
    settings: WorkerSettings


class Execution:
    """Executes one attempt's graph: `run` does it, `drain` has it stop where the next attempt can go on.

    Args:
        request: what is to be executed.
        claimed: the attempt, as it was handed to this worker.
        means: what the process has.
        publisher: takes the attempt's events.

    Attributes:
        is_open: whether the graph has been opened; before that, nothing of it has been executed.
        saver: the checkpointer of the graph; None before it is opened, or where it has none.
    """

    def __init__(self, request: RunRequest, claimed: Claimed, means: Means, publisher: Publisher) -> None:
        self.is_open = False
        self.saver: Saver | None = None
        self._graph: Graph | None = None
        self._request = request
        self._claimed = claimed
        self._means = means
        self._publisher = publisher
        self._hold: Hold = publisher.hold
        self._control = RunControl()
        self._taken = Taken()
        self._final = FinalState()
        self._calls = ModelCalls()
        self._is_draining = False

    async def run(self) -> Outcome:
        """Stream the graph into the publisher.

        Raises:
            ProtocolError: the worker has no such graph, or the stream is of another version.
            Unavailable: what the worker depends on is away.
            NothingToGoOnFrom: the graph keeps no checkpoints, and the run may not start over.
            NoStore: the graph uses a store, and there is none.
            CheckpointNotFound: the request names a checkpoint that is not there.
            InvalidRequest: there is nothing to resume, or a node is not the graph's.
            GraphDrained: `drain` was called, and what was done so far is saved.
        """
        try:
            return await self._run()
        except (AttributeError, ValueError) as error:
            missing = no_store(self._graph, error)
            if missing is None:
                raise
            raise missing from error

    async def _run(self) -> Outcome:
        request = self._request
        source = self._means.graphs.get(request.graph)
        if source is None:
            raise ProtocolError(f"this worker has no graph {request.graph!r}; it has {', '.join(self._means.graphs)}")
        config = self._config([self._final, self._calls, _SlowDown(self._publisher)])
        keep_own = self._means.settings.keeps_own
        access = Access(context=request.context)
        async with source.open(config, self._means.checkpointer, keep_own=keep_own, access=access) as opened:
            graph, saver = self._with_saver(opened)
            start = await self._start()
            if start.goes_on:
                # What came of the checkpoint that the request names has been saved.
                for name in ("checkpoint_id", "checkpoint_ns", "checkpoint_map"):
                    config["configurable"].pop(name, None)
            else:
                await _reading("where it begins", check_start(graph, self.saver, request, config))
            if start.goes_on and not await self._passes_breakpoint(graph, saver, config, start):
                return self._final.outcome(graph, _output_keys(request, graph), self._publisher.json)
            given = None if start.goes_on else await _input(graph, request, config)
            if saver is not None:
                # For the graph's own first read: to make the input may have taken one.
                saver.forget_command = start.gives_again
            await self._stream(graph, given, config, start)
            return self._final.outcome(graph, _output_keys(request, graph), self._publisher.json)

    def drain(self) -> None:
        """Stop at the end of the step that runs, if the graph keeps checkpoints."""
        self._is_draining = True
        if self.saver is not None:
            self._control.request_drain()

    def break_off(self) -> None:
        """Take nothing more from the graph, which is about to be cancelled; what was taken may still be saved."""
        self._taken.close()

    @property
    def may_start_over(self) -> bool:
        """Whether the run may be executed anew where it has nothing to go on from."""
        return self._request.restartable or self._request.graph in self._means.settings.restartable

    # --- opening ---------------------------------------------------------------------------------------------------

    def _config(self, callbacks: list[BaseCallbackHandler]) -> RunnableConfig:
        request = self._request
        configurable = {**with_auth_user(request.config.get("configurable", {})), "thread_id": request.thread_id}
        if configurable.get("checkpoint_map"):
            # Without a namespace, LangGraph would not look for the graph's own checkpoint in the map.
            configurable["checkpoint_ns"] = configurable.get("checkpoint_ns") or ""
        # As LangGraph's own server has it; it tells whose a checkpoint is.
        metadata = {**request.config.get("metadata", {}), "run_id": self._hold.run_id}
        more: dict[str, Any] = {"configurable": configurable, "metadata": metadata, "callbacks": callbacks}
        if EVENTS not in request.stream_mode or not self._claimed.after:
            # Graphs find it as `runtime.execution_info.run_id`. Records of events are told apart by it: there the root
            # of a later attempt has an id of its own, as on LangGraph's server.
            more["run_id"] = uuid.UUID(self._hold.run_id)
        return cast("RunnableConfig", {**request.config, **more})

    def _with_saver(self, graph: Graph) -> tuple[Graph, RunSaver | None]:
        """The graph with a checkpointer that belongs to this attempt, if it has any."""
        self.is_open = True
        self._graph = graph
        if not isinstance(graph.checkpointer, BaseCheckpointSaver):
            return graph, None
        self.saver = patient(graph.checkpointer, self._means.settings.checkpoint_patience)
        if self._is_draining:
            self._control.request_drain()
        thread_id = self._request.thread_id
        saver = RunSaver(self.saver, thread_id, self._publisher, self._taken, self._means.scripts)
        # Eager: what a task has emitted is handed out when it ends, not when its step does.
        changes: dict[str, object] = {"checkpointer": saver, "stream_eager": True}
        if _SHOWN_AS_STATE.isdisjoint(self._request.stream_mode):
            # With v2 these show the state in its class, which has required fields that may be written later only.
            changes["_state_mapper"] = None
        return graph_with(graph, **changes), saver

    # --- beginning -------------------------------------------------------------------------------------------------

    async def _start(self) -> Start:
        """Find out how to begin; from the second attempt on, publish it."""
        return await _reading("how to go on", self._found_start())

    async def _found_start(self) -> Start:
        request, run_id = self._request, self._hold.run_id
        if self._claimed.undo and self.saver is not None:
            await forget_runs(self.saver, request.thread_id, self._claimed.undo)
            await _for_sure(lambda: self._means.scripts.undone(request.thread_id, self._claimed.undo))
        if not self._claimed.after:
            start = await first_start(self.saver, request, run_id)
            if start.has_outlived:
                await self._complete(start)
            return start
        past = Past.of(await _for_sure(lambda: self._means.scripts.events(run_id)))
        if self.saver is not None:
            start = await next_start(self.saver, request, run_id, past)
        elif self.may_start_over:
            start = start_over(past)
        else:
            raise NothingToGoOnFrom(request.graph)
        await self._publisher.put_bytes(self._attempt_event(start), "attempt")
        await self._complete(start)
        return start

    async def _complete(self, start: Start) -> None:
        """Publish what the stream lacks of the messages that have been saved."""
        request, run_id = self._request, self._hold.run_id
        if self.saver is not None and "messages" in request.stream_mode:
            async for placed in missing_messages(self.saver, request.thread_id, run_id, start.past, start.told):
                await self._publisher.put(placed)

    def _attempt_event(self, start: Start) -> bytes:
        data = {
            "attempt": self._hold.attempt,
            "worker": self._hold.worker_id,
            "at": time.time_ns() // 1_000_000,
            "after": self._claimed.after,
            "after_worker": self._claimed.after_worker,
            "left": self._claimed.left,
            "checkpoint": start.checkpoint,
            "voids": start.voids,
        }
        return orjson.dumps({"m": "attempt", "d": data})

    async def _passes_breakpoint(self, graph: Graph, saver: Saver | None, config: RunnableConfig, start: Start) -> bool:
        """Whether the graph would have gone on from where it goes on; if not, it says where it stands."""
        state = None
        if saver is not None:
            state = await state_at_breakpoint(graph, saver, self._request, config)
        if state is None:
            return True
        # It executes nothing.
        self._control.request_drain()
        with suppress(GraphDrained):
            await self._stream(graph, None, config, start)
        await self._publish(_at_breakpoint(), start)
        self._final.take(state.values)
        return False

    # --- streaming -------------------------------------------------------------------------------------------------

    async def _stream(self, graph: Graph, given: object, config: RunnableConfig, start: Start) -> None:
        has_saver = self.saver is not None
        stream = chunks(
            graph,
            given,
            config,
            modes=_modes(self._request, has_saver=has_saver),
            version=self._request.version,
            subgraphs=self._request.subgraphs,
            calls=self._calls,
            control=self._control,
            **_options(self._request, graph, has_saver=has_saver),
        )
        async with aclosing(stream) as emitted:
            await self._publish(emitted, start)

    async def _publish(self, emitted: AsyncIterator[Chunk], start: Start) -> None:
        """Publish what was asked for, and is not in the stream already."""
        request = self._request
        wanted, marks = frozenset(request.stream_mode), start.marks()
        tells_ns = request.subgraphs or request.version == "v2"
        origins = Origins(start.finished, tells_ns=tells_ns) if self.saver is not None else None
        removals, halves = Removals(start.past), HeldHalves(self._publisher.put_now)

        def published(found: Iterable[Placed]) -> Iterator[Placed]:
            for placed in found:
                for one in removals.pass_on(placed):
                    is_new = one.chunk.mode in wanted and not (one is placed and is_there(one, marks))
                    yield from (each for each in halves.pass_on(one) if is_new or each is not one)

        try:
            async for chunk in emitted:
                self._taken.begin()
                self._final.see(chunk)
                for placed in published(origins.place(chunk) if origins is not None else (Placed(chunk),)):
                    await self._publisher.put(placed)
                self._taken.end(_result_of(chunk) if chunk.mode == "tasks" else None)
        finally:
            # What waits for a chunk that was refused would keep the graph from being closed.
            self._taken.close()
            halves.put_rest()
        for placed in published(origins.rest() if origins is not None else ()):
            await self._publisher.put(placed)


async def _reading(what: str, call: Awaitable[_T]) -> _T:
    """Wait for a call that reads what is saved.

    Raises:
        Unavailable: what the worker depends on is away.
    """
    try:
        return await call
    except Unavailable:
        raise
    except Exception as error:
        if is_infrastructure(error):
            raise Unavailable.because_of(f"cannot find out {what}", error) from error
        raise


async def _for_sure(call: Callable[[], Awaitable[_T]]) -> _T:
    """Make a call to the runs' own Redis, for which events wait as well, however long it is away."""
    return await patiently(call, None, outlasts=is_passing)


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
    """The task whose result a chunk of mode `tasks` is; None if it tells of a task's start."""
    payload = cast("Mapping[str, Any]", chunk.data)
    return payload["id"] if "result" in payload else None


async def _input(graph: Graph, request: RunRequest, config: RunnableConfig) -> object:
    """What `astream` is given: the input, the command, or nothing."""
    if request.command is None:
        return request.input
    interrupts = (await graph.aget_state(config)).interrupts if needs_pending(request.command) else ()
    return to_command(request.command, pending=[interrupt.id for interrupt in interrupts])


def _output_keys(request: RunRequest, graph: Graph) -> Any:
    """The channels to show: those that were asked for, or the output schema's; None for all."""
    return graph.output_channels if request.output_keys == OUTPUT_KEYS else request.output_keys


def _options(request: RunRequest, graph: Graph, *, has_saver: bool) -> dict[str, Any]:
    """The parameters of `astream` that were given, and the context, which a graph has in any case."""
    options = {
        "context": fitting_context(graph, request.context),
        "print_mode": request.print_mode or None,
        "output_keys": _output_keys(request, graph),
        "interrupt_before": request.interrupt_before,
        "interrupt_after": request.interrupt_after,
        "durability": request.durability if has_saver else None,
        "debug": request.debug,
    }
    return {name: value for name, value in options.items() if value is not None}
