"""Runs that count aloud: nothing of them may be missing or twice, whatever becomes of Redis meanwhile."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from tests.support.waiting import until

from runstream import Client, Event
from runstream.model import StreamMode

MODES: list[StreamMode] = ["custom", "updates"]
STEPS = 3


class Count(TypedDict, total=False):
    size: int
    said: Annotated[list[int], operator.add]


class Counting:
    """A graph of three steps, in each of which a node says so many numbers; held where the test wants it.

    Attributes:
        said: how often each number was said, by all runs together.
        graph: the graph, compiled without a checkpointer of its own.
    """

    def __init__(self, *, held: bool = False) -> None:
        self._allowed = asyncio.Semaphore(0)
        self._held = held
        self.said: list[int] = []
        graph = StateGraph(Count)
        for step in range(STEPS):
            graph.add_node(f"step{step}", self._node(step))
            graph.add_edge(f"step{step - 1}" if step else START, f"step{step}")
        self.graph = graph.compile()

    def allow(self, count: int) -> None:
        """Let so many numbers be said."""
        for _ in range(count):
            self._allowed.release()

    def let_go(self) -> None:
        """Hold it no longer."""
        self._held = False
        self.allow(1)

    def _node(self, step: int) -> Any:
        async def count(state: Count) -> Count:
            numbers = range(step * state["size"], (step + 1) * state["size"])
            for number in numbers:
                if self._held:
                    await self._allowed.acquire()
                else:
                    await asyncio.sleep(0.002)
                get_stream_writer()(number)
                self.said.append(number)
            return {"said": list(numbers)}

        return count

    async def has_said(self, count: int) -> None:
        """Wait until so many numbers have been said."""
        await until(lambda: len(self.said) >= count, f"{count} numbers have been said")


async def read(client: Client, run_id: str, seen: list[Event] | None = None, **options: Any) -> list[Event]:
    """All events of a run, to its end; put into `seen` as they come. `options` are those of `tail`."""
    events = [] if seen is None else seen
    async for event in client.tail(run_id, **options):
        events.append(event)
    return events


def check_first_attempt(events: list[Event], size: int) -> None:
    """The run was executed once, and everything that it has said is there once."""
    assert [event.id for event in events] == [f"1-{seq}" for seq in range(STEPS * (size + 1) + 2)], _told(events)
    numbers = [event.data for event in events if event.mode == "custom"]
    assert numbers == list(range(STEPS * size)), _told(events)
    assert events[-1].data["status"] == "success", _told(events)


def _told(events: list[Event]) -> str:
    """What happened, in short."""
    turns = [event for event in events if event.mode not in ("custom", "updates")]
    return f"{len(events)} events; {', '.join(f'{event.id} {event.mode} {event.data}' for event in turns)}"


async def check_result(client: Client, run_id: str, size: int) -> None:
    """The run's state is whole."""
    assert (await client.result(run_id))["said"] == list(range(STEPS * size))
