"""Interrupts: on the stream, in the thread and its state, and answers to them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from langgraph_sdk.errors import BadRequestError
from tests.support.sdk_parts import collect, names, of, refused

QUESTION = {"question": "go on?"}


async def test_an_interrupt_on_the_stream(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "approval", input={}, stream_mode=["values", "updates"]))
    assert names(parts) == ["metadata", "updates", "values", "updates", "values"]
    (asked,) = of(parts, "updates")[-1]["__interrupt__"]
    assert asked["value"] == QUESTION
    assert re.fullmatch("[0-9a-f]{32}", asked["id"])
    assert of(parts, "values")[-1] == {"steps": ["plan"], "__interrupt__": [asked]}
    assert (await client.threads.get(thread_id))["status"] == "interrupted"


async def test_an_interrupt_in_what_is_waited_for(client: Any, thread_id: str) -> None:
    values = await client.runs.wait(thread_id, "approval", input={})
    assert values["steps"] == ["plan"]
    assert [asked["value"] for asked in values["__interrupt__"]] == [QUESTION]
    (run,) = await client.runs.list(thread_id)
    joined = await client.runs.join(thread_id, run["run_id"])
    assert [asked["value"] for asked in joined["__interrupt__"]] == [QUESTION]


@pytest.mark.ours("a join after the interrupt returns the interrupt without the values")
async def test_a_join_returns_what_wait_returned(client: Any, thread_id: str) -> None:
    values = await client.runs.wait(thread_id, "approval", input={})
    (run,) = await client.runs.list(thread_id)
    assert await client.runs.join(thread_id, run["run_id"]) == values


async def test_an_interrupt_in_the_thread_and_its_state(client: Any, thread_id: str) -> None:
    values = await client.runs.wait(thread_id, "approval", input={})
    asked = {"id": values["__interrupt__"][0]["id"], "value": QUESTION}
    state = await client.threads.get_state(thread_id)
    assert state["next"] == ["ask"]
    assert state["values"] == {"steps": ["plan"]}
    assert state["interrupts"] == [asked]
    (task,) = state["tasks"]
    assert task["name"] == "ask"
    assert task["interrupts"] == [asked]
    assert task["error"] is None
    thread = await client.threads.get(thread_id)
    assert thread["status"] == "interrupted"
    assert thread["values"] == {"steps": ["plan"]}
    assert thread["interrupts"] == {task["id"]: [asked]}


@pytest.mark.ours("such a run is a success there, where the documentation says interrupted")
async def test_a_run_that_asks_is_interrupted(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "approval", input={})
    (run,) = await client.runs.list(thread_id)
    assert run["status"] == "interrupted"
    assert await client.runs.list(thread_id, status="interrupted") == [run]


async def test_resuming(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "approval", input={})
    stream = client.runs.stream(thread_id, "approval", command={"resume": "yes"}, stream_mode=["values", "updates"])
    parts = await collect(stream)
    assert of(parts, "updates") == [{"ask": {"steps": ["answer: yes"]}}, {"act": {"steps": ["act"]}}]
    assert of(parts, "values")[-1] == {"steps": ["plan", "answer: yes", "act"]}
    thread = await client.threads.get(thread_id)
    assert thread["status"] == "idle"
    assert thread["interrupts"] == {}


@pytest.mark.parametrize("answer", [{"ok": True, "notes": ["a", 1]}, False, 0, "", None, ["list"]])
async def test_any_answer(client: Any, thread_id: str, answer: Any) -> None:
    await client.runs.wait(thread_id, "approval", input={})
    values = await client.runs.wait(thread_id, "approval", command={"resume": answer})
    if answer is None:
        assert [asked["value"] for asked in values["__interrupt__"]] == [QUESTION]
    else:
        assert values["steps"] == ["plan", f"answer: {answer}", "act"]


async def test_resuming_by_id(client: Any, thread_id: str) -> None:
    values = await client.runs.wait(thread_id, "questions", input={})
    asked = {interrupt["value"]: interrupt["id"] for interrupt in values["__interrupt__"]}
    assert set(asked) == {"first?", "second?"}
    answers = {asked["first?"]: "one", asked["second?"]: "two"}
    values = await client.runs.wait(thread_id, "questions", command={"resume": answers})
    assert values == {"steps": ["first: one", "second: two"]}


async def test_resuming_one_of_two_by_id(client: Any, thread_id: str) -> None:
    values = await client.runs.wait(thread_id, "questions", input={})
    asked = {interrupt["value"]: interrupt["id"] for interrupt in values["__interrupt__"]}
    values = await client.runs.wait(thread_id, "questions", command={"resume": {asked["second?"]: "two"}})
    assert [interrupt["value"] for interrupt in values["__interrupt__"]] == ["first?"]
    thread = await client.threads.get(thread_id)
    assert thread["status"] == "interrupted"
    assert [[one["value"] for one in each] for each in thread["interrupts"].values()] == [["first?"]]
    values = await client.runs.wait(thread_id, "questions", command={"resume": {asked["first?"]: "one"}})
    assert values == {"steps": ["first: one", "second: two"]}


async def test_resuming_with_the_checkpoint(client: Any, thread_id: str) -> None:
    """As `useStream` does when it has loaded the history."""
    await client.runs.wait(thread_id, "approval", input={})
    state = await client.threads.get_state(thread_id)
    values = await client.runs.wait(thread_id, "approval", command={"resume": "yes"}, checkpoint=state["checkpoint"])
    assert values["steps"] == ["plan", "answer: yes", "act"]


async def test_resuming_with_an_update(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "approval", input={})
    command = {"resume": "yes", "update": {"steps": ["given"]}}
    values = await client.runs.wait(thread_id, "approval", command=command)
    assert values["steps"] == ["plan", "given", "answer: yes", "act"]


async def test_an_interrupt_in_a_subgraph(client: Any, thread_id: str) -> None:
    stream = client.runs.stream(
        thread_id, "parent", input={"pause": True}, stream_mode=["updates"], stream_subgraphs=True
    )
    parts = await collect(stream)
    assert names(parts) == ["metadata", "updates|child", "updates"]
    (asked,) = parts[-1].data["__interrupt__"]
    assert asked["value"] == "inside?"
    state = await client.threads.get_state(thread_id, subgraphs=True)
    (task,) = state["tasks"]
    assert task["state"]["next"] == ["inner"]
    assert task["state"]["tasks"][0]["interrupts"] == [{"id": asked["id"], "value": "inside?"}]
    assert task["state"]["checkpoint"]["checkpoint_ns"] == f"child:{task['id']}"
    values = await client.runs.wait(thread_id, "parent", command={"resume": {asked["id"]: "fine"}})
    assert values["steps"] == ["inner: fine", "outer"]


async def test_editing_instead_of_answering(client: Any, thread_id: str) -> None:
    """The state is updated as the node that asked: its successor is next."""
    await client.runs.wait(thread_id, "approval", input={})
    await client.threads.update_state(thread_id, {"steps": ["edited"]}, as_node="ask")
    assert (await client.threads.get_state(thread_id))["next"] == ["act"]
    values = await client.runs.wait(thread_id, "approval", input=None)
    assert values["steps"] == ["plan", "edited", "act"]


async def test_no_resuming_without_a_thread(client: Any) -> None:
    with pytest.raises(BadRequestError):
        await client.runs.create(None, "approval", command={"resume": "yes"})
    with refused(400):
        await client.runs.wait(None, "approval", command={"resume": "yes"})


@pytest.mark.ours("with messages-tuple alone nothing of an interrupt is said")
async def test_an_interrupt_is_seen_whatever_the_mode(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "approval", input={}, stream_mode="messages-tuple"))
    assert [part.data.keys() for part in parts][-1] == {"__interrupt__"}
