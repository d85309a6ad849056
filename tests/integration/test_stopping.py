"""Stopping a run stops all of it, wherever it is, and says so once."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolCall
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from redis.asyncio import Redis
from tests.support.graphs.model import ScriptedModel
from tests.support.stage import Play, Stage
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, RunStopped, Status, StopResult
from runstream.keys import Keys


class State(TypedDict, total=False):
    done: list[str]
    talk: bool


class Steps(TypedDict, total=False):
    one: bool
    two: bool


class Silence:
    """Something that says nothing until it is cancelled."""

    def __init__(self) -> None:
        self.inside: Counter[str] = Counter()
        self.cancelled: Counter[str] = Counter()

    async def keep(self, name: str) -> None:
        self.inside[name] += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled[name] += 1
            raise

    def node(self, name: str) -> Any:
        async def run(state: Any) -> Any:
            await self.keep(name)

        return run

    def graph(self, *names: str) -> Any:
        graph = StateGraph(State)
        for name in names:
            graph.add_node(name, self.node(name)).add_edge(START, name)
        return graph


def in_parallel(silence: Silence) -> Any:
    return silence.graph("a", "b", "c").compile()


def in_subgraphs(silence: Silence) -> Any:
    inner = silence.graph("a", "b").compile()
    middle = StateGraph(State).add_node("inner", inner).add_edge(START, "inner").compile()
    return StateGraph(State).add_node("middle", middle).add_edge(START, "middle").compile()


def in_a_called_subgraph(silence: Silence) -> Any:
    inner = silence.graph("a").compile()

    async def call(state: State) -> Any:
        return await inner.ainvoke(state)

    return StateGraph(State).add_node("call", call).add_edge(START, "call").compile()


def in_tools(silence: Silence) -> Any:
    @tool
    async def wait(city: str) -> str:
        """Wait."""
        await silence.keep(city)
        return city

    calls = [ToolCall(name="wait", args={"city": "Bern"}, id=f"call_{n}", type="tool_call") for n in range(2)]
    return create_agent(ScriptedModel(replies=[AIMessage("", tool_calls=calls)]), [wait])


def in_tasks(silence: Silence) -> Any:
    @task
    async def keep(name: str) -> None:
        await silence.keep(name)

    @entrypoint()
    async def workflow(given: Any) -> Any:
        await asyncio.gather(keep("a"), keep("b"))

    return workflow


@pytest.mark.parametrize("subgraphs", [False, True])
@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (in_parallel, {"a": 1, "b": 1, "c": 1}),
        (in_subgraphs, {"a": 1, "b": 1}),
        (in_a_called_subgraph, {"a": 1}),
        (in_tools, {"Bern": 2}),
        (in_tasks, {"a": 1, "b": 1}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_whatever_is_under_way_is_cancelled(
    build: Any, expected: dict[str, int], subgraphs: bool, client: Client, workers: Workers
) -> None:
    silence = Silence()
    # So long between two beats that only the bell can have told the worker.
    await workers.start({"beat_interval": 30.0, "poll_interval": 10.0, "lease": 90.0}, silent=build(silence))
    given = {"messages": [["user", "hi"]]} if build is in_tools else {"done": []}
    run = await client.enqueue("silent", given, subgraphs=subgraphs, stream_mode=["updates", "messages"])
    await until(lambda: silence.inside == expected, "everything waits")
    assert await client.stop(run.run_id, reason="enough") == StopResult("stopping", Status.RUNNING)
    with pytest.raises(RunStopped, match="enough"):
        await client.wait(run.run_id)
    assert silence.cancelled == expected
    ends = [event.data for event in [event async for event in client.tail(run.run_id)] if event.mode == "end"]
    assert [(end["status"], end["reason"]) for end in ends] == [("stopped", "enough")]


async def test_what_was_saved_before_a_stop_stays(
    client: Client, workers: Workers, redis: Redis, namespace: str
) -> None:
    stage = Stage()
    play = Play(client, workers, redis, namespace, stage)
    stage.hold("two")
    graph = StateGraph(Steps).add_sequence([(name, _step(stage, name)) for name in ("one", "two")])
    await play.start_worker(graph.add_edge(START, "one").compile())
    run = await client.enqueue("play", {}, thread_id="t")
    await until(lambda: stage.entered["two"] == 1, "the run is held")
    await client.stop(run.run_id)
    with pytest.raises(RunStopped):
        await client.wait(run.run_id)
    stage.open("two")
    assert await client.invoke("play", None, thread_id="t") == {"one": True, "two": True}
    assert (stage.entered["one"], stage.entered["two"]) == (1, 2)


async def test_a_rollback_that_a_reply_to_events_tells_of_is_one(
    client: Client, workers: Workers, redis: Redis, namespace: str
) -> None:
    async def talk(state: State) -> None:
        while state.get("talk"):
            get_stream_writer()("and so on")
            await asyncio.sleep(0.001)

    graph = StateGraph(State).add_sequence([("keep", _keep), ("talk", talk)]).add_edge(START, "keep").compile()
    # So long between two beats that only a reply to events can have told the worker: nobody rings its bell here.
    await workers.start({"beat_interval": 30.0, "lease": 90.0}, talks=graph)
    before = await client.invoke("talks", {"done": ["before"]}, thread_id="t")
    run = await client.enqueue("talks", {"done": ["by the run"], "talk": True}, thread_id="t", stream_mode="custom")
    async with client.tail(run.run_id) as events:
        assert [(await anext(events)).mode for _ in range(3)] == ["attempt", "custom", "custom"]
    await redis.hset(Keys(namespace).run(run.run_id), mapping={"stop": "enough", "stop_action": "rollback"})  # type: ignore[misc] # redis-py's types are for both kinds
    with pytest.raises(RunStopped, match="enough"):
        await client.wait(run.run_id)
    assert await client.invoke("talks", {}, thread_id="t") == before


async def _keep(state: State) -> State:
    return {"done": state["done"]}


def _step(stage: Stage, name: str) -> Any:
    async def run(state: Any) -> Any:
        await stage.wait(name)
        return {name: True}

    return run


async def test_a_run_that_nobody_executes_ends_at_once(
    client: Client, workers: Workers, redis: Redis, namespace: str
) -> None:
    """Queued for the first time; queued for its next attempt; and with a worker that has died unnoticed."""
    queued = await client.enqueue("silent", {})
    assert await client.stop(queued.run_id, reason="a") == ("stopped", Status.STOPPED)
    play = Play(client, workers, redis, namespace, Stage())
    silence = Silence()
    runner = await workers.start({"beat_interval": 30.0, "lease": 90.0}, silent=silence.graph("a").compile())
    orphan = await client.enqueue("silent", {}, stream_mode="updates")
    await until(lambda: silence.inside["a"] == 1, "the run waits")
    await redis.zadd(play.keys.leases, {play.keys.run(orphan.run_id): 1})
    assert await client.stop(orphan.run_id, reason="b") == ("stopped", Status.STOPPED)
    for run, reason in ((queued, "a"), (orphan, "b")):
        events = [event async for event in client.tail(run.run_id)]
        assert [event.data["reason"] for event in events if event.mode == "end"] == [reason]
        assert "gap" not in {event.mode for event in events}
        assert await client.stop(run.run_id) == ("ended", Status.STOPPED)
    runner.hurry()
    await until(lambda: not runner.running, "the worker has let go of it")
