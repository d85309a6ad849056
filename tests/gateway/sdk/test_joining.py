"""`runs.wait`, `join` and `join_stream`: waiting for a run, and reading it from anywhere."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import NotFoundError
from tests.support.sdk_parts import UNKNOWN, collect, first, human, names, of, slowly
from tests.support.waiting import until

TICKS = [{"tick": number} for number in range(6)]


@pytest.fixture
async def run_id(async_client: LangGraphClient, thread_id: str) -> str:
    """A resumable run that takes a moment."""
    return await _ticking(async_client, thread_id, 0.05)


async def _ticking(client: LangGraphClient, thread_id: str, delay: float) -> str:
    modes: Any = ["custom", "updates", "values"]
    run = await client.runs.create(
        thread_id, "slow", input=slowly(len(TICKS), delay), stream_mode=modes, stream_resumable=True
    )
    return run["run_id"]


async def test_wait_returns_the_last_values(client: Any, thread_id: str) -> None:
    values = await client.runs.wait(thread_id, "chat", input=human("hi"))
    assert [message["content"] for message in values["messages"]] == ["hi", "You said: hi"]
    assert values == (await client.threads.get_state(thread_id))["values"]


async def test_wait_tells_of_the_run(client: Any, thread_id: str) -> None:
    created: list[Any] = []
    await client.runs.wait(thread_id, "chat", input=human("hi"), on_run_created=created.append)
    assert created == [{"run_id": (await client.runs.list(thread_id))[0]["run_id"], "thread_id": thread_id}]


async def test_wait_raises_what_the_run_raised(client: Any, thread_id: str) -> None:
    with pytest.raises(Exception, match="ValueError: boom"):
        await client.runs.wait(thread_id, "failing", input={})


async def test_wait_returns_the_error_where_it_is_asked_not_to_raise(client: Any, thread_id: str) -> None:
    values = await client.runs.wait(thread_id, "failing", input={}, raise_error=False)
    assert values == {"__error__": {"error": "ValueError", "message": "boom"}}


async def test_join_waits_for_the_end(client: Any, thread_id: str, run_id: str) -> None:
    values = await client.runs.join(thread_id, run_id)
    assert values["steps"] == ["begin", "tick", "finish"]
    assert (await client.runs.get(thread_id, run_id))["status"] == "success"


async def test_join_after_the_end(client: Any, thread_id: str) -> None:
    values = await client.runs.wait(thread_id, "chat", input=human("hi"))
    (run,) = await client.runs.list(thread_id)
    assert await client.runs.join(thread_id, run["run_id"]) == values


async def test_join_of_a_failed_run(client: Any, thread_id: str) -> None:
    await client.runs.wait(thread_id, "failing", input={}, raise_error=False)
    (run,) = await client.runs.list(thread_id)
    joined = await client.runs.join(thread_id, run["run_id"])
    assert joined == {"__error__": {"error": "ValueError", "message": "boom"}}


async def test_joining_without_an_id_is_from_now_on(client: Any, async_client: LangGraphClient, thread_id: str) -> None:
    run_id = await _ticking(async_client, thread_id, 0.15)
    await until(lambda: _is_running(client, thread_id, run_id), "the run runs")
    async for part in async_client.runs.join_stream(thread_id, run_id, last_event_id="-1"):
        if part.event == "custom":
            break  # it has ticked
    parts = await collect(client.runs.join_stream(thread_id, run_id))
    ticks = of(parts, "custom")
    assert ticks == TICKS[len(TICKS) - len(ticks) :]
    assert 0 < len(ticks) < len(TICKS)
    assert [part.event for part in parts][-1] == "values"


@pytest.mark.parametrize("start", ["-1", "0", "0-0", "-"])
async def test_joining_from_the_start(async_client: LangGraphClient, thread_id: str, run_id: str, start: str) -> None:
    parts = await collect(async_client.runs.join_stream(thread_id, run_id, last_event_id=start))
    assert names(parts)[0] == "metadata"
    assert of(parts, "custom") == TICKS
    assert [list(update) for update in of(parts, "updates")] == [["begin"], ["tick"], ["finish"]]
    assert of(parts, "values")[-1]["steps"] == ["begin", "tick", "finish"]


async def test_joining_where_one_left_off(client: Any, thread_id: str, run_id: str) -> None:
    before = []
    async with aclosing(client.runs.join_stream(thread_id, run_id, last_event_id="-1")) as stream:
        async for part in stream:
            before.append(part)
            if part.data == TICKS[2]:
                break
    after = await collect(client.runs.join_stream(thread_id, run_id, last_event_id=before[-1].id))
    whole = await collect(client.runs.join_stream(thread_id, run_id, last_event_id="-1"))
    assert [*before, *after] == whole


async def test_joining_after_the_end_from_the_start(client: Any, thread_id: str) -> None:
    modes = ["updates", "values"]
    stream = client.runs.stream(thread_id, "chat", input=human("hi"), stream_mode=modes, stream_resumable=True)
    parts = await collect(stream)
    run_id = parts[0].data["run_id"]
    assert await collect(client.runs.join_stream(thread_id, run_id, last_event_id="-1")) == parts
    assert await collect(client.runs.join_stream(thread_id, run_id, last_event_id=parts[-1].id)) == []


async def test_joining_after_the_end_without_an_id_is_empty(client: Any, thread_id: str, run_id: str) -> None:
    await client.runs.join(thread_id, run_id)
    assert await collect(client.runs.join_stream(thread_id, run_id)) == []


async def test_only_one_mode(client: Any, thread_id: str, run_id: str) -> None:
    stream = client.runs.join_stream(thread_id, run_id, last_event_id="-1", stream_mode="custom")
    assert set(names(await collect(stream))) - {"metadata"} == {"custom"}


@pytest.mark.ours("only the last of several modes counts")
async def test_only_some_modes(client: Any, thread_id: str, run_id: str) -> None:
    stream = client.runs.join_stream(thread_id, run_id, last_event_id="-1", stream_mode=["custom", "updates"])
    assert set(names(await collect(stream))) - {"metadata"} == {"custom", "updates"}


async def test_a_mode_with_its_subgraphs(client: Any, thread_id: str) -> None:
    stream = client.runs.stream(
        thread_id, "parent", input={}, stream_mode=["updates", "values"], stream_subgraphs=True, stream_resumable=True
    )
    parts = await collect(stream)
    run_id = parts[0].data["run_id"]
    joined = await collect(client.runs.join_stream(thread_id, run_id, last_event_id="-1", stream_mode="updates"))
    assert [name for name in names(joined) if name != "metadata"] == ["updates|child", "updates", "updates"]


async def test_many_readers_read_the_same(async_client: LangGraphClient, thread_id: str, run_id: str) -> None:
    async def read(delay: float) -> list[Any]:
        await asyncio.sleep(delay)
        return await collect(async_client.runs.join_stream(thread_id, run_id, last_event_id="-1"))

    first_one, *others = await asyncio.gather(*(read(number * 0.1) for number in range(5)))
    assert all(other == first_one for other in others)


async def test_a_disconnecting_joiner_leaves_the_run_alone(client: Any, thread_id: str, run_id: str) -> None:
    async with aclosing(client.runs.join_stream(thread_id, run_id, last_event_id="-1")) as stream:
        await first(stream, "custom")
    await client.runs.join(thread_id, run_id)
    assert (await client.runs.get(thread_id, run_id))["status"] == "success"


async def test_a_joiner_can_take_the_run_along(client: Any, thread_id: str) -> None:
    run = await client.runs.create(thread_id, "slow", input=slowly(), stream_mode="custom", stream_resumable=True)
    joined = client.runs.join_stream(thread_id, run["run_id"], last_event_id="-1", cancel_on_disconnect=True)
    async with aclosing(joined) as stream:
        await first(stream, "custom")
    await until(lambda: _is(client, thread_id, run["run_id"], "interrupted"), "the run was stopped")


async def test_a_disconnecting_creator_leaves_the_run_alone(client: Any, thread_id: str) -> None:
    made = client.runs.stream(thread_id, "slow", input=slowly(3, 0.05), stream_mode="custom")
    async with aclosing(made) as stream:
        run_id = (await first(stream, "metadata")).data["run_id"]
    await until(lambda: _is(client, thread_id, run_id, "success"), "the run went on")


async def test_a_creator_can_take_the_run_along(client: Any, thread_id: str) -> None:
    made = client.runs.stream(thread_id, "slow", input=slowly(), stream_mode="custom", on_disconnect="cancel")
    async with aclosing(made) as stream:
        run_id = (await first(stream, "metadata")).data["run_id"]
        await first(stream, "custom")
    await until(lambda: _is(client, thread_id, run_id, "interrupted"), "the run was stopped")


async def test_a_creator_that_waits_can_take_the_run_along(async_client: LangGraphClient, thread_id: str) -> None:
    waiting = asyncio.create_task(async_client.runs.wait(thread_id, "slow", input=slowly(), on_disconnect="cancel"))
    await until(lambda: _has_run(async_client, thread_id, "running"), "the run runs")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until(lambda: _has_run(async_client, thread_id, "interrupted"), "the run was stopped")


async def test_joining_an_unknown_run_is_an_error_event_or_404(client: Any, thread_id: str) -> None:
    # Both are right for the clients.
    try:
        parts = await collect(client.runs.join_stream(thread_id, UNKNOWN))
    except NotFoundError:
        return
    assert [part.event for part in parts] == ["error"]


async def _is(client: Any, thread_id: str, run_id: str, status: str) -> bool:
    return bool((await client.runs.get(thread_id, run_id))["status"] == status)


async def _is_running(client: Any, thread_id: str, run_id: str) -> bool:
    return await _is(client, thread_id, run_id, "running")


async def _has_run(client: Any, thread_id: str, status: str) -> bool:
    return bool(await client.runs.list(thread_id, status=status))
