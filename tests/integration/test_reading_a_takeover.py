"""A worker is killed in the middle of an answer: what readers are left with is what the run has saved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.processes import Processes
from tests.support.waiting import until

from runstream import Client, Event, Fold, Retraction, Voids, text_of

GRAPH = """
import asyncio
from pathlib import Path
from langgraph.graph import START, MessagesState, StateGraph
from runstream_worker.offline_model import OfflineChatModel

def node(name, delay):
    model = OfflineChatModel(token_delay=delay)

    async def answer(state):
        return {"messages": [await model.ainvoke([("user", f"I am {name}.")])]}

    return answer

async def wait(state):
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return {}

graph = StateGraph(MessagesState)
for name, delay in (("first", 0), ("quick", 0), ("slow", 0.02)):
    graph.add_node(name, node(name, delay))
graph.add_node("wait", wait)
graph.add_edge(START, "first")
for name in ("quick", "slow", "wait"):
    graph.add_edge("first", name)
graph = graph.compile()
"""


@pytest.fixture
async def cli(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        processes.write("graph.py", GRAPH)
        yield processes


async def shown(client: Client, run_id: str, node: str | None = None) -> str:
    """What a reader of the text has on its screen in the end."""
    screen = ""
    async for piece in client.text(run_id, node=node):
        screen = piece.text if isinstance(piece, Retraction) else screen + piece
    return screen


async def last_messages(client: Client, run_id: str) -> list[dict[str, Any]]:
    return [messages async for messages in client.messages(run_id)][-1]


async def folded(client: Client, run_id: str) -> tuple[Fold, list[Event]]:
    fold, kept = Fold(), list[Event]()
    async for event in client.tail(run_id):
        fold.apply(event)
        if voids := Voids.of(event):
            kept = [one for one in kept if not voids.covers(one)]
        kept.append(event)
    return fold, kept


async def test_readers_are_left_with_what_the_run_has_saved(cli: Processes, client: Client) -> None:
    worker = await cli.worker("chat=graph.py", "--checkpointer", "redis")
    run = await client.enqueue("chat", {"messages": [("user", "Hello!")]}, stream_mode=["messages", "values"])
    text, messages = (
        asyncio.create_task(shown(client, run.run_id)),
        asyncio.create_task(last_messages(client, run.run_id)),
    )
    await until(lambda: _slow_one_speaks(client, run.run_id), "the quick node is done, the slow one in the middle")

    worker.command.kill()
    cli.write("go", "")
    await cli.worker("chat=graph.py", "--checkpointer", "redis")

    result = await client.result(run.run_id)
    fold, kept = await folded(client, run.run_id)
    said = [message for message in result["messages"] if message["type"] == "ai"]
    assert (fold.attempt, fold.complete, fold.voided > 0) == (2, True, True)
    assert by_id(fold.messages) == by_id(said)
    assert fold.values == result
    assert by_id(await messages) == by_id(await last_messages(client, run.run_id)) == by_id(said)
    texts = [str(message["content"]) for message in said]
    assert sorted("".join(texts)) == sorted("".join(text_of(event) for event in kept))
    for screen in (await text, await shown(client, run.run_id)):
        assert all(one in screen for one in texts)
        assert len(screen) == sum(map(len, texts))
    assert await shown(client, run.run_id, "slow") == next(text for text in texts if "I am slow." in text)


def by_id(messages: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {message["id"]: message for message in messages}


async def _slow_one_speaks(client: Client, run_id: str) -> bool:
    fold = Fold()
    async with client.tail(run_id) as events:
        for event in await events.batch():
            fold.apply(event)
    types = {
        (fold.metadata_of(message["id"]) or {})["langgraph_node"]: (message["type"], len(message["content"]))
        for message in fold.messages
    }
    return types.get("quick", ("", 0))[0] == "ai" and types.get("slow", ("", 0))[1] > 30
