"""Breakpoints across attempts: LangGraph passes the one that it resumes at, and a run that was lost there has not.

With `interrupt_before` or `interrupt_after` a graph stops once it has saved a checkpoint. Should its worker die between
that and the run's end, the next attempt finds the checkpoint, and to go on from it would mean to go past the
breakpoint, for which somebody's word is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.pregel import Pregel
from langgraph.types import StateSnapshot

from runstream.request import RunRequest

Nodes: TypeAlias = Literal["*"] | Sequence[str]


async def state_at_breakpoint(
    graph: Pregel[Any, Any, Any, Any], saver: BaseCheckpointSaver[Any], request: RunRequest, config: RunnableConfig
) -> StateSnapshot | None:
    """The saved state, if it is one at which the graph would have stopped; None if it would have gone on."""
    before: Nodes = request.interrupt_before or graph.interrupt_before_nodes
    after: Nodes = request.interrupt_after or graph.interrupt_after_nodes
    if not before and not after:
        return None
    state = await graph.aget_state(config)
    if _is_among(before, (task.name for task in state.tasks)):
        return state
    head = await saver.aget_tuple(state.config)
    if head is None or head.parent_config is None or head.metadata.get("source") != "loop":
        return None
    parent = await saver.aget_tuple(head.parent_config)
    return state if _is_among(after, _nodes_between(parent, head)) else None


def _is_among(stops: Nodes, names: Iterable[str]) -> bool:
    """Whether one of the nodes is to be stopped at; `*` means all but LangGraph's own."""
    return any(not name.startswith("__") if stops == "*" else name in stops for name in names)


def _nodes_between(parent: CheckpointTuple | None, head: CheckpointTuple) -> list[str]:
    """The nodes of the step that led from one checkpoint to the next: those that have seen something new."""
    before = {} if parent is None else parent.checkpoint["versions_seen"]
    return [name for name, seen in head.checkpoint["versions_seen"].items() if seen != before.get(name)]
