"""Runs a graph and hands out, beside its chunks, the records of what runs in it: LangChain's `astream_events`.

The records are those of LangChain's version v2. It has no way to ask `astream` for another version than its own, puts
its own defaults over the graph's (the recursion limit), and lets the graph run ahead of who reads. So what it is given
is not the graph but `_Paced`, which calls the graph's `astream` as it would be called without records.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeAlias, cast

from langchain_core.runnables import Runnable, RunnableConfig

Stream: TypeAlias = Callable[[Any], AsyncGenerator[Any, None]]
"""The graph's stream, given the config."""

_KEYS: Final = ("event", "name", "run_id", "tags", "metadata", "data", "parent_ids")
_HIDDEN: Final = "langsmith:hidden"
_PUSH: Final = "__pregel_push"


@dataclass(frozen=True, slots=True)
class Record:
    """A record of `astream_events`.

    Attributes:
        fields: its seven keys, as they came.
    """

    fields: dict[str, Any]


async def with_records(stream: Stream, given: object, config: RunnableConfig) -> AsyncGenerator[Any, None]:
    """Run a graph and yield what it emits, as it came, and each `Record`, in one order.

    All that a task has caused comes before the task's result. The graph goes on when the reader comes back for more,
    as it does without records. Close this generator when leaving it early: that stops the graph.

    Args:
        stream: runs the graph.
        given: its input; the first record shows it.
        config: the run's config; if it has a `run_id`, it is that of the root's records.
    """
    paced = _Paced(stream, config)
    # Of the config only what LangChain needs here: the rest goes to the graph as it is.
    own = cast("RunnableConfig", {key: config[key] for key in ("callbacks", "run_id") if key in config})
    records = paced.astream_events(given, own, version="v2")
    root = None
    async with aclosing(cast("AsyncGenerator[Any, None]", records)) as found:
        async for record in found:
            root = root or record["run_id"]
            if record["run_id"] == root and record["event"] == "on_chain_stream":
                yield record["data"]["chunk"]
                paced.go_on()
            elif _HIDDEN not in record.get("tags", ()):
                yield Record({key: record[key] for key in _KEYS})


class _Paced(Runnable[Any, Any]):
    """A graph that waits, behind each item that it emits, until it is told to go on."""

    def __init__(self, stream: Stream, config: RunnableConfig) -> None:
        self._stream = stream
        self._config = config
        self._turns = asyncio.Semaphore(0)

    def go_on(self) -> None:
        """Let it emit the next item."""
        self._turns.release()

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> NoReturn:  # noqa: A002 - LangChain's name
        """It cannot be invoked: who wants records streams."""
        raise NotImplementedError

    async def astream(
        self,
        input: Any,  # noqa: A002, ARG002 - LangChain's name; the stream has it
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ARG002 - LangChain's signature
    ) -> AsyncGenerator[Any, None]:
        """Stream, with the callbacks that LangChain has added."""
        added = cast("RunnableConfig", config)
        watched = {**self._config, "callbacks": added["callbacks"], "run_id": added["run_id"]}
        async with aclosing(self._stream(watched)) as items:
            async for item in items:
                yield item
                await self._turns.acquire()


def namespace_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The namespace of the graph that a task belongs to, from the metadata of what runs in it; empty at the root.

    The task's own segment is left out. So are those of the tasks that called it (functional API): they are in the same
    graph, though the names of such calls are nested.
    """
    segments = str(metadata.get("langgraph_checkpoint_ns") or "").split("|")
    path: Any = metadata.get("langgraph_path", ())
    own = 1
    while len(path) == 4 and path[0] == _PUSH and path[-1] is True:
        own, path = own + 1, path[1]
    return tuple(segments[:-own])
