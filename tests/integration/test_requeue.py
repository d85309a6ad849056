"""A run that is requeued goes on from what those before it have saved: nothing is there twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from tests.support.workers import Workers

from runstream import Client, RunErrored, Status

HELLO = {"messages": [["user", "Hello!"]]}


@dataclass
class Trouble:
    """A graph of two nodes, of which the named one raises as often as it is told to."""

    node: str
    times: int
    ran: list[str] = field(default_factory=list)

    def build(self) -> Any:
        def step(name: str) -> Any:
            async def run(state: MessagesState) -> dict[str, Any]:
                self.ran.append(name)
                if name == self.node and self.times > 0:
                    self.times -= 1
                    raise ValueError(f"{name} fails")
                return {"messages": [("ai", name)]}

            return run

        graph = StateGraph(MessagesState).add_sequence([(name, step(name)) for name in ("first", "second")])
        return graph.add_edge(START, "first").compile(checkpointer=InMemorySaver())


async def requeued_until_it_succeeds(client: Client, run_id: str) -> tuple[Any, int]:
    """The result, and how often the run had to be enqueued again."""
    for times in range(10):
        try:
            return await client.result(run_id), times
        except RunErrored:
            run_id = (await client.requeue(run_id)).run_id
    pytest.fail("it never succeeds")


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("node", ["first", "second"])
async def test_what_was_saved_is_not_done_again(client: Client, workers: Workers, node: str, times: int) -> None:
    """Where the first node fails again and again, the later runs save nothing of their own before they do."""
    trouble = Trouble(node, times)
    await workers.start(chat=trouble.build())
    run = await client.enqueue("chat", HELLO, thread_id="t", stream_mode=["messages", "values"])

    result, requeued = await requeued_until_it_succeeds(client, run.run_id)

    assert requeued == times
    assert [message["content"] for message in result["messages"]] == ["Hello!", "first", "second"]
    assert trouble.ran == [name for name in ("first", "second") for _ in range(times + 1 if name == node else 1)]


async def test_a_run_that_was_rolled_back_begins_anew(client: Client, workers: Workers) -> None:
    trouble = Trouble("second", 1)
    await workers.start(chat=trouble.build())
    run = await client.enqueue("chat", HELLO, thread_id="t", delay=3600)
    await client.stop(run.run_id, action="rollback")
    again = await client.requeue(run.run_id)
    with pytest.raises(RunErrored, match="second fails"):
        await client.wait(again.run_id)
    result, _ = await requeued_until_it_succeeds(client, again.run_id)
    assert [message["content"] for message in result["messages"]] == ["Hello!", "first", "second"]
    assert (await client.get(run.run_id)).status is Status.STOPPED
