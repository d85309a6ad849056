"""Checkpointers and stores that graphs were compiled with, and stores that they need and do not have."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from inspect import Parameter
from typing import Any, Final

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.pregel import Pregel
from langgraph.store.base import BaseStore

from runstream.errors import RunstreamError
from runstream_worker.graphs import GraphSource

_REMEDY: Final = "runstream has none; compile the graph with one: builder.compile(store=...)"
_OF_LANGGRAPH: Final = ("Missing required config key 'store'", "Cannot inject store into tools")
_METHODS: Final = frozenset({"get", "put", "search", "delete", "batch", "list_namespaces"})


class NoStore(RunstreamError):
    """A graph uses a store, and there is none."""


def notes(graphs: Mapping[str, GraphSource], *, checkpointer: str | None, keep: bool) -> list[str]:
    """Return what an operator should know of compiled graphs before they run; factories are not called for it.

    Args:
        graphs: by name.
        checkpointer: the URL of the checkpointer that graphs get; None for `redis`.
        keep: whether graphs keep their own.
    """
    found: list[str] = []
    for name, source in graphs.items():
        graph = source.graph_or_factory
        if isinstance(graph, Pregel):
            found += [f"graph {name!r} {note}" for note in _notes_of(graph, checkpointer, keep=keep)]
    return found


def _notes_of(graph: Pregel[Any, Any, Any, Any], url: str | None, *, keep: bool) -> Iterator[str]:
    own = graph.checkpointer
    if isinstance(own, BaseCheckpointSaver):
        kind = type(own).__name__
        if not keep and url != "none":
            instead = "redis" if url is None else url.partition(":")[0]
            yield f"was compiled with {kind}, which {instead} replaces; --keep-checkpointer keeps it"
        elif isinstance(own, InMemorySaver):
            yield (
                f"keeps the {kind} that it was compiled with, which is this process's own: no other process, nor the "
                "gateway, sees its threads, and they end with the process"
            )
    if isinstance(graph.store, BaseStore):
        yield f"was compiled with {type(graph.store).__name__}, which stays: runstream has no store to replace it"
    elif takers := sorted(_takers(graph)):
        yield f"needs a store (node {', '.join(map(repr, takers))} takes one), and {_REMEDY}"


def _takers(graph: Pregel[Any, Any, Any, Any]) -> Iterator[str]:
    """The nodes of a graph that have a parameter for a store, which has to be there."""
    for name, node in graph.nodes.items():
        accepts = getattr(node.bound, "func_accepts", None)
        if isinstance(accepts, Mapping) and accepts.get("store", (None, None))[1] is Parameter.empty:
            yield name


def no_store(graph: Pregel[Any, Any, Any, Any] | None, error: Exception) -> NoStore | None:
    """Return what to raise in place of an error that a missing store has caused; None where it has another cause."""
    if graph is not None and graph.store is not None:
        return None
    cause: BaseException | None = error
    while cause is not None:
        if _is_of_store(cause):
            message = " ".join(str(cause).split())
            return NoStore(f"the graph needs a store ({type(cause).__name__}: {message}), and {_REMEDY}")
        cause = cause.__cause__
    return None


def _is_of_store(error: BaseException) -> bool:
    if isinstance(error, AttributeError):
        # The look-up of a store's method at None, on a line that speaks of a store.
        is_method = error.obj is None and (error.name or "").removeprefix("a") in _METHODS
        frames = traceback.extract_tb(error.__traceback__)
        return is_method and bool(frames) and "store" in (frames[-1].line or "")
    return isinstance(error, ValueError) and str(error).startswith(_OF_LANGGRAPH)
