"""What a run can be given: strategies, context, config, commands, checkpoints, breakpoints."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from langgraph_sdk.errors import BadRequestError, ConflictError, NotFoundError, UnprocessableEntityError
from tests.support.sdk_parts import UNKNOWN, collect, human, names, of, refused, slowly
from tests.support.waiting import until

LONG = slowly(200)


# --- several runs on a thread -----------------------------------------------------------------------------------------


async def test_reject(client: Any, thread_id: str) -> None:
    running = await _running(client, thread_id)
    with pytest.raises(ConflictError):
        await client.runs.create(thread_id, "slow", input=LONG, multitask_strategy="reject")
    assert [run["run_id"] for run in await client.runs.list(thread_id)] == [running]
    await client.runs.cancel(thread_id, running, wait=True)


async def test_reject_where_nothing_runs(client: Any, thread_id: str) -> None:
    values = await client.runs.wait(thread_id, "parallel", input={}, multitask_strategy="reject")
    assert values["steps"] == ["left", "right", "joined"]


async def test_interrupt(client: Any, thread_id: str) -> None:
    running = await _running(client, thread_id)
    values = await client.runs.wait(thread_id, "slow", input={"ticks": 0}, multitask_strategy="interrupt")
    assert values["steps"] == ["begin", "begin", "tick", "finish"]
    assert (await client.runs.get(thread_id, running))["status"] == "interrupted"


async def test_rollback(client: Any, thread_id: str) -> None:
    running = await _running(client, thread_id)
    values = await client.runs.wait(thread_id, "slow", input={"ticks": 0}, multitask_strategy="rollback")
    assert values["steps"] == ["begin", "tick", "finish"]

    async def is_gone() -> bool:
        return running not in {run["run_id"] for run in await client.runs.list(thread_id)}

    await until(is_gone, "the run is gone")


async def test_enqueue(client: Any, thread_id: str) -> None:
    running = await client.runs.create(thread_id, "slow", input=slowly(3))
    waiting = await client.runs.create(thread_id, "slow", input=slowly(0), multitask_strategy="enqueue")
    assert waiting["multitask_strategy"] == "enqueue"
    assert (await client.threads.get(thread_id))["status"] == "busy"
    values = await client.runs.join(thread_id, waiting["run_id"])
    assert values["steps"] == ["begin", "tick", "finish"] * 2
    assert (await client.runs.get(thread_id, running["run_id"]))["status"] == "success"


async def test_a_strategy_that_there_is_not(client: Any, thread_id: str) -> None:
    with pytest.raises(UnprocessableEntityError):
        await client.runs.create(thread_id, "chat", input=human("hi"), multitask_strategy="nonsense")


async def test_after_a_while(client: Any, thread_id: str) -> None:
    before = datetime.now(UTC)
    run = await client.runs.create(thread_id, "chat", input=human("hi"), after_seconds=1)
    assert run["status"] == "pending"
    assert (await client.threads.get(thread_id))["status"] == "busy"
    await client.runs.join(thread_id, run["run_id"])
    assert (datetime.now(UTC) - before).total_seconds() >= 1.0


# --- threads that are not there ---------------------------------------------------------------------------------------


async def test_a_thread_is_made_where_it_is_asked_for(client: Any) -> None:
    thread_id = str(uuid4())
    with pytest.raises(NotFoundError):
        await client.runs.create(thread_id, "chat", input=human("hi"))
    with refused(404):
        await client.runs.wait(thread_id, "chat", input=human("hi"), if_not_exists="reject")
    values = await client.runs.wait(thread_id, "chat", input=human("hi"), if_not_exists="create")
    assert values["messages"][-1]["content"] == "You said: hi"
    assert (await client.threads.get(thread_id))["metadata"]["graph_id"] == "chat"


# --- context and config -----------------------------------------------------------------------------------------------


async def test_context(client: Any, thread_id: str) -> None:
    stream = client.runs.stream(
        thread_id, "contextual", input={"place": "here"}, context={"name": "Bo"}, stream_mode=["custom", "values"]
    )
    parts = await collect(stream)
    assert of(parts, "custom") == [{"greeting": "Bo"}]
    assert of(parts, "values")[-1]["greeting"] == "hello Bo"


async def test_configurable_is_the_context_of_old(client: Any, thread_id: str) -> None:
    config = {"configurable": {"name": "Bo"}}
    values = await client.runs.wait(thread_id, "contextual", input={"place": "here"}, config=config)
    assert values["greeting"] == "hello Bo"


async def test_not_both_of_context_and_configurable(client: Any, thread_id: str) -> None:
    with pytest.raises(BadRequestError):
        await client.runs.create(
            thread_id, "contextual", input={}, context={"name": "Bo"}, config={"configurable": {"name": "Bo"}}
        )


async def test_config(client: Any, thread_id: str) -> None:
    config = {"configurable": {"mine": "1"}, "tags": ["blue"], "metadata": {"colour": "blue"}}
    values = await client.runs.wait(thread_id, "contextual", input={"place": "here"}, config=config)
    (run,) = await client.runs.list(thread_id)
    assert values["seen"]["configurable"] == {
        "thread_id": thread_id,
        "run_id": run["run_id"],
        "graph_id": "contextual",
        "assistant_id": run["assistant_id"],
        "mine": "1",
    }
    assert values["seen"]["metadata"] == {"colour": "blue", "run_id": run["run_id"]}
    assert values["seen"]["tags"] == ["blue"]
    assert run["metadata"]["colour"] == "blue"


async def test_metadata_reaches_the_graph_and_the_run(client: Any, thread_id: str) -> None:
    values = await client.runs.wait(thread_id, "contextual", input={"place": "here"}, metadata={"colour": "red"})
    assert values["seen"]["metadata"]["colour"] == "red"
    (run,) = await client.runs.list(thread_id)
    assert run["metadata"]["colour"] == "red"


async def test_the_recursion_limit(client: Any, thread_id: str) -> None:
    stream = client.runs.stream(thread_id, "slow", input=slowly(0), config={"recursion_limit": 2})
    parts = await collect(stream)
    assert parts[-1].event == "error"
    assert parts[-1].data["error"] == "GraphRecursionError"


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_durability(client: Any, thread_id: str, durability: str) -> None:
    values = await client.runs.wait(thread_id, "parallel", input={}, durability=durability)
    assert values["steps"] == ["left", "right", "joined"]
    history = await client.threads.get_history(thread_id)
    assert len(history) == (1 if durability == "exit" else 4)
    assert history[0]["values"] == values


# --- breakpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "done", "next_ones"),
    [
        ({"interrupt_before": ["tick"]}, ["begin"], ["tick"]),
        ({"interrupt_after": ["tick"]}, ["begin", "tick"], ["finish"]),
        ({"interrupt_before": "*"}, None, ["begin"]),
        ({"interrupt_after": "*"}, ["begin"], ["tick"]),
    ],
    ids=["before", "after", "before all", "after all"],
)
async def test_breakpoints(
    client: Any, thread_id: str, where: dict[str, Any], done: list[str] | None, next_ones: list[str]
) -> None:
    stream = client.runs.stream(thread_id, "slow", input=slowly(0), stream_mode=["updates"], **where)
    parts = await collect(stream)
    assert of(parts, "updates")[-1] == {"__interrupt__": []}
    thread = await client.threads.get(thread_id)
    assert thread["status"] == "interrupted"
    assert thread["interrupts"] == {}
    state = await client.threads.get_state(thread_id)
    assert state["values"].get("steps") == (done if done is not None else [])
    assert state["next"] == next_ones
    values = await client.runs.wait(thread_id, "slow", input=None)
    assert values["steps"] == ["begin", "tick", "finish"]
    assert (await client.threads.get(thread_id))["status"] == "idle"


# --- commands ---------------------------------------------------------------------------------------------------------


async def test_goto(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "counter", input={"count": 1})
    values = await client.runs.wait(thread_id, "counter", command={"goto": "three"})
    assert values["path"] == ["one 2", "two 2", "three 2"]


async def test_goto_with_an_input(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "counter", input={"count": 1})
    goto = [{"node": "three", "input": {"count": 7}}, {"node": "two", "input": {"count": 8}}]
    values = await client.runs.wait(thread_id, "counter", command={"goto": goto})
    assert sorted(values["path"]) == ["one 2", "three 7", "two 2", "two 8"]


async def test_update_and_goto(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "counter", input={"count": 1})
    values = await client.runs.wait(thread_id, "counter", command={"goto": "three", "update": {"count": 40}})
    assert values["path"] == ["one 2", "two 2", "three 40"]
    values = await client.runs.wait(thread_id, "counter", command={"goto": "three", "update": [["count", 41]]})
    assert values["path"][-1] == "three 41"


# --- from the past ----------------------------------------------------------------------------------------------------


async def test_from_a_checkpoint(client: Any, thread_id: str) -> None:
    """A fork: the past answers again, and what came after it is not part of the state any more."""
    await client.runs.wait(thread_id, "chat", input=human("one"))
    past = await client.threads.get_state(thread_id)
    await client.runs.wait(thread_id, "chat", input=human("two"))
    values = await client.runs.wait(thread_id, "chat", input=human("other"), checkpoint=past["checkpoint"])
    assert [message["content"] for message in values["messages"]] == [
        "one",
        "You said: one",
        "other",
        "You said: other",
    ]
    assert (await client.threads.get_state(thread_id))["values"] == values
    forks = [
        state
        for state in await client.threads.get_history(thread_id)
        if state["parent_checkpoint"] == past["checkpoint"]
    ]
    assert len(forks) == 2


async def test_again_from_a_checkpoint(client: Any, thread_id: str) -> None:
    """Regeneration: no input, the node that came next answers anew."""
    await client.runs.wait(thread_id, "chat", input=human("one"))
    history = await client.threads.get_history(thread_id)
    (before,) = [state for state in history if state["next"] == ["answer"]]
    stream = client.runs.stream(
        thread_id, "chat", input=None, checkpoint_id=before["checkpoint_id"], stream_mode=["updates"]
    )
    assert names(await collect(stream)) == ["metadata", "updates"]
    after = await client.threads.get_state(thread_id)
    assert [message["content"] for message in after["values"]["messages"]] == ["one", "You said: one"]
    assert after["parent_checkpoint"]["checkpoint_id"] != before["checkpoint_id"] or after != history[0]
    assert after["checkpoint_id"] != history[0]["checkpoint_id"]


# --- what is wrong ----------------------------------------------------------------------------------------------------


async def test_unknown_ids(client: Any, thread_id: str) -> None:
    with pytest.raises(NotFoundError):
        await client.runs.create(UNKNOWN, "chat", input=human("hi"))
    with pytest.raises(NotFoundError):
        await client.runs.create(thread_id, UNKNOWN, input=human("hi"))
    with pytest.raises(NotFoundError):
        await client.runs.get(thread_id, UNKNOWN)
    with pytest.raises(NotFoundError):
        await client.runs.cancel(thread_id, UNKNOWN)
    with pytest.raises(NotFoundError):
        await client.runs.delete(thread_id, UNKNOWN)


async def test_an_unknown_graph(client: Any, thread_id: str) -> None:
    with pytest.raises(UnprocessableEntityError):
        await client.runs.create(thread_id, "nonsense", input=human("hi"))
    with refused(422):
        await client.runs.wait(thread_id, "nonsense", input=human("hi"))
    with pytest.raises(UnprocessableEntityError):
        await collect(client.runs.stream(thread_id, "nonsense", input=human("hi")))
    assert await client.runs.list(thread_id) == []


async def test_ids_that_are_none(client: Any, thread_id: str) -> None:
    with pytest.raises(UnprocessableEntityError):
        await client.runs.create("nonsense", "chat", input=human("hi"))
    with pytest.raises(UnprocessableEntityError):
        await client.runs.get(thread_id, "nonsense")


async def test_no_input_on_a_new_thread(client: Any, thread_id: str) -> None:
    parts = await collect(client.runs.stream(thread_id, "chat", input=None))
    assert parts[-1].event == "error"
    assert parts[-1].data["error"] == "EmptyInputError"
    assert [run["status"] for run in await client.runs.list(thread_id)] == ["error"]


async def test_errors_say_why(client: Any) -> None:
    with pytest.raises(NotFoundError) as caught:
        await client.threads.get(UNKNOWN)
    assert isinstance(caught.value.body, dict)
    assert isinstance(caught.value.body["detail"], str)
    assert caught.value.message == caught.value.body["detail"]


async def _running(client: Any, thread_id: str) -> str:
    """A run whose first step is saved, and whose second goes on for long."""
    run = await client.runs.create(thread_id, "slow", input=LONG, durability="sync")

    async def has_begun() -> bool:
        return bool((await client.threads.get_state(thread_id))["next"] == ["tick"])

    await until(has_begun, "the run is in its second step")
    return str(run["run_id"])
