"""One run, end to end: the first thing that has to work."""

from __future__ import annotations

from typing import TypedDict

from langgraph.graph import START, StateGraph
from tests.support.workers import Workers

from runstream import Client, Status


class State(TypedDict):
    number: int


def double(state: State) -> State:
    return {"number": state["number"] * 2}


async def test_a_run_is_enqueued_executed_tailed_and_asked_for_its_result(client: Client, workers: Workers) -> None:
    await workers.start(math=StateGraph(State).add_node(double).add_edge(START, "double").compile())

    run = await client.enqueue("math", {"number": 21}, stream_mode=["updates", "values"])
    events = [event async for event in client.tail(run.run_id)]

    assert [(event.id, event.mode) for event in events] == [
        ("1-0", "attempt"),
        ("1-1", "values"),
        ("1-2", "updates"),
        ("1-3", "values"),
        ("1-4", "end"),
    ]
    assert events[2].data == {"double": {"number": 42}}
    assert events[-1].data["status"] == "success"
    assert await client.result(run.run_id) == {"number": 42}
    info = await client.get(run.run_id)
    assert (info.status, info.attempt, info.last_event_id) == (Status.SUCCESS, 1, "1-4")
