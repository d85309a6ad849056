"""A run on a worker gives what `astream` and `ainvoke` give in process.

The order is LangGraph's own. Where branches run in parallel it defines none; the graphs here put their branches in one.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send
from tests.support.graphs import ZOO, Case
from tests.support.graphs.model import ScriptedModel
from tests.support.graphs.zoo import (
    HI,
    NONE,
    Steps,
    chat,
    context,
    late_field,
    loop,
    three_steps,
)
from tests.support.parity import MODES, as_json, in_process, normalised, on_worker, unordered
from tests.support.workers import Workers

from runstream import Client, RunErrored, RunTimedOut

MODE_SETS = [
    *([mode] for mode in MODES),
    ["messages", "updates"],
    ["custom", "messages"],
    ["debug", "values"],
    list(MODES),
]
SHAPES = [("v1", False), ("v1", True), ("v2", False), ("v2", True)]


def on_thread(config: Mapping[str, Any], thread_id: str) -> dict[str, Any]:
    return {**config, "configurable": {**config["configurable"], "thread_id": thread_id}}


async def start(workers: Workers, case: Case, *names: str) -> None:
    """A worker that has the same graph under several names, each with a memory of its own."""
    await workers.start(**{name: functools.partial(case.build, InMemorySaver()) for name in names})


@pytest.mark.parametrize("modes", MODE_SETS, ids="+".join)
@pytest.mark.parametrize("case", ZOO, ids=str)
async def test_events_are_the_chunks_of_astream(case: Case, modes: list[str], client: Client, workers: Workers) -> None:
    names = [f"{version}-{subgraphs}" for version, subgraphs in SHAPES]
    await start(workers, case, *names)
    for name, (version, subgraphs) in zip(names, SHAPES, strict=True):
        config = on_thread({"configurable": case.configurable}, name)
        options = {**case.options, "stream_mode": modes, "version": version, "subgraphs": subgraphs}
        saver = InMemorySaver()
        for graph_input, end in zip(case.inputs, case.ends, strict=True):
            expected = await in_process(case.build(saver), graph_input, config, **options)
            published = await on_worker(client, name, graph_input, config, **options)
            same = normalised if case.in_order else unordered
            assert same(published.chunks) == same(expected.chunks), (name, graph_input)
            assert published.error == expected.error
            assert published.error == (case.error if end == "error" else None)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("case", ZOO, ids=str)
async def test_the_result_is_that_of_ainvoke(
    case: Case, version: Literal["v1", "v2"], client: Client, workers: Workers
) -> None:
    await start(workers, case, "graph")
    config = {"configurable": case.configurable}
    options: Any = case.options
    graph = case.build(InMemorySaver())
    for graph_input, end in zip(case.inputs, case.ends, strict=True):
        run = await client.enqueue("graph", graph_input, config=config, thread_id="thread", version=version, **options)
        if case.error is not None:
            with pytest.raises(RunErrored) as caught:
                await client.result(run.run_id)
            error = caught.value.info.error
            assert error is not None
            assert (error.type, error.message) == case.error
            assert caught.value.info.status == end
            continue
        invoked = await graph.ainvoke(graph_input, on_thread(config, "thread"), version=version, **options)
        result = await client.result(run.run_id)
        assert normalised([result]) == normalised([as_json(_v1(invoked) if version == "v2" else invoked)])
        assert (await client.get(run.run_id)).status == end


def _v1(output: Any) -> Any:
    """A `GraphOutput` as v1 has it: the interrupts among the values."""
    values = as_json(output.value)
    if not output.interrupts:
        return values
    return {**(values if isinstance(values, dict) else {}), "__interrupt__": output.interrupts}


async def test_v2_without_values_does_not_need_a_complete_state(client: Client, workers: Workers) -> None:
    """A required field that is written later is no fault of a run that does not ask to see the values."""
    await start(workers, Case("late", late_field, (None,)), "graph")
    config = on_thread({"configurable": {}}, "thread")
    options: dict[str, Any] = {"stream_mode": ["updates"], "version": "v2"}
    expected = await in_process(late_field(InMemorySaver()), {"text": "four"}, config, **options)
    assert expected.error is None
    assert await on_worker(client, "graph", {"text": "four"}, config, **options) == expected


# --- the parameters of astream ----------------------------------------------------------------------------------------


async def compared(client: Client, graph: str, here: Any, graph_input: Any, **options: Any) -> list[Any]:
    """The chunks of one run, which have to be the same on both sides."""
    config = on_thread({"configurable": {}, **options.pop("config", {})}, "thread")
    options = {"stream_mode": list(MODES), **options}
    expected = await in_process(here, graph_input, config, **options)
    published = await on_worker(client, graph, graph_input, config, **options)
    assert normalised(published.chunks) == normalised(expected.chunks)
    assert published.error == expected.error
    return published.chunks


def build_of(name: str) -> Case:
    return next(case for case in ZOO if case.name == name)


async def test_config_reaches_the_metadata_of_messages(client: Client, workers: Workers) -> None:
    await start(workers, build_of("chat"), "graph")
    config = {
        "configurable": {"user": "ada", "limit": 3},
        "tags": ["urgent"],
        "metadata": {"tenant": "t-1"},
        "run_name": "support",
    }
    chunks = await compared(
        client, "graph", chat(InMemorySaver()), HI, config=config, stream_mode=["messages", "checkpoints"]
    )
    metadata = next(chunk["data"][1] for chunk in chunks if chunk["mode"] == "messages")
    assert metadata["tenant"] == "t-1"
    assert "urgent" in metadata["tags"]


async def test_recursion_limit(client: Client, workers: Workers) -> None:
    await start(workers, build_of("loop"), "graph")
    chunks = await compared(client, "graph", loop(InMemorySaver()), NONE, config={"recursion_limit": 2})
    assert chunks


async def test_output_keys(client: Client, workers: Workers) -> None:
    await start(workers, build_of("loop"), "graph")
    await compared(client, "graph", loop(InMemorySaver()), NONE, output_keys=["total"])
    await start(workers, build_of("loop"), "other")
    await compared(client, "other", loop(InMemorySaver()), NONE, output_keys="total")
    saver = InMemorySaver()
    run = await client.enqueue("other", NONE, output_keys="total", thread_id="third")
    thread = {"configurable": {"thread_id": "third"}}
    assert await client.result(run.run_id) == await loop(saver).ainvoke(NONE, thread, output_keys="total")
    run = await client.enqueue("other", NONE, output_keys="missing", thread_id="fourth")
    with pytest.raises(RunErrored, match="missing"):
        await client.result(run.run_id)


@pytest.mark.parametrize("print_options", [{"debug": True}, {"print_mode": ["tasks"]}, {"print_mode": "messages"}])
async def test_printing_changes_nothing_else(
    print_options: dict[str, Any], client: Client, workers: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    await start(workers, build_of("chat"), "graph")
    await compared(client, "graph", chat(InMemorySaver()), HI, **print_options, stream_mode=["updates"])
    printed = capsys.readouterr().out.splitlines()
    marks = [line.partition("]")[0] for line in printed]
    assert marks
    assert marks[: len(marks) // 2] == marks[len(marks) // 2 :], "once here, once on the worker"


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_durability_shows_in_the_history(durability: str, client: Client, workers: Workers) -> None:
    there, here = InMemorySaver(), InMemorySaver()
    await workers.start(graph=three_steps(there))
    await compared(client, "graph", three_steps(here), NONE, durability=durability)
    thread: Any = {"configurable": {"thread_id": "thread"}}
    steps = [[saved.metadata.get("step") async for saved in saver.alist(thread)] for saver in (there, here)]
    assert steps[0] == steps[1]
    assert len(steps[0]) == (1 if durability == "exit" else 5)


@pytest.mark.parametrize(
    "command",
    [
        Command(update={"total": 7}, goto="b"),
        Command(goto=[Send("c", {"steps": ["sent"]}), "b"]),
        Command(update=[("steps", ["given"]), ("total", 1)], goto=["c"]),
    ],
    ids=["update+goto", "sends", "pairs"],
)
async def test_commands(command: Command[Any], client: Client, workers: Workers) -> None:
    here = three_steps(InMemorySaver())
    await start(workers, build_of("interrupt_before"), "graph")
    await compared(client, "graph", here, NONE, interrupt_before=["b"])
    await compared(client, "graph", here, command)


async def test_interrupts_are_answered_by_id(client: Client, workers: Workers) -> None:
    await start(workers, build_of("asking_twice"), "graph")
    run = await client.enqueue("graph", NONE, thread_id="thread")
    asked = (await client.result(run.run_id))["__interrupt__"]
    assert [each["value"] for each in asked] == ["one?", "two?"]
    first = await client.enqueue("graph", Command(resume={asked[1]["id"]: "B"}), thread_id="thread")
    assert [each["value"] for each in (await client.result(first.run_id))["__interrupt__"]] == ["one?"]
    last = await client.enqueue("graph", Command(resume={asked[0]["id"]: "A"}), thread_id="thread")
    assert await client.result(last.run_id) == {"steps": ["one: A", "two: B"]}


@pytest.mark.parametrize(
    "message",
    [
        HumanMessage("hi", id="human-1"),
        {"role": "user", "content": "hi", "id": "human-1"},
        {"type": "human", "content": "hi", "id": "human-1"},
    ],
    ids=["object", "role", "type"],
)
async def test_messages_in_every_form_make_the_same_state(message: Any, client: Client, workers: Workers) -> None:
    await start(workers, build_of("chat"), "graph")
    expected = await chat(InMemorySaver()).ainvoke(HI, {"configurable": {"thread_id": "thread"}})
    run = await client.enqueue("graph", {"messages": [message]}, thread_id="thread")
    assert normalised([await client.result(run.run_id)]) == normalised([as_json(expected)])


@pytest.mark.parametrize("messages", [[("user", "hi")], "hi", HumanMessage("hi")], ids=repr)
async def test_short_forms_of_messages(messages: Any, client: Client, workers: Workers) -> None:
    await start(workers, build_of("chat"), "graph")
    here = chat(InMemorySaver())
    expected = await here.ainvoke({"messages": messages}, {"configurable": {"thread_id": "thread"}})
    run = await client.enqueue("graph", {"messages": messages}, thread_id="thread")
    assert normalised([await client.result(run.run_id)]) == normalised([as_json(expected)])


async def test_wrong_context_is_an_error_of_the_run(client: Client, workers: Workers) -> None:
    await start(workers, build_of("context"), "graph")
    await compared(client, "graph", context(InMemorySaver()), NONE, context={"nam": "Ada"})


async def test_no_input_and_nothing_to_go_on_from(client: Client, workers: Workers) -> None:
    await start(workers, build_of("interrupt_before"), "graph")
    await compared(client, "graph", three_steps(InMemorySaver()), None)


class Tokens(AsyncCallbackHandler):
    """Counts the tokens that it is told of."""

    def __init__(self) -> None:
        self.count = 0

    async def on_llm_new_token(self, token: object, **kwargs: Any) -> None:
        self.count += 1


async def test_what_a_graph_was_configured_with_stays(client: Client, workers: Workers) -> None:
    here, there = Tokens(), Tokens()
    graphs = [
        chat(InMemorySaver()).with_config(callbacks=[tokens], tags=["bound"], metadata={"team": "a"})
        for tokens in (here, there)
    ]
    await workers.start(graph=graphs[1])
    config = {"tags": ["given"], "metadata": {"tenant": "t"}}
    await compared(client, "graph", graphs[0], HI, config=config, stream_mode=["messages", "updates"])
    assert there.count == here.count > 0


# --- what goes wrong in a graph ---------------------------------------------------------------------------------------


def one_node(node: Any) -> Any:
    return StateGraph(Steps).add_node("node", node).add_edge(START, "node").compile()


async def fine(state: Steps) -> Any:
    return {"steps": ["fine"]}


async def goes_on(client: Client) -> None:
    """The worker takes the next run."""
    assert await client.invoke("fine", NONE) == {"steps": ["fine"]}


async def writes_lock(state: Steps) -> Any:
    get_stream_writer()("before")
    get_stream_writer()({"held": [threading.Lock()]})


async def returns_lock(state: Steps) -> Any:
    return {"total": {"lock": threading.Lock()}}


@pytest.mark.parametrize(
    ("node", "modes", "place", "before"),
    [
        (writes_lock, ["custom"], "custom.held[0]", ["before"]),
        (returns_lock, ["updates"], "updates.node.total.lock", []),
        (returns_lock, ["values"], "values.total.lock", [NONE]),
        (returns_lock, ["custom"], "values.total.lock", []),
    ],
    ids=["custom", "updates", "values", "result"],
)
async def test_with_strict_json_what_is_not_json_ends_the_run_and_not_the_worker(
    *, node: Any, modes: Any, place: str, before: list[Any], client: Client, workers: Workers
) -> None:
    # Without checkpoints, so that nothing else trips over it first.
    await workers.start({"checkpointer_url": "none"}, graph=one_node(node), fine=one_node(fine))
    run = await client.enqueue("graph", NONE, stream_mode=modes, strict_json=True)
    with pytest.raises(RunErrored) as caught:
        await client.wait(run.run_id)
    error = caught.value.info.error
    assert error is not None
    assert error.type == "EncodingError"
    assert error.message.startswith(f"{place}: _thread.lock is not JSON")
    assert [event.data async for event in client.tail(run.run_id) if event.is_chunk] == before
    await goes_on(client)


async def test_what_cannot_be_saved_ends_the_run_as_it_does_in_process(client: Client, workers: Workers) -> None:
    await workers.start(graph=one_node(returns_lock), fine=one_node(fine))
    here = StateGraph(Steps).add_node("node", returns_lock).add_edge(START, "node").compile(InMemorySaver())
    config = on_thread({"configurable": {}}, "thread")
    expected = await in_process(here, NONE, config, stream_mode="custom")
    assert expected.error == ("TypeError", "Type is not msgpack serializable: _thread.lock")
    assert await on_worker(client, "graph", NONE, config, stream_mode="custom") == expected
    await goes_on(client)


async def cancels(state: Steps) -> Any:
    raise asyncio.CancelledError("by hand")


class Fatal(BaseException):
    pass


async def fatal(state: Steps) -> Any:
    raise Fatal("at its root")


@pytest.mark.parametrize(
    ("node", "kind"),
    [(cancels, "NodeCancelledError"), (fatal, "Fatal")],
    ids=["cancelled", "base exception"],
)
async def test_a_node_that_raises_no_exception_ends_its_run_only(
    node: Any, kind: str, client: Client, workers: Workers
) -> None:
    await workers.start(graph=one_node(node), fine=one_node(fine))
    with pytest.raises(RunErrored) as caught:
        await client.invoke("graph", NONE)
    assert caught.value.info.error is not None
    assert caught.value.info.error.type == kind
    await goes_on(client)


async def never_ends(state: Steps) -> Any:
    get_stream_writer()("waiting")
    await asyncio.Event().wait()


async def test_a_node_that_never_ends_is_timed_out(client: Client, workers: Workers) -> None:
    await workers.start(graph=one_node(never_ends), fine=one_node(fine))
    run = await client.enqueue("graph", NONE, timeout=0.2, stream_mode="custom")
    with pytest.raises(RunTimedOut, match=r"0\.2 s"):
        await client.wait(run.run_id)
    assert [event.data async for event in client.tail(run.run_id) if event.is_chunk] == ["waiting"]
    await goes_on(client)


async def blocks(state: Steps) -> Any:
    time.sleep(1.5)  # noqa: ASYNC251 - what user code does, and must not do
    return {"steps": ["slept"]}


async def test_a_node_that_blocks_the_loop_keeps_its_run(client: Client, workers: Workers) -> None:
    await workers.start({"lease": 1.0, "beat_interval": 0.2}, graph=one_node(blocks))
    run = await client.enqueue("graph", NONE)
    assert await client.result(run.run_id) == {"steps": ["slept"]}
    assert (await client.get(run.run_id)).attempt == 1


@pytest.mark.parametrize("sync", [False, True], ids=["async node", "sync node"])
async def test_a_model_that_is_faster_than_the_events_leave(
    sync: bool, client: Client, workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    """Back-pressure holds the model back, wherever its node runs, and changes nothing else."""
    model = ScriptedModel(replies=[AIMessage(" word" * 300)])

    def sync_node(state: Steps) -> Any:
        return {"steps": [model.invoke("go").text]}

    async def async_node(state: Steps) -> Any:
        return {"steps": [(await model.ainvoke("go")).text]}

    graph = one_node(sync_node if sync else async_node)
    await workers.start({"buffer_events": 2}, graph=graph)
    await compared(client, "graph", graph, NONE, stream_mode=["messages", "updates"])
    assert not caplog.records


async def test_a_model_that_blocks_the_loop_is_not_held_back_for_ever(client: Client, workers: Workers) -> None:
    """A model's `invoke` in an async node: nothing can be published before it returns."""
    model = ScriptedModel(replies=[AIMessage(" word" * 300)])

    async def node(state: Steps) -> Any:
        return {"steps": [model.invoke("go").text]}

    graph = one_node(node)
    await workers.start({"buffer_events": 2}, graph=graph)
    await compared(client, "graph", graph, NONE, stream_mode=["messages", "updates"])
