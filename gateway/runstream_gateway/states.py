"""A thread's state: what its graph has saved, read and written through the graph itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from copy import deepcopy
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import InvalidUpdateError
from langgraph.pregel import Pregel
from langgraph.types import Interrupt, PregelTask, StateSnapshot, StateUpdate
from pydantic_core import from_json
from redis.exceptions import RedisError

from runstream import EncodingError
from runstream.request import OUTPUT_KEYS
from runstream_gateway.auth.calling import config_for_caller
from runstream_gateway.errors import ApiError, not_found, not_loaded
from runstream_gateway.lane import Lane
from runstream_gateway.pieces import in_pieces
from runstream_gateway.rehearsal import Rehearsal
from runstream_gateway.told_errors import error_of, told_error
from runstream_gateway.turns import Turns
from runstream_worker.encoding import JsonEncoder
from runstream_worker.factories import Access
from runstream_worker.graphs import GraphSource, graph_with
from runstream_worker.infrastructure import Unavailable, is_infrastructure
from runstream_worker.patient_saver import DEFAULT_PATIENCE, PatientSaver, patient
from runstream_worker.redis_saver import RedisSaver
from runstream_worker.start_checks import CheckpointNotFound, check_checkpoints, named_checkpoints

_logger = logging.getLogger("runstream.gateway")
_UNFIT = (ValueError, TypeError, LookupError, AttributeError, NotImplementedError, AssertionError, ArithmeticError)
"""What a graph raises at values that it does not expect; what a database raises is none of these."""
_READING = Access("threads.read")
_WRITING = Access("threads.update")
_ROOT = "__root__"
"""The only channel of a graph whose state is one value."""
_CHECKPOINT_KEYS = ("thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map")
_LARGE = 256 * 1024
_UNKNOWN_SIZE = 4 * 1024 * 1024
_ENCODED_AT_ONCE = 8
EMPTY_STATE: Mapping[str, Any] = {
    "values": {}, "next": [], "tasks": [], "metadata": None, "created_at": None, "checkpoint": None,
    "parent_checkpoint": None, "interrupts": [], "checkpoint_id": None, "parent_checkpoint_id": None,
}  # fmt: skip


class States:
    """Reads and writes the states of threads.

    Args:
        graphs: by name.
        saver: the checkpointer; None where graphs have their own or none.
        lane: encodes what is large.
        turns: has room for what is read.
        keep_own: whether it leaves graphs theirs that have one.
        show_errors: tell the messages of all exceptions.
        patience: how long a read or write waits for a database that is away, in seconds.

    What reads or writes a state raises `Unavailable` where its database is away for longer than that.
    """

    def __init__(
        self,
        graphs: Mapping[str, GraphSource],
        saver: BaseCheckpointSaver[Any] | None,
        lane: Lane,
        turns: Turns,
        *,
        keep_own: bool,
        show_errors: bool = False,
        patience: float = DEFAULT_PATIENCE,
    ) -> None:
        self._patience = patience
        self._lane = lane
        self._turns = turns
        self._encoding = asyncio.Semaphore(_ENCODED_AT_ONCE)
        self._show_errors = show_errors
        self._graphs = graphs
        self.saver = None if saver is None else patient(saver, patience)
        self._keep_own = keep_own

    def graph_of(self, thread_metadata: Mapping[str, Any]) -> str | None:
        """The graph that a thread's metadata names, be it here or not; None where nothing that is a name is there."""
        name = thread_metadata.get("graph_id")
        return name if isinstance(name, str) else None

    def knows(self, name: str | None) -> bool:
        """Whether this gateway has a graph."""
        return name is not None and name in self._graphs

    @asynccontextmanager
    async def graph(
        self, name: str, config: Mapping[str, Any], access: Access = _READING
    ) -> AsyncIterator[Pregel[Any, Any, Any, Any]]:
        """A graph with its checkpointer.

        Raises:
            ApiError: 404, this gateway has no such graph; 424, it cannot be loaded.
            Unavailable: a database that its factory asks is away.
        """
        source = self._graphs.get(name)
        if source is None:
            raise ApiError(404, f"graph {name!r} is not loaded by this gateway; it has {', '.join(self._graphs)}")
        if source.problem is not None:
            raise not_loaded(name)
        given = config_for_caller(config)
        async with source.open(given, self.saver, keep_own=self._keep_own, access=access) as graph:
            if isinstance(graph.checkpointer, BaseCheckpointSaver):
                yield graph_with(graph, checkpointer=patient(graph.checkpointer, self._patience))
            else:
                yield graph

    async def get(
        self,
        graph_name: str | None,
        thread_id: str,
        checkpoint: Mapping[str, Any] | None = None,
        *,
        subgraphs: bool = False,
    ) -> dict[str, Any]:
        """A thread's state, its last one unless a checkpoint is given, as LangGraph's API shows it.

        Raises:
            ApiError: 404, there is no such checkpoint; 422, the graph cannot be made, or its state not be shown.
        """
        if graph_name is None:
            _check_names_none(checkpoint)
            return dict(EMPTY_STATE)
        config = config_of(thread_id, checkpoint)
        with _reading(graph_name, thread_id):
            size = await self.size(thread_id)
            async with self._turns.room(size), self.graph(graph_name, config) as graph:
                # Of the state's own checkpoint, reading it tells.
                await _check_there(graph, thread_id, {**(checkpoint or {}), "checkpoint_id": None})
                if not isinstance(graph.checkpointer, BaseCheckpointSaver):
                    _check_names_none(checkpoint)
                    return dict(EMPTY_STATE)
                snapshot = await _snapshot(graph, cast("RunnableConfig", config), subgraphs=subgraphs)
                if snapshot.created_at is None:
                    _check_names_none(checkpoint)
                    return dict(EMPTY_STATE)
                return await self._shown(snapshot, size)

    async def check_checkpoints(self, graph_name: str, thread_id: str, checkpoint: Mapping[str, Any]) -> None:
        """Check that a thread has the checkpoints that a request names, by LangGraph's names in `configurable`.

        LangGraph would take one that is not there for the beginning, and replace the thread's state.

        Raises:
            ApiError: 404, it has not; 422, the graph cannot be made.
        """
        with _reading(graph_name, thread_id):
            size = await self.size(thread_id)
            async with self._turns.room(size), self.graph(graph_name, config_of(thread_id)) as graph:
                await _check_there(graph, thread_id, checkpoint)

    async def size(self, thread_id: str) -> int:
        """Return how many bytes a thread's checkpoints take; of those that are not in Redis, what they may take."""
        saver = self.saver.saver if isinstance(self.saver, PatientSaver) else self.saver
        if isinstance(saver, RedisSaver):
            return await saver.asize_of_thread(thread_id)
        return 0 if saver is None else _UNKNOWN_SIZE

    async def _shown(self, snapshot: StateSnapshot, size: int) -> dict[str, Any]:
        """A state as LangGraph's API shows it. A large one is encoded beside the event loop."""
        if size <= _LARGE:
            return state_json(snapshot, show_errors=self._show_errors)
        async with self._encoding:
            return await self._lane.run(lambda: state_json(snapshot, show_errors=self._show_errors))

    async def shown(
        self, graph_name: str, thread_id: str, checkpoint_id: str, output_keys: str | Sequence[str] | None
    ) -> Any:
        """Return what a run's stream of `values` shows of a checkpoint; None where the checkpoint is not there.

        Args:
            graph_name: the run's graph.
            thread_id: its thread.
            checkpoint_id: which of the thread's checkpoints.
            output_keys: as the run was asked for.
        """
        try:
            state = await self.get(graph_name, thread_id, {"checkpoint_id": checkpoint_id})
            keys = await self._output_channels(graph_name, thread_id) if output_keys == OUTPUT_KEYS else output_keys
        except ApiError:
            return None
        values = state["values"]
        if keys is None or not isinstance(values, dict):
            return values
        if isinstance(keys, str):
            return values if keys == _ROOT else values.get(keys)
        return {name: value for name, value in values.items() if name in keys}

    async def _output_channels(self, graph_name: str, thread_id: str) -> str | Sequence[str]:
        async with self.graph(graph_name, config_of(thread_id)) as graph:
            return graph.output_channels

    async def history(
        self,
        graph_name: str | None,
        thread_id: str,
        *,
        limit: int,
        before: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Iterate over a thread's states, the newest first.

        Raises:
            ApiError: 404, there is no such checkpoint; 422, the graph cannot be made, or one of the states cannot be
                shown.
        """
        if graph_name is None:
            _check_names_none(checkpoint, before)
            return
        config = config_of(thread_id, checkpoint)
        earlier = None if before is None else config_of(thread_id, before)
        with _reading(graph_name, thread_id):
            size = await self.size(thread_id)
            async with self._turns.room(size), self.graph(graph_name, config) as graph:
                await _check_there(graph, thread_id, checkpoint, before)
                if not isinstance(graph.checkpointer, BaseCheckpointSaver):
                    return
                found = graph.aget_state_history(
                    cast("RunnableConfig", config),
                    filter=dict(metadata) if metadata else None,
                    before=cast("RunnableConfig", earlier) if earlier else None,
                    limit=limit,
                )
                async for snapshot in found:
                    yield await self._shown(snapshot, size)
                    await asyncio.sleep(0)  # many are read at once, and others have their turn

    async def update(
        self,
        graph_name: str,
        thread_id: str,
        values: Any,
        *,
        as_node: str | None,
        checkpoint: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write a state, as if a node had returned these values; gives the new checkpoint's place.

        Raises:
            ApiError: 400, the graph keeps no checkpoints; 404, there is no such checkpoint; 422, the values or the node
                are not the graph's.
        """
        updates = values if isinstance(values, list) else [values]
        config = {**config_of(thread_id, checkpoint), "metadata": dict(metadata or {})}
        steps = [[StateUpdate(update, as_node)] for update in updates]
        return checkpoint_json(await self._written(graph_name, config, steps, "values")) or {}

    async def take(
        self, graph_name: str | None, thread_id: str, supersteps: Sequence[Sequence[Mapping[str, Any]]]
    ) -> None:
        """Write states that a new thread had elsewhere: of each superstep one, made of the updates of its nodes.

        Raises:
            ApiError: 400, the graph keeps no checkpoints; 422, a superstep is not the graph's.
        """
        if graph_name is None:
            raise ApiError(422, "supersteps: metadata.graph_id has to say of which graph the thread is")
        for number, updates in enumerate(supersteps):
            if not updates:
                raise ApiError(422, f"supersteps.{number}.updates: [] must not be empty")
        steps = [[one for update in updates for one in _state_updates(**update)] for updates in supersteps]
        await self._written(graph_name, config_of(thread_id), steps, "supersteps")

    async def _written(
        self, graph_name: str, config: dict[str, Any], steps: Sequence[Sequence[StateUpdate]], field: str
    ) -> RunnableConfig:
        """Write states, one of each step; of several, all are tried before the first is written."""
        given = cast("RunnableConfig", config)
        _check_encodable(steps, field)
        async with self.graph(graph_name, config, _WRITING) as graph:
            if not isinstance(graph.checkpointer, BaseCheckpointSaver):
                raise ApiError(400, f"graph {graph_name!r} keeps no checkpoints")
            await _check_there(graph, config["configurable"]["thread_id"], config["configurable"])
            if not steps:
                return given
            try:
                if len(steps) > 1:
                    trial = graph_with(graph, checkpointer=Rehearsal(graph.checkpointer))
                    await trial.abulk_update_state(given, deepcopy(steps))
                return await graph.abulk_update_state(given, steps)
            except InvalidUpdateError as error:
                raise ApiError(422, f"{field}: {error}") from None
            except _UNFIT as error:
                _logger.debug("graph %r does not take an update of its state", graph_name, exc_info=error)
                raise ApiError(422, f"{field}: graph {graph_name!r} does not take them: {_public(error)}") from None


async def _check_there(
    graph: Pregel[Any, Any, Any, Any], thread_id: str, *checkpoints: Mapping[str, Any] | None
) -> None:
    saver = graph.checkpointer if isinstance(graph.checkpointer, BaseCheckpointSaver) else None
    try:
        for checkpoint in checkpoints:
            await check_checkpoints(saver, thread_id, checkpoint or {})
    except CheckpointNotFound as error:
        raise not_found("checkpoint", error.checkpoint_id) from None


def _check_names_none(*checkpoints: Mapping[str, Any] | None) -> None:
    """Of a thread that has had no graph, there is no checkpoint."""
    for checkpoint in checkpoints:
        for checkpoint_id in named_checkpoints(checkpoint or {}).values():
            raise not_found("checkpoint", checkpoint_id)


def _state_updates(values: Any, as_node: str | None) -> list[StateUpdate]:
    """What a node wrote in a superstep; several writes of it may come as a list."""
    if isinstance(values, list) and as_node != "__copy__":
        return [StateUpdate(one, as_node) for one in values]
    return [StateUpdate(values, as_node)]


def _check_encodable(steps: Sequence[Sequence[StateUpdate]], field: str) -> None:
    """What could be written and not read again would make the thread unreadable."""
    try:
        for update in (update for step in steps for update in step):
            JsonEncoder(strict=True).encode(update.values, field)
    except EncodingError as error:
        raise ApiError(422, str(error)) from None


@contextmanager
def _reading(graph_name: str, thread_id: str) -> Iterator[None]:
    """Say what is wrong with a state that cannot be shown: that is the graph's doing, and no failure of the gateway."""
    try:
        yield
    except ApiError:
        raise
    except Exception as error:
        if isinstance(error, Unavailable):
            raise
        if isinstance(error, RedisError) and is_infrastructure(error):
            raise Unavailable.because_of("checkpointer", error) from error
        _logger.debug("the state of thread %s cannot be read", thread_id, exc_info=error)
        raise ApiError(422, f"state: graph {graph_name!r} cannot show it: {_public(error)}") from error


def _public(error: Exception) -> str:
    """What is told of an exception of the users' code, here as at the end of a run."""
    told = error_of("error", {"type": type(error).__name__, "message": str(error)}, show=False) or {}
    return ": ".join(told.values())


async def _snapshot(graph: Pregel[Any, Any, Any, Any], config: RunnableConfig, *, subgraphs: bool) -> StateSnapshot:
    """The state, without an input that the graph has refused.

    LangGraph saves an input before the state takes it, and takes it again at every look: a message of a kind that there
    is not would hide the thread, and what came before it, for good.
    """
    try:
        return await graph.aget_state(config, subgraphs=subgraphs)
    except Unavailable:
        raise
    except Exception as error:  # the graph's own reducers; if it was something else, it is so again
        async for snapshot in graph.aget_state_history(config, limit=1):
            _logger.debug("what is pending on thread %s is left out: %s", config["configurable"]["thread_id"], error)
            return snapshot
        raise


def config_of(thread_id: str, checkpoint: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The config of a thread, at a checkpoint if one is given."""
    given = {key: value for key, value in (checkpoint or {}).items() if key in _CHECKPOINT_KEYS and value is not None}
    return {"configurable": {"checkpoint_ns": "", **given, "thread_id": thread_id}}


def checkpoint_json(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The checkpoint that a config names."""
    if not config:
        return None
    configurable = config.get("configurable", {})
    return {key: configurable[key] for key in _CHECKPOINT_KEYS if configurable.get(key) is not None}


def state_json(snapshot: StateSnapshot, *, show_errors: bool) -> dict[str, Any]:
    """Return a state as LangGraph's API shows it, its values in pieces; messages of exceptions may be left out."""
    checkpoint, parent = checkpoint_json(snapshot.config), checkpoint_json(snapshot.parent_config)
    state = {
        "next": snapshot.next,
        "metadata": snapshot.metadata,
        "created_at": snapshot.created_at,
        "checkpoint": checkpoint,
        "parent_checkpoint": parent,
        "interrupts": _interrupts(snapshot.interrupts),
        "checkpoint_id": (checkpoint or {}).get("checkpoint_id"),
        "parent_checkpoint_id": (parent or {}).get("checkpoint_id"),
    }
    tasks = [_task(task, show_errors=show_errors) for task in snapshot.tasks]
    plain = from_json(JsonEncoder().encode(state, "state"))
    return {"values": in_pieces(snapshot.values, "state.values"), **plain, "tasks": tasks}


def _task(task: PregelTask, *, show_errors: bool) -> dict[str, Any]:
    state = task.state
    error = None if task.error is None else _printed(task.error)
    shown = {
        "id": task.id,
        "name": task.name,
        "path": task.path,
        "error": error if show_errors else told_error(error),
        "interrupts": _interrupts(task.interrupts),
        "checkpoint": checkpoint_json(state) if isinstance(state, dict) else None,
        "result": task.result,
    }
    nested = state_json(state, show_errors=show_errors) if isinstance(state, StateSnapshot) else None
    return {**from_json(JsonEncoder().encode(shown, "state.tasks")), "state": nested}


def _printed(error: object) -> str:
    """An error as it prints; checkpoints that are JSON have kept only that."""
    return error if isinstance(error, str) else repr(error)


def _interrupts(interrupts: Sequence[Interrupt]) -> list[dict[str, Any]]:
    return [{"value": interrupt.value, "id": interrupt.id} for interrupt in interrupts]
