"""What a run begins from has to be there: a checkpoint, an interrupt's state, a node.

LangGraph takes a checkpoint that is not there for the beginning, and saves what comes of it on top of the thread. It
starts a graph from the beginning where there is nothing to resume, and leaves out a node that it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.pregel import Pregel

from runstream.errors import InvalidRequest, RunstreamError
from runstream.request import RunRequest
from runstream_worker.patient_saver import PatientSaver
from runstream_worker.redis_saver import RedisSaver

_END = "__end__"


class CheckpointNotFound(RunstreamError):
    """A checkpoint that a run or a request names is not on its thread.

    Attributes:
        checkpoint_id: its id.
    """

    def __init__(self, thread_id: str, namespace: str, checkpoint_id: str) -> None:
        place = f" in the namespace {namespace!r}" if namespace else ""
        super().__init__(f"thread {thread_id!r} has no checkpoint {checkpoint_id!r}{place}")
        self.checkpoint_id = checkpoint_id


def root_checkpoint(configurable: Mapping[str, Any]) -> str | None:
    """Return the id of the checkpoint of the graph itself that a config goes on from; None for the newest one.

    As LangGraph reads it: `checkpoint_map` comes first, and an id beside a namespace is a subgraph's.
    """
    of_root = (configurable.get("checkpoint_map") or {}).get("")
    if of_root is None and not configurable.get("checkpoint_ns"):
        of_root = configurable.get("checkpoint_id")
    return None if of_root is None else str(of_root)


def named_checkpoints(configurable: Mapping[str, Any]) -> dict[str, str]:
    """Return the checkpoints that a config names: the id of each by its namespace."""
    named = {str(namespace): str(each) for namespace, each in (configurable.get("checkpoint_map") or {}).items()}
    if configurable.get("checkpoint_id"):
        named.setdefault(configurable.get("checkpoint_ns") or "", str(configurable["checkpoint_id"]))
    return named


async def check_checkpoints(
    saver: BaseCheckpointSaver[Any] | None, thread_id: str, configurable: Mapping[str, Any]
) -> None:
    """Check that the checkpoints that a config names are on the thread.

    Raises:
        CheckpointNotFound: one of them is not, or the graph keeps no checkpoints.
    """
    for namespace, checkpoint_id in named_checkpoints(configurable).items():
        place = {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
        if saver is None or not await _has(saver, {"configurable": place}):
            raise CheckpointNotFound(thread_id, namespace, checkpoint_id)


async def _has(saver: BaseCheckpointSaver[Any], config: RunnableConfig) -> bool:
    """Whether a checkpointer has a checkpoint. Ours tells without reading the state, which may be large."""
    if isinstance(saver, PatientSaver):
        return await saver.attempt(lambda each: _has(each, config))
    # That it is not there is believed only from a server that takes writes, which a read looks to.
    is_known = isinstance(saver, RedisSaver) and await saver.ahas(config)
    return is_known or await saver.aget_tuple(config) is not None


def check_names_root(configurable: Mapping[str, Any]) -> None:
    """Check that a run that names a checkpoint of a subgraph also names the one of the graph itself.

    LangGraph would leave the checkpoint out, and go on from the newest one.

    Raises:
        InvalidRequest: it does not.
    """
    if named_checkpoints(configurable) and root_checkpoint(configurable) is None:
        raise InvalidRequest(
            "checkpoint_map",
            f"is missing the graph's own checkpoint: a run that goes on from a checkpoint of the subgraph "
            f"{configurable.get('checkpoint_ns')!r} needs the whole `checkpoint` of that state",
        )


async def check_start(
    graph: Pregel[Any, Any, Any, Any],
    saver: BaseCheckpointSaver[Any] | None,
    request: RunRequest,
    config: RunnableConfig,
) -> None:
    """Check, before anything is executed, that what a run begins from is there.

    Raises:
        CheckpointNotFound: the config names a checkpoint that is not.
        InvalidRequest: there is nothing to resume, or a `goto` names a node that the graph has not.
    """
    configurable = config["configurable"]
    check_names_root(configurable)
    await check_checkpoints(saver, request.thread_id, configurable)
    command = request.command or {}
    for node in _nodes(command.get("goto", [])):
        if node not in graph.nodes and node != _END:
            known = ", ".join(name for name in graph.nodes if not name.startswith("__"))
            raise InvalidRequest("command.goto", f"the graph has no node {node!r}; it has {known}")
    if "resume" in command and saver is not None:
        place = {"thread_id": request.thread_id, "checkpoint_ns": ""}
        if not await _has(saver, {"configurable": place}):
            raise InvalidRequest("command.resume", f"thread {request.thread_id!r} has no state: nothing to resume")


def _nodes(goto: Any) -> Iterator[str]:
    """The names of the nodes that a `goto` names, as it travels."""
    for target in goto if isinstance(goto, list) else [goto]:
        yield target["node"] if isinstance(target, dict) else target
