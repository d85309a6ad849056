"""`RemoteGraph`: a graph of the server as if it were a local one."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.pregel.remote import RemoteException, RemoteGraph
from langgraph.types import Command
from langgraph_sdk.client import LangGraphClient, SyncLangGraphClient
from tests.support.sdk_parts import human
from typing_extensions import TypedDict

Make = Callable[[str], RemoteGraph]


class Steps(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]


@pytest.fixture
def remote(async_client: LangGraphClient, sync_client: SyncLangGraphClient) -> Make:
    """A graph of the server, by name."""
    return lambda name: RemoteGraph(name, client=async_client, sync_client=sync_client)


def on(thread_id: str) -> Any:
    """The config of a thread."""
    return {"configurable": {"thread_id": thread_id}}


async def test_ainvoke(remote: Make, thread_id: str) -> None:
    values = await remote("chat").ainvoke(human("hi"), on(thread_id))
    assert values["messages"][-1]["content"] == "You said: hi"


def test_invoke(remote: Make, thread_id: str) -> None:
    values = remote("chat").invoke(human("hi"), on(thread_id))
    assert values["messages"][-1]["content"] == "You said: hi"


async def test_without_a_thread(remote: Make) -> None:
    values = await remote("parallel").ainvoke({"steps": ["given"]})
    assert values["steps"] == ["given", "left", "right", "joined"]


async def test_astream(remote: Make, thread_id: str) -> None:
    assert [chunk async for chunk in remote("parallel").astream({}, on(thread_id), stream_mode="values")][-1] == {
        "steps": ["left", "right", "joined"]
    }
    updates = [chunk async for chunk in remote("slow").astream({"ticks": 0}, on(thread_id))]
    assert updates == [
        {"begin": {"steps": ["begin"]}},
        {"tick": {"steps": ["tick"]}},
        {"finish": {"steps": ["finish"]}},
    ]


async def test_astream_of_tokens(remote: Make, thread_id: str) -> None:
    stream: AsyncIterator[Any] = remote("chat").astream(human("hi"), on(thread_id), stream_mode="messages")
    chunks = [chunk async for chunk in stream]
    assert "".join(message["content"] for message, _ in chunks) == "You said: hi"
    assert {metadata["langgraph_node"] for _, metadata in chunks} == {"answer"}


def test_stream(remote: Make, thread_id: str) -> None:
    stream: Iterator[Any] = remote("slow").stream(
        {"ticks": 2, "delay": 0.0}, on(thread_id), stream_mode=["updates", "custom"]
    )
    chunks = list(stream)
    assert [(chunk.event, chunk.data) for chunk in chunks if chunk.event == "custom"] == [
        ("custom", {"tick": 0}),
        ("custom", {"tick": 1}),
    ]
    assert [list(chunk.data) for chunk in chunks if chunk.event == "updates"] == [["begin"], ["tick"], ["finish"]]


async def test_astream_with_subgraphs(remote: Make, thread_id: str) -> None:
    chunks = [chunk async for chunk in remote("parent").astream({}, on(thread_id), subgraphs=True)]
    where = [namespace[0].split(":")[0] if namespace else "" for namespace, _ in chunks]
    assert where == ["child", "", ""]


async def test_errors(remote: Make, thread_id: str) -> None:
    with pytest.raises(RemoteException, match="boom"):
        await remote("failing").ainvoke({}, on(thread_id))


async def test_the_state(remote: Make, thread_id: str) -> None:
    graph = remote("chat")
    values = await graph.ainvoke(human("hi"), on(thread_id))
    state = await graph.aget_state(on(thread_id))
    assert state.values == values
    assert state.next == ()
    assert state.parent_config is not None
    parent = await graph.aget_state(state.parent_config)
    assert parent.next == ("answer",)
    assert await asyncio.to_thread(graph.get_state, on(thread_id)) == state
    history = [one async for one in graph.aget_state_history(on(thread_id))]
    assert history[0] == state
    assert len(history) == 3


async def test_updating_the_state(remote: Make, thread_id: str) -> None:
    graph = remote("slow")
    await graph.ainvoke({"ticks": 0}, on(thread_id), interrupt_before=["tick"])
    config = await graph.aupdate_state(on(thread_id), {"steps": ["instead"]}, as_node="tick")
    state = await graph.aget_state(on(thread_id))
    assert state.config["configurable"]["checkpoint_id"] == config["configurable"]["checkpoint_id"]
    assert state.next == ("finish",)
    assert (await graph.ainvoke(None, on(thread_id)))["steps"] == ["begin", "instead", "finish"]


async def test_interrupts(remote: Make, thread_id: str) -> None:
    graph = remote("approval")
    values = await graph.ainvoke({}, on(thread_id))
    assert [asked["value"] for asked in values["__interrupt__"]] == [{"question": "go on?"}]
    state = await graph.aget_state(on(thread_id))
    assert [interrupt.value for interrupt in state.interrupts] == [{"question": "go on?"}]
    assert state.next == ("ask",)
    values = await graph.ainvoke(Command(resume="yes"), on(thread_id))
    assert values["steps"] == ["plan", "answer: yes", "act"]


async def test_the_drawing(remote: Make) -> None:
    graph = await remote("agent").aget_graph()
    assert set(graph.nodes) == {"__start__", "model", "tools", "__end__"}
    assert "tools" in graph.draw_mermaid()
    assert set((await asyncio.to_thread(remote("parent").get_graph, xray=True)).nodes) >= {"child:inner", "outer"}


async def test_a_node_of_a_local_graph(remote: Make) -> None:
    async def before(state: Steps) -> Any:
        return {"steps": ["local"]}

    graph = (
        StateGraph(Steps)
        .add_node("before", before)
        .add_node("remote", remote("parallel"))
        .add_edge(START, "before")
        .add_edge("before", "remote")
        .compile()
    )
    values = await graph.ainvoke({})
    assert values["steps"][:1] == ["local"]
    assert values["steps"][-3:] == ["left", "right", "joined"]
    chunks = [chunk async for chunk in graph.astream({}, stream_mode="updates", subgraphs=True)]
    inner = [next(iter(update)) for namespace, update in chunks if namespace]
    assert sorted(inner) == ["joined", "left", "right"]


async def test_an_interrupt_of_a_remote_node(remote: Make, thread_id: str) -> None:
    graph = (
        StateGraph(Steps)
        .add_node("approval", remote("approval"))
        .add_edge(START, "approval")
        .compile(checkpointer=InMemorySaver())
    )
    values = await graph.ainvoke({}, on(thread_id))
    assert [interrupt.value for interrupt in values["__interrupt__"]] == [{"question": "go on?"}]
