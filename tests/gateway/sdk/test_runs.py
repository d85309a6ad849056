"""`runs`: create, get, list, cancel, delete, batches, and runs without a thread."""

from __future__ import annotations

import re
import uuid
from datetime import datetime
from typing import Any

import pytest
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError
from tests.support.sdk_parts import UNKNOWN, collect, human, names, of, slowly
from tests.support.waiting import until


async def test_a_new_run(client: Any, thread_id: str) -> None:
    run = await client.runs.create(thread_id, "chat", input=human("hi"), metadata={"colour": "red"})
    assert run["status"] == "pending"
    assert run["thread_id"] == thread_id
    assert str(uuid.UUID(run["run_id"])) == run["run_id"]
    assert str(uuid.UUID(run["assistant_id"])) == run["assistant_id"]
    assert run["multitask_strategy"] == "enqueue"
    assert run["metadata"]["colour"] == "red"
    assert run["metadata"]["graph_id"] == "chat"
    assert run["metadata"]["assistant_id"] == run["assistant_id"]
    assert run["kwargs"]["input"] == human("hi")
    assert run["kwargs"]["stream_mode"] == ["values"]
    for moment in (run["created_at"], run["updated_at"]):
        assert datetime.fromisoformat(moment).tzinfo is not None
    await client.runs.join(thread_id, run["run_id"])
    got = await client.runs.get(thread_id, run["run_id"])
    assert got["status"] == "success"
    assert got.keys() == run.keys()
    assert {**got, "status": "", "updated_at": "", "kwargs": ""} == {
        **run,
        "status": "",
        "updated_at": "",
        "kwargs": "",
    }


async def test_a_new_run_is_told_of(client: Any, thread_id: str) -> None:
    created: list[Any] = []
    run = await client.runs.create(thread_id, "chat", input=human("hi"), on_run_created=created.append)
    assert created == [{"run_id": run["run_id"], "thread_id": thread_id}]


async def test_the_assistant_by_its_id(client: Any, thread_id: str) -> None:
    (assistant,) = await client.assistants.search(graph_id="parallel", metadata={"created_by": "system"})
    values = await client.runs.wait(thread_id, assistant["assistant_id"], input={})
    assert values["steps"] == ["left", "right", "joined"]


async def test_a_failed_run(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "failing", input={}, raise_error=False)
    (run,) = await client.runs.list(thread_id)
    assert run["status"] == "error"
    thread = await client.threads.get(thread_id)
    assert thread["status"] == "error"
    assert thread["values"] == {"steps": ["plan"]}
    assert thread["error"]["error"] == "ValueError"
    assert thread["error"]["message"] == "boom"


async def test_the_list_has_the_newest_first(client: Any, thread_id: str) -> None:
    runs = [await client.runs.create(thread_id, "chat", input=human(word)) for word in ("one", "two", "three")]
    newest_first = [run["run_id"] for run in reversed(runs)]
    assert [run["run_id"] for run in await client.runs.list(thread_id)] == newest_first
    assert [run["run_id"] for run in await client.runs.list(thread_id, limit=2)] == newest_first[:2]
    assert [run["run_id"] for run in await client.runs.list(thread_id, limit=2, offset=2)] == newest_first[2:]
    await client.runs.join(thread_id, newest_first[0])
    finished = await client.runs.list(thread_id, status="success")
    assert [run["run_id"] for run in finished] == newest_first
    assert await client.runs.list(thread_id, status="error") == []


async def test_the_list_with_some_fields(client: Any, thread_id: str) -> None:
    run = await client.runs.create(thread_id, "chat", input=human("hi"))
    assert await client.runs.list(thread_id, select=["run_id", "thread_id"]) == [
        {"run_id": run["run_id"], "thread_id": thread_id}
    ]


async def test_runs_of_one_thread_run_one_after_the_other(client: Any, thread_id: str) -> None:
    runs = [await client.runs.create(thread_id, "chat", input=human(word)) for word in ("one", "two", "three")]
    values = await client.runs.join(thread_id, runs[-1]["run_id"])
    said = [message["content"] for message in values["messages"]]
    assert said == ["one", "You said: one", "two", "You said: two", "three", "You said: three"]


async def test_cancelling_a_running_run(client: Any, thread_id: str) -> None:
    run_id = await _running(client, thread_id)
    await client.runs.cancel(thread_id, run_id, wait=True)
    assert (await client.runs.get(thread_id, run_id))["status"] == "interrupted"
    state = await client.threads.get_state(thread_id)
    assert state["values"]["steps"] == ["begin"]
    assert state["next"] == ["tick"]
    assert (await client.threads.get(thread_id))["status"] == "interrupted"


async def test_cancelling_without_waiting(client: Any, thread_id: str) -> None:
    run_id = await _running(client, thread_id)
    await client.runs.cancel(thread_id, run_id)
    await until(lambda: _is(client, thread_id, run_id, "interrupted"), "the run was stopped")


async def test_going_on_after_a_cancellation(client: Any, thread_id: str) -> None:
    run_id = await _running(client, thread_id, ticks=8)
    await client.runs.cancel(thread_id, run_id, wait=True)
    values = await client.runs.wait(thread_id, "slow", input=None)
    assert values["steps"] == ["begin", "tick", "finish"]
    assert (await client.threads.get(thread_id))["status"] == "idle"


async def test_cancelling_a_run_that_waits_its_turn(client: Any, thread_id: str) -> None:
    running = await _running(client, thread_id)
    waiting = await client.runs.create(thread_id, "slow", input=slowly(1))
    await client.runs.cancel(thread_id, waiting["run_id"])
    assert (await client.runs.get(thread_id, waiting["run_id"]))["status"] == "interrupted"
    assert (await client.runs.get(thread_id, running))["status"] == "running"
    await client.runs.cancel(thread_id, running, wait=True)


@pytest.mark.ours("the thread becomes idle while a run of it still runs")
async def test_a_thread_stays_busy_when_a_waiting_run_is_cancelled(client: Any, thread_id: str) -> None:
    running = await _running(client, thread_id)
    waiting = await client.runs.create(thread_id, "slow", input=slowly(1))
    await client.runs.cancel(thread_id, waiting["run_id"])
    assert (await client.threads.get(thread_id))["status"] == "busy"
    await client.runs.cancel(thread_id, running, wait=True)


async def test_cancelling_with_a_rollback(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "slow", input={"steps": ["before"], "ticks": 0})
    before = await client.threads.get_state(thread_id)
    run_id = await _running(client, thread_id)
    await client.runs.cancel(thread_id, run_id, wait=True, action="rollback")
    await until(lambda: _is_gone(client, thread_id, run_id), "the run is gone")
    after = await client.threads.get_state(thread_id)
    assert after["values"]["steps"] == before["values"]["steps"]
    assert after["checkpoint"] == before["checkpoint"]
    assert (await client.threads.get(thread_id))["status"] == "idle"


async def test_a_cancelled_run_closes_its_stream(client: Any, thread_id: str) -> None:
    parts = []
    async for part in client.runs.stream(thread_id, "slow", input=slowly(), stream_mode=["custom", "values"]):
        parts.append(part)
        if part.event == "metadata":
            run_id = part.data["run_id"]
        if part.data == {"tick": 0}:
            await client.runs.cancel(thread_id, run_id)
    assert "error" not in names(parts)
    assert of(parts, "values")[-1]["steps"] == ["begin"]
    assert (await client.runs.get(thread_id, run_id))["status"] == "interrupted"


@pytest.mark.ours("answers 404, as if it had never been: a stop button that comes a moment too late fails")
async def test_cancelling_a_finished_run(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "chat", input=human("hi"))
    (run,) = await client.runs.list(thread_id)
    await client.runs.cancel(thread_id, run["run_id"])
    assert (await client.runs.get(thread_id, run["run_id"]))["status"] == "success"


async def test_cancelling_several(client: Any, thread_id: str) -> None:
    running = await _running(client, thread_id)
    waiting = await client.runs.create(thread_id, "slow", input=slowly(1))
    await client.runs.cancel_many(thread_id=thread_id, run_ids=[running, waiting["run_id"]])
    for run_id in (running, waiting["run_id"]):
        await until(lambda run_id=run_id: _is(client, thread_id, run_id, "interrupted"), "the run was stopped")  # type: ignore[misc]


async def test_cancelling_all_of_a_status(client: Any, thread_id: str) -> None:
    running = await _running(client, thread_id)
    waiting = await client.runs.create(thread_id, "slow", input=slowly(1))
    await client.runs.cancel_many(status="pending")
    await until(lambda: _is(client, thread_id, waiting["run_id"], "interrupted"), "the waiting run was stopped")
    assert (await client.runs.get(thread_id, running))["status"] == "running"
    await client.runs.cancel_many(status="all")
    await until(lambda: _is(client, thread_id, running, "interrupted"), "the running run was stopped")


async def test_cancelling_several_takes_one_of_two_forms(client: Any, thread_id: str) -> None:
    with pytest.raises(UnprocessableEntityError):
        await client.runs.cancel_many()
    with pytest.raises(UnprocessableEntityError):
        await client.runs.cancel_many(thread_id=thread_id, run_ids=[UNKNOWN], status="all")
    with pytest.raises(NotFoundError):
        await client.runs.cancel_many(thread_id=thread_id, run_ids=[UNKNOWN])


async def test_deleting_a_run(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "chat", input=human("hi"))
    (run,) = await client.runs.list(thread_id)
    await client.runs.delete(thread_id, run["run_id"])
    with pytest.raises(NotFoundError):
        await client.runs.get(thread_id, run["run_id"])
    assert await client.runs.list(thread_id) == []


@pytest.mark.ours("a deleted run goes on")
async def test_deleting_a_running_run_stops_it(client: Any, thread_id: str) -> None:
    run_id = await _running(client, thread_id, ticks=10)
    await client.runs.delete(thread_id, run_id)
    values = await client.runs.wait(thread_id, "slow", input={"ticks": 0})
    assert values["steps"] in (["begin", "begin", "tick", "finish"], ["begin", "tick", "finish"])


async def test_a_batch(client: Any) -> None:
    runs = await client.runs.create_batch(
        [
            {"assistant_id": "chat", "input": human("one"), "on_completion": "keep"},
            {"assistant_id": "parallel", "input": {}, "metadata": {"colour": "red"}, "on_completion": "keep"},
        ]
    )
    assert len(runs) == 2
    assert len({run["thread_id"] for run in runs}) == 2
    assert runs[1]["metadata"]["colour"] == "red"
    for run in runs:
        await until(lambda run=run: _is(client, run["thread_id"], run["run_id"], "success"), "the run ended")  # type: ignore[misc]


async def test_without_a_thread_wait(client: Any) -> None:
    created: list[Any] = []
    values = await client.runs.wait(None, "chat", input=human("hi"), on_run_created=created.append)
    assert values["messages"][-1]["content"] == "You said: hi"
    assert created[0]["run_id"]
    await until(lambda: _thread_is_gone(client, created[0]["thread_id"]), "the thread is gone")


async def test_without_a_thread_stream(client: Any) -> None:
    created: list[Any] = []
    stream = client.runs.stream(None, "chat", input=human("hi"), stream_mode="updates", on_run_created=created.append)
    parts = await collect(stream)
    assert names(parts) == ["metadata", "updates"]
    assert created[0]["run_id"] == parts[0].data["run_id"]


async def test_without_a_thread_create(client: Any) -> None:
    run = await client.runs.create(None, "chat", input=human("hi"), on_completion="keep")
    assert run["status"] == "pending"
    await client.runs.join(run["thread_id"], run["run_id"])
    state = await client.threads.get_state(run["thread_id"])
    assert state["values"]["messages"][-1]["content"] == "You said: hi"


async def test_without_a_thread_nothing_stays(client: Any) -> None:
    run = await client.runs.create(None, "chat", input=human("hi"))
    await until(lambda: _thread_is_gone(client, run["thread_id"]), "the thread is gone")


async def test_without_a_thread_a_kept_one_can_be_gone_on_with(client: Any) -> None:
    created: list[Any] = []
    await client.runs.wait(None, "chat", input=human("one"), on_completion="keep", on_run_created=created.append)
    values = await client.runs.wait(created[0]["thread_id"], "chat", input=human("two"))
    assert [message["content"] for message in values["messages"]][-2:] == ["two", "You said: two"]
    assert len(values["messages"]) == 4


async def test_without_a_thread_an_error(client: Any) -> None:
    parts = await collect(client.runs.stream(None, "failing", input={}))
    assert parts[-1].event == "error"
    with pytest.raises(Exception, match=re.escape("ValueError: boom")):
        await client.runs.wait(None, "failing", input={})


async def _running(client: Any, thread_id: str, ticks: int = 200) -> str:
    """A run whose first step is saved, and whose second goes on for long."""
    run = await client.runs.create(thread_id, "slow", input=slowly(ticks), durability="sync")
    await until(lambda: _has_begun(client, thread_id), "the run is in its second step")
    return str(run["run_id"])


async def _has_begun(client: Any, thread_id: str) -> bool:
    state = await client.threads.get_state(thread_id)
    return bool(state["next"] == ["tick"])


async def _is(client: Any, thread_id: str, run_id: str, status: str) -> bool:
    return bool((await client.runs.get(thread_id, run_id))["status"] == status)


async def _is_gone(client: Any, thread_id: str, run_id: str) -> bool:
    try:
        await client.runs.get(thread_id, run_id)
    except NotFoundError:
        return True
    return False


async def _thread_is_gone(client: Any, thread_id: str) -> bool:
    try:
        await client.threads.get(thread_id)
    except NotFoundError:
        return True
    return False
