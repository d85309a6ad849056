"""Defects that are known and not mended: each test fails on its promise, and says so when it no longer does.

The last one is of a defect that has been mended.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from redis.asyncio import Redis
from tests.integration.test_takeover import HI, MODES
from tests.support.stage import Play, Stage, Story
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, Status
from runstream import Command as Answer

MORE: dict[str, Any] = {"messages": [{"type": "human", "content": "more", "id": "h2"}], "steps": []}


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def play(client: Client, workers: Workers, redis: Redis, namespace: str, stage: Stage) -> Play:
    return Play(client, workers, redis, namespace, stage)


async def has_ended(play: Play, run_id: str) -> bool:
    return (await play.client.get(run_id)).status.ended


async def drain_in(play: Play, name: str, leaver: Any, graph: Any) -> None:
    """Have a worker leave while this node runs; another one goes on behind it."""
    leaving = asyncio.create_task(leaver.drain(20.0))
    await until(lambda: leaver.is_leaving, "the worker has been told to leave")
    await play.start_worker(graph)
    play.stage.open(name)
    await leaving


@pytest.mark.xfail(
    reason="resumed right before it, LangGraph takes its last turn for the one to go on with", strict=True
)
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_a_subgraph_that_remembers_does_its_work_after_a_hand_over(
    durability: Any, play: Play, stage: Stage
) -> None:
    """Its checkpoints are the thread's (`checkpointer=True`); its worker left in the step before its second turn."""

    def build() -> Any:
        inner = StateGraph(Story).add_node("in", stage.node("in")).add_edge(START, "in").compile(checkpointer=True)
        graph = StateGraph(Story).add_node("one", stage.node("one")).add_node("sub", inner)
        return graph.add_edge(START, "one").add_edge("one", "sub").compile()

    leaver = await play.start_worker(build(), shutdown_grace=20.0)
    await play.client.invoke("play", HI, thread_id="t")
    stage.hold("one")
    run = await play.client.enqueue("play", MORE, thread_id="t", durability=durability)
    await until(lambda: stage.entered["one"] == 2, "the second run is held")
    await drain_in(play, "one", leaver, build())
    await play.client.result(run.run_id)
    assert stage.begun["in"] == 2


@pytest.mark.xfail(reason="as above, within one run", strict=True)
async def test_a_subgraph_that_remembers_does_its_work_in_a_loop_after_a_hand_over(play: Play, stage: Stage) -> None:
    def build() -> Any:
        inner = StateGraph(Story).add_node("in", stage.node("in")).add_edge(START, "in").compile(checkpointer=True)
        graph = StateGraph(Story).add_node("one", stage.node("one")).add_node("sub", inner)
        graph.add_conditional_edges("sub", lambda _: "one" if stage.begun["one"] < 2 else "__end__", ["one", "__end__"])
        return graph.add_edge(START, "one").add_edge("one", "sub").compile()

    leaver = await play.start_worker(build(), shutdown_grace=20.0)
    stage.hold("in")
    run = await play.client.enqueue("play", HI)
    await until(lambda: stage.entered["in"] == 1, "its first turn is held")
    stage.hold("one")
    stage.open("in")
    await until(lambda: stage.entered["one"] == 2, "the step before the second is held")
    await drain_in(play, "one", leaver, build())
    await play.client.result(run.run_id)
    assert stage.begun["in"] == 2


@pytest.mark.xfail(reason="what it has written to the checkpoint of the run that asked stays", strict=True)
@pytest.mark.parametrize("how", ["stop", "strategy"])
async def test_an_answer_that_was_rolled_back_was_never_given(how: str, play: Play, stage: Stage) -> None:
    def build() -> Any:
        async def ask(state: Story) -> Story:
            answer = interrupt("go on?")
            await stage.wait("answered")
            return {"steps": [f"answer {answer}"]}

        return StateGraph(Story).add_node("ask", ask).add_edge(START, "ask").compile()

    await play.start_worker(build())
    asked = await play.client.enqueue("play", HI, thread_id="t")
    assert (await play.client.wait(asked.run_id)).status is Status.INTERRUPTED
    stage.hold("answered")
    command: Command[Any] = Command(resume="yes", update={"steps": ["undone"]})
    run = await play.client.enqueue("play", command, thread_id="t")
    await until(lambda: stage.entered["answered"] == 1, "it has been answered")
    options: dict[str, Any] = {}
    if how == "stop":
        await play.client.stop(run.run_id, action="rollback")
        await until(lambda: has_ended(play, run.run_id), "the answer has been rolled back")
    else:
        options["multitask_strategy"] = "rollback"
    again = await play.client.enqueue("play", None, thread_id="t", **options)
    stage.open("answered")
    status = (await play.client.wait(again.run_id)).status
    result = await play.client.result(again.run_id)
    assert (status, result["steps"]) == (Status.INTERRUPTED, [])


@pytest.mark.xfail(reason="as above: finished tasks of the step keep their results", strict=True)
async def test_what_tasks_made_of_an_answer_that_was_rolled_back_is_gone(play: Play, stage: Stage) -> None:
    def build() -> Any:
        async def quick(state: Story) -> Story:
            return {"steps": [f"quick {interrupt('quick?')}"]}

        async def slow(state: Story) -> Story:
            answer = interrupt("slow?")
            await stage.wait("slow")
            return {"steps": [f"slow {answer}"]}

        graph = StateGraph(Story).add_node("quick", quick).add_node("slow", slow)
        return graph.add_edge(START, "quick").add_edge(START, "slow").compile()

    await play.start_worker(build())
    asked = await play.client.enqueue("play", HI, thread_id="t")
    assert (await play.client.wait(asked.run_id)).status is Status.INTERRUPTED
    ids = [one["id"] for one in (await play.client.result(asked.run_id))["__interrupt__"]]
    stage.hold("slow")
    run = await play.client.enqueue("play", Command(resume=dict.fromkeys(ids, "yes")), thread_id="t")
    await until(lambda: stage.entered["slow"] == 1, "it has been answered")
    await play.client.stop(run.run_id, action="rollback")
    await until(lambda: has_ended(play, run.run_id), "the answer has been rolled back")
    stage.open("slow")
    result = await play.client.invoke("play", Command(resume=dict.fromkeys(ids, "no")), thread_id="t")
    assert sorted(result["steps"]) == ["quick no", "slow no"]


async def test_a_command_that_answers_null_is_given_again_once(play: Play, stage: Stage) -> None:
    """To answer null the worker looks at what is pending; that look is not the one for which the update is forgotten."""

    def build() -> Any:
        async def ask(state: Story) -> Story:
            answer = interrupt("go on?")
            await stage.wait("answered")
            return {"steps": [f"answer {answer}"]}

        return StateGraph(Story).add_node("ask", ask).add_edge(START, "ask").compile()

    await play.start_worker(build())
    asked = await play.client.enqueue("play", HI, thread_id="t")
    assert (await play.client.wait(asked.run_id)).status is Status.INTERRUPTED
    stage.hold("answered")
    command = Answer(resume=None, update={"steps": ["updated"]})
    run = await play.client.enqueue("play", command, thread_id="t", stream_mode=MODES)
    await until(lambda: stage.entered["answered"] == 1, "the run is held")
    await play.lose(run.run_id)
    await until(lambda: stage.entered["answered"] == 2, "the next attempt has come to the same place")
    stage.open("answered")
    assert (await play.client.result(run.run_id))["steps"] == ["updated", "answer None"]
