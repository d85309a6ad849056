"""What readers of messages hold is what the run has saved: by the model's call, and without what was removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import httpx
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk
from langgraph.graph import START, StateGraph, add_messages
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from tests.support.graphs.model import ScriptedModel
from tests.support.processes import Processes
from tests.support.workers import Workers

from runstream import Client, InvalidRequest
from runstream_gateway.app import create_app
from runstream_gateway.core import open_gateway
from runstream_gateway.settings import GatewaySettings
from runstream_worker.graphs import graph_source

HI = {"messages": [{"type": "human", "content": "Hi!", "id": "hi"}]}


class Chat(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


class Providing(ScriptedModel):
    """Sends its own id with one chunk only, as OpenAI's Responses API does."""

    at: int = 1
    delay: float = 0.0

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        number, own_id = 0, f"resp_{uuid4()}"
        async for chunk in super()._astream(*args, **kwargs):
            number += 1
            await asyncio.sleep(self.delay)
            if number == self.at:
                chunk.message.id = own_id
            yield chunk


def graph_of(*nodes: Any) -> Any:
    return StateGraph(Chat).add_sequence([*nodes]).add_edge(START, nodes[0].__name__).compile()


async def held(client: Client, run_id: str, **options: Any) -> list[tuple[str, str, str]]:
    """What `client.messages` ends with."""
    last: Sequence[Any] = ()
    async for messages in client.messages(run_id, **options):
        last = messages
    return identities(last)


def identities(messages: Sequence[Any]) -> list[tuple[str, str, str]]:
    return [(message["id"], message["type"], message["content"]) for message in messages]


async def saved(client: Client, run_id: str) -> list[tuple[str, str, str]]:
    """What the run has saved, but for what it was given."""
    result = await client.result(run_id)
    return [message for message in identities(result["messages"]) if message[0] != "hi"]


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_two_models_that_speak_at_once_in_one_node_are_not_swapped(
    at: int, client: Client, workers: Workers
) -> None:
    names = ("Alpha", "Beta", "Gamma")
    models = [Providing(replies=[AIMessage(f"I am {name}.")], at=at, delay=0.002 * n) for n, name in enumerate(names)]

    async def node(state: Chat) -> Any:
        return {"messages": await asyncio.gather(*(model.ainvoke("Who?") for model in models))}

    await workers.start(graph=graph_of(node))
    run = await client.enqueue("graph", HI, stream_mode="messages")
    found = await held(client, run.run_id)
    assert sorted(found) == sorted(await saved(client, run.run_id))
    assert sorted(text for _, _, text in found) == [f"I am {name}." for name in names]


def ai(message_id: str, text: str) -> AIMessage:
    return AIMessage(text, id=message_id)


async def says(state: Chat) -> Any:
    return {"messages": [ai("1", "one"), ai("2", "two"), ai("3", "three")]}


async def removes_all(state: Chat) -> Any:
    return {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), HumanMessage("a summary", id="s")]}


async def removes_all_and_keeps_some(state: Chat) -> Any:
    kept = [message for message in state["messages"] if message.id in ("2", "3")]
    return {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), kept[1], HumanMessage("new", id="n"), kept[0]]}


async def removes_one(state: Chat) -> Any:
    return {"messages": [RemoveMessage("2")]}


async def puts_back(state: Chat) -> Any:
    return {"messages": [ai("2", "two again")]}


async def removes_and_puts_back(state: Chat) -> Any:
    return {"messages": [RemoveMessage("2"), ai("2", "changed"), RemoveMessage("3")]}


async def streams_and_removes_the_rest(state: Chat) -> Any:
    reply = await ScriptedModel(replies=[AIMessage("a fresh start")]).ainvoke("go")
    return {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), state["messages"][2], reply]}


@pytest.mark.parametrize("url", ["none", "redis"])
@pytest.mark.parametrize(
    "nodes",
    [
        [says, removes_all],
        [says, removes_all_and_keeps_some],
        [says, removes_one],
        [says, removes_one, puts_back],
        [says, removes_all, puts_back],
        [says, removes_and_puts_back],
        [says, streams_and_removes_the_rest],
    ],
    ids=lambda nodes: nodes[-1].__name__,
)
async def test_what_a_node_removes_is_gone_and_what_it_keeps_stays(
    nodes: Any, url: str, client: Client, workers: Workers
) -> None:
    await workers.start({"checkpointer_url": url}, graph=graph_of(*nodes))
    run = await client.enqueue("graph", HI, stream_mode="messages")
    assert await held(client, run.run_id) == await saved(client, run.run_id)


async def test_the_summarisation_of_langchain(client: Client, workers: Workers) -> None:
    def look_up(word: str) -> str:
        """Look a word up."""
        return f"{word} is a word"

    calls = [{"name": "look_up", "args": {"word": "w" * 50}, "id": f"call_{n}", "type": "tool_call"} for n in range(4)]
    replies = [AIMessage("Let me see.", tool_calls=[call]) for call in calls]
    model = Counting(replies=[*replies, AIMessage("Done.")])
    summary = ScriptedModel(replies=[AIMessage("much was said")])
    middleware = SummarizationMiddleware(summary, trigger=("messages", 5), keep=("messages", 2))
    await workers.start(graph=create_agent(model, [look_up], middleware=[middleware]))
    run = await client.enqueue("graph", HI, stream_mode="messages")
    everything = await held(client, run.run_id)
    summaries = [one for one in everything if one[2] == "much was said"]
    assert [one for one in everything if one not in summaries] == await saved(client, run.run_id)


class Counting(ScriptedModel):
    """Gives its replies in turn, whatever is left of the conversation."""

    given: int = 0

    def _reply(self, messages: Any) -> AIMessage:
        object.__setattr__(self, "given", self.given + 1)
        return self.replies[self.given - 1]


async def test_a_removal_in_a_subgraph_leaves_the_messages_of_the_graph(client: Client, workers: Workers) -> None:
    class Inner(TypedDict):
        notes: Annotated[list[AnyMessage], add_messages]

    async def writes(state: Inner) -> Any:
        return {"notes": [ai("i1", "inner one"), ai("i2", "inner two")]}

    async def clears(state: Inner) -> Any:
        return {"notes": [RemoveMessage(REMOVE_ALL_MESSAGES), ToolMessage("kept", tool_call_id="c", id="i3")]}

    inner = StateGraph(Inner).add_sequence([writes, clears]).add_edge(START, "writes").compile()

    async def calls_inner(state: Chat) -> Any:
        await inner.ainvoke({"notes": []})
        return {"messages": [ai("4", "four")]}

    await workers.start(graph=graph_of(says, calls_inner))
    run = await client.enqueue("graph", HI, stream_mode="messages", subgraphs=True)
    found = [message_id for message_id, *_ in await held(client, run.run_id)]
    assert sorted(found) == ["1", "2", "3", "4", "i3"]


def nested() -> Any:
    """A graph and, below it, two subagents, one of which has another below it; each has a node `model`."""

    def agent(word: str, *below: Any) -> Any:
        async def model(state: Chat) -> Any:
            return {"messages": [await ScriptedModel(replies=[AIMessage(word)]).ainvoke("go")]}

        graph = StateGraph(Chat).add_node("model", model).add_edge(START, "model")
        before = "model"
        for name, inner in below:
            graph.add_node(name, calling(inner)).add_edge(before, name)
            before = name
        return graph.compile()

    def calling(inner: Any) -> Any:
        async def call(state: Chat) -> Any:
            await inner.ainvoke({"messages": []})
            return {}

        return call

    research = agent("research", ("search", agent("search")))
    return agent("main", ("research", research), ("writer", agent("writer")))


WORDS = [
    ({}, "main research search writer"),
    ({"node": "model"}, "main"),
    ({"ns": ""}, "main"),
    ({"node": "model", "ns": "*"}, "main research search writer"),
    ({"ns": "research"}, "research"),
    ({"ns": "research|search"}, "search"),
    ({"node": ["model"], "ns": ["", "writer"]}, "main writer"),
    ({"node": "other"}, ""),
    ({"ns": "nobody"}, ""),
]


@pytest.mark.parametrize(("asked", "words"), WORDS, ids=str)
async def test_the_words_of_subagents_are_not_the_main_agents(
    asked: dict[str, Any], words: str, client: Client, workers: Workers
) -> None:
    await workers.start(graph=nested())
    run = await client.enqueue("graph", HI, stream_mode="messages", subgraphs=True)
    for settled in (False, True):
        pieces = [str(piece) async for piece in client.text(run.run_id, settled=settled, **asked)]
        assert pieces == words.split()
    assert [text.strip() for _, _, text in await held(client, run.run_id, **asked)] == words.split()


async def test_a_subgraph_by_its_tasks_ids(client: Client, workers: Workers) -> None:
    await workers.start(graph=nested())
    run = await client.enqueue("graph", HI, stream_mode="messages", subgraphs=True)
    for ns in {event.ns async for event in client.tail(run.run_id) if event.ns}:
        pieces = [str(piece) async for piece in client.text(run.run_id, ns="|".join(ns))]
        assert "".join(pieces).strip() == ns[-1].partition(":")[0]
    with pytest.raises(InvalidRequest, match=r"^ns: "):
        await anext(client.text(run.run_id, ns=[7]))  # type: ignore[list-item]


ASKED: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
    (("--node", "model"), {"node": "model"}, "main"),
    (("--ns", "*"), {"ns": "*"}, "main research search writer"),
    (("--node", "model", "--ns", "research"), {"node": "model", "ns": "research"}, "research"),
    (("--ns", "", "--ns", "writer"), {"ns": ["", "writer"]}, "main writer"),
]


async def test_the_command_line_and_the_gateway_take_namespaces(
    client: Client, workers: Workers, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    await workers.start(graph=nested())
    thread_id = str(uuid4())
    run = await client.enqueue("graph", HI, stream_mode="messages", subgraphs=True, thread_id=thread_id)
    await client.wait(run.run_id)
    settings = GatewaySettings(redis_url=redis_url, namespace=namespace)
    async with (
        Processes(redis_url, namespace, tmp_path) as cli,
        open_gateway({"graph": graph_source("graph", nested())}, settings) as gateway,
        httpx.AsyncClient(transport=httpx.ASGITransport(create_app(gateway)), base_url="http://gateway") as http,
    ):
        for options, query, words in ASKED:
            pieces = await cli.run("tail", run.run_id, "--text", "--json", *options)
            assert [piece["text"] for piece in pieces.json_lines] == words.split()
            events = await cli.run("tail", run.run_id, "--mode", "messages", *options)
            said = [one["data"][0]["content"] for one in events.json_lines]
            assert [one for one in said if one] == words.split()
            answer = await http.get(f"/threads/{thread_id}/runs/{run.run_id}/text", params=query)
            assert (answer.status_code, answer.text.strip()) == (200, words.replace(" ", ""))
