"""A thread's state and its past: get, at a checkpoint, update, history."""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any

import pytest
from langgraph_sdk.errors import BadRequestError, ConflictError, UnprocessableEntityError
from tests.support.sdk_parts import human, slowly


async def test_a_thread_without_a_run(client: Any, thread_id: str) -> None:
    state = await client.threads.get_state(thread_id)
    assert state["values"] == {}
    assert state["next"] == []
    assert state["tasks"] == []
    assert state["checkpoint"] is None
    assert state["metadata"] is None
    assert state["interrupts"] == []
    assert await client.threads.get_history(thread_id) == []


async def test_the_state_after_a_run(client: Any, thread_id: str) -> None:
    values = await client.runs.wait(thread_id, "chat", input=human("hi"))
    state = await client.threads.get_state(thread_id)
    (run,) = await client.runs.list(thread_id)
    assert state["values"] == values
    assert state["next"] == []
    assert state["tasks"] == []
    checkpoint = state["checkpoint"]
    assert checkpoint == {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": state["checkpoint_id"]}
    assert state["parent_checkpoint"]["checkpoint_id"] == state["parent_checkpoint_id"]
    assert state["metadata"]["source"] == "loop"
    assert state["metadata"]["step"] == 1
    assert state["metadata"]["run_id"] == run["run_id"]
    assert datetime.fromisoformat(state["created_at"]).tzinfo is not None


async def test_the_state_at_a_checkpoint(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "chat", input=human("one"))
    past = await client.threads.get_state(thread_id)
    await client.runs.wait(thread_id, "chat", input=human("two"))
    assert await client.threads.get_state(thread_id, checkpoint=past["checkpoint"]) == past
    by_id = await client.threads.get_state(thread_id, checkpoint_id=past["checkpoint_id"])
    assert by_id["checkpoint_id"] == past["checkpoint_id"]
    assert by_id["values"] == past["values"]
    assert (await client.threads.get_state(thread_id))["values"] != past["values"]


async def test_the_state_of_a_failed_task(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "failing", input={}, raise_error=False)
    state = await client.threads.get_state(thread_id)
    assert state["next"] == ["fail"]
    (task,) = state["tasks"]
    assert task["name"] == "fail"
    assert task["error"] == "ValueError('boom')"
    assert task["interrupts"] == []


@pytest.mark.ours("the state of such a thread is refused with 400")
async def test_an_input_that_the_graph_refused(client: Any, thread_id: str) -> None:
    """It hides neither the thread nor what was there before."""
    values = await client.runs.wait(thread_id, "chat", input=human("hi"))
    wrong = {"messages": [{"role": "nonsense", "content": "x"}]}
    failed = await client.runs.wait(thread_id, "chat", input=wrong, raise_error=False)
    assert failed["__error__"]["error"] == "ValueError"
    state = await client.threads.get_state(thread_id)
    assert state["values"] == values
    assert state["next"] == ["__start__"]
    thread = await client.threads.get(thread_id)
    assert (thread["status"], thread["values"]) == ("error", values)
    assert await client.threads.search(ids=[thread_id]) == [thread]
    copy = await client.threads.copy(thread_id)
    assert (await client.threads.get_state(copy["thread_id"]))["values"] == values
    values = await client.runs.wait(thread_id, "chat", input=human("again"))
    assert [message["content"] for message in values["messages"]][-2:] == ["again", "You said: again"]


async def test_the_state_of_a_subgraph(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "parent", input={"pause": True})
    plain = await client.threads.get_state(thread_id)
    (task,) = plain["tasks"]
    assert task["state"] is None
    assert task["checkpoint"] == {"thread_id": thread_id, "checkpoint_ns": f"child:{task['id']}"}
    (task,) = (await client.threads.get_state(thread_id, subgraphs=True))["tasks"]
    assert task["state"]["next"] == ["inner"]
    at = await client.threads.get_state(thread_id, checkpoint=task["state"]["checkpoint"])
    assert at["next"] == ["inner"]
    assert at["checkpoint"]["checkpoint_ns"] == task["state"]["checkpoint"]["checkpoint_ns"]
    nested = {"checkpoint_ns": task["state"]["checkpoint"]["checkpoint_ns"], "thread_id": thread_id}
    history = await client.threads.get_history(thread_id, checkpoint=nested)
    assert history[0]["next"] == ["inner"]


async def test_updating(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "parallel", input={})
    before = await client.threads.get_state(thread_id)
    updated = await client.threads.update_state(thread_id, {"steps": ["given"]})
    state = await client.threads.get_state(thread_id)
    assert updated["checkpoint"] == state["checkpoint"]
    assert state["values"]["steps"] == ["left", "right", "joined", "given"]
    assert state["parent_checkpoint"] == before["checkpoint"]
    assert state["metadata"]["source"] == "update"
    assert (await client.threads.get(thread_id))["values"] == state["values"]


async def test_updating_as_a_node(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "slow", input=slowly(0), interrupt_before=["tick"])
    await client.threads.update_state(thread_id, {"steps": ["instead"]}, as_node="tick")
    assert (await client.threads.get_state(thread_id))["next"] == ["finish"]
    values = await client.runs.wait(thread_id, "slow", input=None)
    assert values["steps"] == ["begin", "instead", "finish"]


async def test_updating_messages(client: Any, thread_id: str) -> None:
    values = await client.runs.wait(thread_id, "chat", input=human("hi"))
    question, answer = values["messages"]
    replacement = {"role": "ai", "content": "Better", "id": answer["id"]}
    await client.threads.update_state(thread_id, {"messages": [replacement]})
    state = await client.threads.get_state(thread_id)
    assert [message["content"] for message in state["values"]["messages"]] == ["hi", "Better"]
    await client.threads.update_state(
        thread_id, {"messages": [{"type": "remove", "id": question["id"], "content": ""}]}
    )
    state = await client.threads.get_state(thread_id)
    assert [message["content"] for message in state["values"]["messages"]] == ["Better"]


async def test_updating_the_past(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "chat", input=human("one"))
    past = await client.threads.get_state(thread_id)
    await client.runs.wait(thread_id, "chat", input=human("two"))
    updated = await client.threads.update_state(
        thread_id, {"messages": [{"role": "user", "content": "other"}]}, checkpoint=past["checkpoint"]
    )
    state = await client.threads.get_state(thread_id, checkpoint=updated["checkpoint"])
    assert state["parent_checkpoint"] == past["checkpoint"]
    assert [message["content"] for message in state["values"]["messages"]] == ["one", "You said: one", "other"]


async def test_an_update_of_nothing_copies_the_checkpoint(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "parallel", input={})
    before = await client.threads.get_state(thread_id)
    await client.threads.update_state(thread_id, None)
    after = await client.threads.get_state(thread_id)
    assert after["values"] == before["values"]
    assert after["checkpoint"] != before["checkpoint"]


async def test_no_update_as_a_node_that_there_is_not(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "parallel", input={})
    before = await client.threads.get_state(thread_id)
    with pytest.raises((BadRequestError, UnprocessableEntityError)):
        await client.threads.update_state(thread_id, {"steps": ["given"]}, as_node="nonsense")
    assert await client.threads.get_state(thread_id) == before


async def test_no_update_while_it_runs(client: Any, thread_id: str) -> None:
    run = await client.runs.create(thread_id, "slow", input=slowly(200))
    with pytest.raises(ConflictError):
        await client.threads.update_state(thread_id, {"steps": ["given"]})
    await client.runs.cancel(thread_id, run["run_id"], wait=True)
    await client.threads.update_state(thread_id, {"steps": ["given"]})


async def test_no_update_without_a_graph(client: Any, thread_id: str) -> None:
    with pytest.raises(BadRequestError):
        await client.threads.update_state(thread_id, {"steps": ["given"]})


async def test_the_history(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "chat", input=human("one"))
    await client.runs.wait(thread_id, "chat", input=human("two"))
    history = await client.threads.get_history(thread_id)
    assert len(history) == 6
    assert history[0] == await client.threads.get_state(thread_id)
    for newer, older in itertools.pairwise(history):
        assert newer["parent_checkpoint"] == older["checkpoint"]
        assert newer["created_at"] > older["created_at"]
    assert history[-1]["parent_checkpoint"] is None
    assert [state["metadata"]["step"] for state in history] == [4, 3, 2, 1, 0, -1]
    assert [state["metadata"]["source"] for state in history] == ["loop", "loop", "input"] * 2
    assert await client.threads.get_history(thread_id, limit=2) == history[:2]


async def test_the_history_by_metadata(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "chat", input=human("one"))
    inputs = await client.threads.get_history(thread_id, metadata={"source": "input"})
    assert [state["metadata"]["step"] for state in inputs] == [-1]


async def test_the_history_before_a_config(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "chat", input=human("one"))
    history = await client.threads.get_history(thread_id)
    before = {"configurable": history[0]["checkpoint"]}
    assert await client.threads.get_history(thread_id, before=before) == history[1:]


@pytest.mark.ours("a checkpoint's id is refused, and a checkpoint ends in a 500")
async def test_the_history_before_a_checkpoint(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "chat", input=human("one"))
    history = await client.threads.get_history(thread_id)
    for before in (history[0]["checkpoint_id"], history[0]["checkpoint"]):
        assert await client.threads.get_history(thread_id, before=before) == history[1:]


@pytest.mark.ours("select is ignored")
async def test_some_fields_of_the_state(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "chat", input=human("one"))
    state = await client.threads.get_state(thread_id, select=["next", "checkpoint"])
    assert state.keys() == {"next", "checkpoint"}
    history = await client.threads.get_history(thread_id, select=["next"])
    assert history == [{"next": []}, {"next": ["answer"]}, {"next": ["__start__"]}]
