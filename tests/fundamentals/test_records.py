"""The mode `events`: the records of `astream_events`, beside the chunks of `astream`, which stay what they are."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from contextlib import aclosing
from typing import Any, Literal

import orjson
import pytest
from langchain_core.callbacks import adispatch_custom_event
from langchain_core.messages import AIMessageChunk
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.prebuilt import ToolRuntime
from tests.support.graphs import ZOO, Case
from tests.support.graphs.zoo import Steps, agent, chat, loop
from tests.support.parity import MODES, as_json, normalised, on_worker, unordered
from tests.support.workers import Workers

from runstream import Client, RunErrored
from runstream.model import STREAM_MODES
from runstream_worker.chunks import Chunk, chunks
from runstream_worker.encoding import MAX_DEPTH, JsonEncoder
from runstream_worker.origins import Origins

HI: dict[str, Any] = {"messages": [{"type": "human", "content": "hi", "id": "h"}]}
KEYS = {"event", "name", "run_id", "tags", "metadata", "data", "parent_ids"}


async def emitted(case: Case, saver: Any, graph_input: Any, modes: list[str], **options: Any) -> list[Chunk | str]:
    """What a graph emits, and what it raises in the end."""
    graph = case.build(saver).copy(update={"stream_eager": True})
    config = {"configurable": {"thread_id": "t", **case.configurable}}
    found: list[Chunk | str] = []
    try:
        stream = chunks(graph, graph_input, config, modes=modes, **{**case.options, **options})
        async with aclosing(stream) as running:
            async for chunk in running:
                # At once, as a worker does: LangGraph goes on changing some of what it has emitted.
                found.append(chunk._replace(data=orjson.loads(JsonEncoder().encode_data(chunk.mode, chunk.data))))  # noqa: PERF401 - and keep it
    except Exception as error:  # noqa: BLE001 - whatever the graph raises is compared
        found.append(f"{type(error).__name__}: {error}")
    return found


def told(found: list[Chunk | str]) -> list[Any]:
    return [as_json(one._asdict()) if isinstance(one, Chunk) else one for one in found]


@pytest.mark.parametrize("subgraphs", [False, True])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("case", ZOO, ids=str)
async def test_the_chunks_are_the_same_with_records_and_without(
    case: Case, version: Literal["v1", "v2"], subgraphs: bool
) -> None:
    savers = InMemorySaver(), InMemorySaver()
    options = {"version": version, "subgraphs": subgraphs}
    for graph_input in case.inputs:
        without = await emitted(case, savers[0], graph_input, list(MODES), **options)
        both = await emitted(case, savers[1], graph_input, [*MODES, "events"], **options)
        chunks_of_both = [one for one in both if isinstance(one, str) or one.mode != "events"]
        # Callbacks take their time, so branches that run at once may have another order.
        form: Any = unordered if case.name.startswith("parallel") else normalised
        assert form(told(chunks_of_both)) == form(told(without))
        assert len(both) > len(chunks_of_both)


def places_of_records(found: list[Chunk | str]) -> dict[str, tuple[str, Any]]:
    """The namespace and the step of each task that has records, which all have the same and come before its result."""
    origins, results, places = Origins(), set[str](), defaultdict[str, set[Any]](set)
    for one in (one for chunk in found if isinstance(chunk, Chunk) for one in origins.place(chunk)):
        data: Any = one.chunk.data
        if one.chunk.mode == "tasks" and "result" in data:
            results.add(data["id"])
        elif one.chunk.mode == "events":
            assert data.keys() == KEYS
            assert one.task not in results
            # A record of no task is one of the graph itself.
            assert (one.task is None) == (not data["parent_ids"])
            assert None not in one.steps
            if one.task is not None:
                places[one.task].add(("|".join(one.chunk.ns), one.steps[-1]))
    assert {len(each) for each in places.values()} == {1}
    return {task: place for task, (place,) in places.items()}


@pytest.mark.parametrize("subgraphs", [False, True])
@pytest.mark.parametrize("case", ZOO, ids=str)
async def test_the_records_of_a_task_are_placed_where_the_checkpointer_has_it(case: Case, subgraphs: bool) -> None:
    saver = InMemorySaver()
    for graph_input in case.inputs:
        found = await emitted(case, saver, graph_input, [*MODES, "events"], version="v1", subgraphs=subgraphs)
        places = places_of_records(found)
        async for kept in saver.alist({"configurable": {"thread_id": "t"}}):
            ns, step = kept.config["configurable"]["checkpoint_ns"], (kept.metadata.get("step") or 0) + 1
            for task, _, _ in kept.pending_writes or ():
                assert places.get(task, (ns, step)) == (ns, step)


async def test_a_run_with_all_modes(client: Client, workers: Workers) -> None:
    await workers.start(agent=agent(InMemorySaver()))
    run = await client.enqueue("agent", HI, stream_mode=list(STREAM_MODES), config={"tags": ["mine"]})
    events = [event async for event in client.tail(run.run_id)]

    assert {event.mode for event in events} == {*STREAM_MODES, "attempt", "end"}
    records = [event.data for event in events if event.mode == "events"]
    root = [record for record in records if not record["parent_ids"]]
    assert [(record["event"], record["run_id"]) for record in root] == [
        ("on_chain_start", run.run_id),
        ("on_chain_end", run.run_id),
    ]
    assert root[0]["data"] == {"input": HI}
    assert root[1]["data"] == {"output": await client.result(run.run_id)}
    assert {"on_chat_model_start", "on_chat_model_stream", "on_chat_model_end", "on_tool_start", "on_tool_end"} < {
        record["event"] for record in records
    }
    messages = [event.data[0] for event in events if event.mode == "messages"]
    streamed = [record["data"]["chunk"] for record in records if record["event"] == "on_chat_model_stream"]
    assert streamed == [message for message in messages if message["type"] == "AIMessageChunk"]
    tasks = {event.data["id"] for event in events if event.mode == "tasks"}
    assert {event.task for event in events if event.mode == "events"} - {None} <= tasks


async def test_events_alone(client: Client, workers: Workers) -> None:
    """A model streams for them, and what a worker needs beside them nobody sees."""
    await workers.start(chat=chat(InMemorySaver()))
    run = await client.enqueue("chat", HI, stream_mode="events")
    events = [event async for event in client.tail(run.run_id)]
    assert {event.mode for event in events[1:-1]} == {"events"}
    streamed = [e.data["data"]["chunk"]["content"] for e in events[1:-1] if e.data["event"] == "on_chat_model_stream"]
    assert len(streamed) > 1
    assert "".join(streamed) == (await client.result(run.run_id))["messages"][-1]["content"]
    assert (await client.get(run.run_id)).stream_mode == ["events"]


@pytest.mark.parametrize("checkpointer", ["worker's", "none"])
async def test_the_other_modes_are_those_of_a_run_without(checkpointer: str, client: Client, workers: Workers) -> None:
    settings = {"checkpointer_url": "none"} if checkpointer == "none" else {}
    await workers.start(settings, graph=agent(None))  # type: ignore[arg-type]
    config = {"configurable": {"thread_id": "one"}}
    without = await on_worker(client, "graph", HI, config, stream_mode=list(MODES), subgraphs=True)
    config = {"configurable": {"thread_id": "two"}}
    both = await on_worker(client, "graph", HI, config, stream_mode=[*MODES, "events"], subgraphs=True)
    rest = [chunk for chunk in both.chunks if chunk["mode"] != "events"]
    assert json.loads(json.dumps(normalised(rest)).replace("two", "one")) == normalised(without.chunks)


# --- what JSON cannot carry -------------------------------------------------------------------------------------------


class Connection:
    """Something that has a secret."""

    def __repr__(self) -> str:
        return "password"


def encoded(data: object) -> Any:
    return orjson.loads(JsonEncoder().encode_data("events", {"event": "on_custom_event", "data": data}))["data"]


def test_what_json_cannot_carry_has_something_in_its_place() -> None:
    there = {"lc": 1, "type": "not_implemented", "id": [*__name__.split("."), "Connection"]}
    message = AIMessageChunk(content="hi", id="1")
    assert encoded({"a": [Connection(), 1], "message": message, "lock": threading.Lock(), "huge": 2**70}) == {
        "a": [there, 1],
        "message": message.model_dump(),
        "lock": {"lc": 1, "type": "not_implemented", "id": ["_thread", "lock"]},
        "huge": 2**70,
    }
    assert encoded(AIMessageChunk(content="hi", additional_kwargs={"connection": Connection()}))[
        "additional_kwargs"
    ] == {"connection": there}


def test_configs_and_runtimes_are_not_shown() -> None:
    config: Any = {"configurable": {"api_key": "password"}, "callbacks": object()}
    runtime: Any = ToolRuntime(
        state={}, context=None, config=config, stream_writer=print, tool_call_id="1", store=None, tools=[]
    )
    shown = encoded({"runtime": runtime, "config": config})
    assert "password" not in str(shown)
    assert shown["runtime"]["id"][-1] == "ToolRuntime"


def test_what_has_no_end_has_one() -> None:
    endless: list[Any] = [1]
    endless.append(endless)
    assert encoded(endless) == [1, {"lc": 1, "type": "not_implemented", "id": ["builtins", "list"]}]
    deep: list[Any] = []
    for _ in range(2 * MAX_DEPTH):
        deep = [deep]
    assert b"not_implemented" in JsonEncoder().encode_data("events", {"data": deep})
    assert encoded({(1, 2): "x"}) == {"lc": 1, "type": "not_implemented", "id": ["builtins", "dict"]}


async def test_it_does_not_fail_the_run(client: Client, workers: Workers) -> None:
    async def node(state: Steps) -> Any:
        await adispatch_custom_event("progress", {"connection": Connection(), "done": 0.5})
        return {"steps": ["fine"]}

    await workers.start(graph=StateGraph(Steps).add_node("node", node).add_edge(START, "node").compile())
    run = await client.enqueue("graph", {"steps": []}, stream_mode="events", config={"configurable": {"key": "secret"}})
    assert await client.result(run.run_id) == {"steps": ["fine"]}
    events = [event async for event in client.tail(run.run_id)]
    (custom,) = [event for event in events if event.is_chunk and event.data["event"] == "on_custom_event"]
    assert (custom.data["name"], custom.data["data"]["done"]) == ("progress", 0.5)
    assert custom.data["data"]["connection"]["id"][-1] == "Connection"
    assert custom.data["metadata"]["langgraph_node"] == "node"
    assert custom.task == custom.data["metadata"]["langgraph_checkpoint_ns"].partition(":")[2]
    assert "secret" not in str(events)


# --- how it ends ------------------------------------------------------------------------------------------------------


async def test_a_graph_that_raises(client: Client, workers: Workers) -> None:
    async def node(state: Steps) -> Any:
        raise ValueError("boom")

    await workers.start(graph=StateGraph(Steps).add_node("node", node).add_edge(START, "node").compile())
    with pytest.raises(RunErrored, match="ValueError: boom"):
        await client.invoke("graph", {"steps": []}, stream_mode=["events", "updates"])


async def test_the_recursion_limit_is_langgraphs(client: Client, workers: Workers) -> None:
    """LangChain's `astream_events` has a lower one of its own."""
    graph = loop(InMemorySaver()).with_config(recursion_limit=2)
    await workers.start(graph=graph)
    with pytest.raises(RunErrored, match=r"GraphRecursionError.*limit of 2 "):
        await client.invoke("graph", {"steps": []}, stream_mode="events")
    assert await client.invoke("graph", {"steps": []}, stream_mode="events", config={"recursion_limit": 40})


async def test_leaving_early_stops_the_graph() -> None:
    stopped = asyncio.Event()

    async def endless(state: Steps) -> Any:
        get_stream_writer()("started")
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    graph = StateGraph(Steps).add_node("endless", endless).add_edge(START, "endless").compile()
    async with aclosing(chunks(graph, {"steps": []}, {}, modes=["custom", "events"], version="v2")) as running:
        async for chunk in running:
            if chunk.mode == "custom":
                break
    assert stopped.is_set()


async def test_the_graph_does_not_run_ahead_of_its_reader() -> None:
    """Whoever reads holds the graph back, step by step."""
    ran: list[int] = []

    async def step(state: Steps) -> Any:
        ran.append(state.get("total", 0))
        return {"total": state.get("total", 0) + 1}

    graph = StateGraph(Steps).add_sequence([(name, step) for name in "abcdefgh"]).add_edge(START, "a").compile()
    async with aclosing(chunks(graph, {"total": 0}, {}, modes=["updates", "events"], version="v1")) as running:
        async for chunk in running:
            if chunk.mode == "updates":
                break
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(ran) <= 2
