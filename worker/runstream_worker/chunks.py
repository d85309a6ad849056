"""Runs a graph and hands out its chunks in one shape; no other module knows what tuples LangGraph emits."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Literal, NamedTuple, cast

from langgraph.pregel import Pregel

from runstream_worker.calls import ModelCalls
from runstream_worker.records import Record, namespace_of, with_records

EVENTS = "events"
"""The mode that LangGraph's server has and its `astream` has not: what `astream_events` tells."""


class Chunk(NamedTuple):
    """One thing that a graph emitted.

    Attributes:
        mode: the stream mode.
        ns: where in the nested graphs it comes from: empty for the graph itself, else `node:task_id` per level.
        data: what was emitted; in `messages` the pair of message and metadata, in `events` the record.
        interrupts: the interrupts that ended the graph, if `mode` is `values` and `version` is `v2`; otherwise None.
        call: of a chunk of a message, the id of the model's call that streams it, if it is known; otherwise None.
    """

    mode: str
    ns: tuple[str, ...]
    data: object
    interrupts: tuple[object, ...] | None = None
    call: str | None = None


async def chunks(
    graph: Pregel[Any, Any, Any, Any],
    input: object,  # noqa: A002  # the name that astream gives it
    config: Any,
    *,
    modes: Sequence[str],
    version: Literal["v1", "v2"],
    subgraphs: bool = False,
    calls: ModelCalls | None = None,
    **options: Any,
) -> AsyncGenerator[Chunk, None]:
    """Run a graph and yield what it emits.

    Close this generator (`contextlib.aclosing`) when leaving it early: that stops the graph.

    Args:
        graph: the compiled graph.
        input: its input, a `Command`, or None to go on from the saved state.
        config: the run's config.
        modes: the stream modes to ask for; with `events` among them, the records of `astream_events` come, too,
            whatever `subgraphs` says.
        version: `v1` gives values as the dicts of the state, with interrupts under `__interrupt__`; `v2` gives them as
            the state's own class and the interrupts apart.
        subgraphs: whether to emit what nested graphs emit, too.
        calls: knows the calls of models; it has to be among the config's callbacks.
        **options: what else `Pregel.astream` takes.
    """
    asked: Any = [mode for mode in modes if mode != EVENTS]

    def stream(config: Any) -> AsyncGenerator[Any, None]:
        emitted = graph.astream(
            cast("Any", input), config, stream_mode=asked, subgraphs=subgraphs, version=version, **options
        )
        return cast("AsyncGenerator[Any, None]", emitted)

    async with aclosing(stream(config) if EVENTS not in modes else with_records(stream, input, config)) as emitted:
        async for item in emitted:
            chunk = _chunk(item, subgraphs=subgraphs)
            if calls is not None and chunk.mode == "messages":
                message, metadata = cast("tuple[object, object]", chunk.data)
                chunk = Chunk("messages", chunk.ns, chunk.data, None, calls.of(message, metadata))
            yield chunk


def _chunk(item: Any, *, subgraphs: bool) -> Chunk:
    if isinstance(item, Record):
        return Chunk(EVENTS, namespace_of(item.fields["metadata"]), item.fields)
    if isinstance(item, dict):
        return Chunk(item["type"], tuple(item["ns"]), item["data"], item.get("interrupts"))
    if subgraphs:
        ns, mode, data = item
        return Chunk(mode, tuple(ns), data)
    mode, data = item
    return Chunk(mode, (), data)
