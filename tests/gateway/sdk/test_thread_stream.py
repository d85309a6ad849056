"""`threads.join_stream`: all that runs on a thread, one run after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from langgraph_sdk.errors import NotFoundError
from langgraph_sdk.schema import StreamPart
from tests.support.sdk_parts import UNKNOWN, human, of, text_of

DONE = "run_done"


async def test_two_runs_on_one_stream(client: Any, thread_id: str) -> None:
    async with aclosing(await client.threads.join_stream(thread_id)) as stream:
        reading = asyncio.create_task(_until_done(stream, runs=2))
        await asyncio.sleep(0.3)  # nothing tells that it is being read
        runs = []
        for text in ("one", "two"):
            run = await client.runs.create(
                thread_id, "chat", input=human(text), stream_mode=["messages-tuple", "values"], stream_resumable=True
            )
            runs.append(run["run_id"])
        parts = await asyncio.wait_for(reading, 20)
    done = [data["run_id"] for data in of(parts, "metadata") if data.get("status") == DONE]
    assert done == runs
    assert [data["run_id"] for data in of(parts, "metadata") if data.get("status") != DONE] == runs
    assert text_of(parts) == "You said: oneYou said: two"
    assert of(parts, "values")[-1]["messages"][-1]["content"] == "You said: two"
    assert all(part.id for part in parts)


async def test_from_the_start(client: Any, thread_id: str) -> None:
    """What has run before is read again by those who ask for it."""
    for text in ("one", "two"):
        run = await client.runs.create(thread_id, "chat", input=human(text), stream_resumable=True)
        await client.runs.join(thread_id, run["run_id"])
    async with aclosing(await client.threads.join_stream(thread_id, last_event_id="-")) as stream:
        parts = await asyncio.wait_for(_until_done(stream, runs=2), 20)
    said = [values["messages"][-1]["content"] for values in of(parts, "values")]
    assert said == ["one", "You said: one", "two", "You said: two"]


@pytest.mark.ours("ids are not unique within a millisecond")
async def test_from_where_one_left_off(client: Any, thread_id: str) -> None:
    for text in ("one", "two"):
        await client.runs.wait(thread_id, "chat", input=human(text))
    async with aclosing(await client.threads.join_stream(thread_id, last_event_id="-")) as stream:
        whole = await asyncio.wait_for(_until_done(stream, runs=2), 20)
    for at in (0, 1, len(whole) // 2):
        async with aclosing(await client.threads.join_stream(thread_id, last_event_id=whole[at].id)) as stream:
            runs = sum(_is_done(part) for part in whole[at + 1 :])
            assert await asyncio.wait_for(_until_done(stream, runs), 20) == whole[at + 1 :]


@pytest.mark.ours("the stream of a thread that there is not never says anything")
async def test_an_unknown_thread(client: Any) -> None:
    with pytest.raises(NotFoundError):
        async with aclosing(await client.threads.join_stream(UNKNOWN)) as stream:
            await anext(stream)


async def _until_done(stream: AsyncIterator[StreamPart], runs: int) -> list[StreamPart]:
    parts = []
    async for part in stream:
        parts.append(part)
        runs -= _is_done(part)
        if not runs:
            break
    return parts


def _is_done(part: StreamPart) -> bool:
    return part.event == "metadata" and part.data.get("status") == DONE
