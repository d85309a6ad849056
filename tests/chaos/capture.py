"""What a checkpointer has of a thread, read through LangGraph's own calls."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.pregel import Pregel
from langgraph.types import StateSnapshot
from tests.support.oracle import Call, Said, Saved, State


@dataclass(frozen=True)
class Capture:
    """A thread at one moment.

    Attributes:
        latest: its state.
        by_run: the state that each run has left, by run id.
        checkpoints: those of the graph itself, the oldest first.
    """

    latest: State
    by_run: Mapping[str, State]
    checkpoints: tuple[Saved, ...]


async def capture(graph: Pregel[Any, Any, Any, Any], thread_id: str) -> Capture:
    """Read a thread; `graph` has the checkpointer."""
    config: Any = {"configurable": {"thread_id": thread_id}}
    newest_first = [snapshot async for snapshot in graph.aget_state_history(config)]
    latest = _state(await graph.aget_state(config, subgraphs=True))
    if newest_first:
        firm = {said.id for said in _state(newest_first[0]).messages}
        latest = replace(latest, pending=frozenset(said.id for said in latest.messages if said.id not in firm))
    by_run: dict[str, State] = {}
    for snapshot in newest_first:
        run_id = _run_id(snapshot)
        if run_id is not None and run_id not in by_run:
            # What tasks have written that wait for others counts, but only the newest checkpoint can still have some.
            by_run[run_id] = _state(snapshot) if by_run else latest
    return Capture(latest, by_run, tuple(_saved(snapshot) for snapshot in reversed(newest_first)))


def _run_id(snapshot: StateSnapshot) -> str | None:
    return (snapshot.metadata or {}).get("run_id")


def _saved(snapshot: StateSnapshot) -> Saved:
    parent = snapshot.parent_config
    return Saved(
        snapshot.config["configurable"]["checkpoint_id"],
        parent["configurable"]["checkpoint_id"] if parent else None,
        _run_id(snapshot),
        (snapshot.metadata or {}).get("step", -2),
    )


def _state(snapshot: StateSnapshot) -> State:
    values = dict(snapshot.values or {})
    messages, log = tuple(map(_said, values.pop("messages", ()))), tuple(values.pop("log", ()))
    here = {said.id for said in messages}
    inner = {said.id: said for said in _inner(snapshot) if said.id not in here}
    return State(messages, log, json.dumps(values, sort_keys=True), tuple(inner.values()))


def _inner(snapshot: StateSnapshot) -> Iterator[Said]:
    """The messages of subgraphs that have not finished."""
    for task in snapshot.tasks:
        if isinstance(task.state, StateSnapshot):
            yield from map(_said, task.state.values.get("messages", ()))
            yield from _inner(task.state)


def _said(message: BaseMessage) -> Said:
    calls = message.tool_calls if isinstance(message, AIMessage) else ()
    made = tuple(Call.of(call["id"], call["name"], call["args"]) for call in calls)
    return Said(message.id or "", message.type, message.text, made)
