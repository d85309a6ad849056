"""What owners keep: counted with the comparison in one step, measured as it is, and never wrong for good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.support.cell import Cell
from tests.support.waiting import until

from runstream import Client
from runstream.usage import Full, Item, Stored, Usage

DAY = 24 * 3600.0


@pytest.fixture
def usage(cell: Cell) -> Usage:
    async def call(send: Callable[[], Awaitable[Any]]) -> Any:
        return await send()

    return Usage(cell.redis, cell.keys, cell.scripts, call)


async def test_requests_at_the_same_time_do_not_pass_a_limit_together(client: Client) -> None:
    async def add(at: int) -> Full | None:
        return await client.usage.add("o", [Item("thread", f"t{at}", 100, 5)], most_bytes=None, ttl=DAY)

    replies = await asyncio.gather(*(add(at) for at in range(20)))
    assert replies.count(None) == 5
    assert {reply for reply in replies if reply is not None} == {Full("thread", 5, 5)}
    assert await client.usage.known("o") == Stored(bytes=500, threads=5)
    assert await client.usage.add("another", [Item("thread", "t", 1, 5)], most_bytes=None, ttl=DAY) is None


async def test_all_of_them_or_none(client: Client) -> None:
    items = [Item("run", "r", 60, 10), Item("thread", "t", 50, 10)]
    assert await client.usage.add("o", items, most_bytes=100, ttl=DAY) == Full("bytes", 0, 100)
    assert await client.usage.known("o") == Stored()
    assert await client.usage.add("o", items, most_bytes=110, ttl=DAY) is None
    assert await client.usage.add("o", [Item("webhook", "r", 1)], most_bytes=110, ttl=DAY) == Full("bytes", 110, 110)
    assert await client.usage.add("o", [Item("thread", "t", 51, None, 100)], most_bytes=None, ttl=DAY) == Full(
        "size", 101, 100
    )


async def test_what_is_there_is_measured(any_client: Client) -> None:
    client = any_client
    threads = client.documents("thread", ttl=DAY)
    await client.usage.add("o", [Item("thread", "t", 5_000)], most_bytes=None, ttl=DAY)
    await threads.create("t", {"text": "x" * 100})
    # The reservation is for what is still being written.
    assert await client.usage.measure("o") == Stored(bytes=5_000, threads=1)
    await client.usage.forget("o", [Item("thread", "t")])
    await client.usage.look("o", [Item("thread", "t")], ttl=DAY)
    assert await client.usage.known("o") == Stored(bytes=111, threads=1)
    await threads.delete("t")
    assert await client.usage.measure("o") == Stored()


async def test_runs_and_webhooks_are_measured(client: Client) -> None:
    run = await client.enqueue("g", {"text": "x" * 1_000})
    await client.usage.look(
        "o", [Item("run", run.run_id), Item("webhook", run.run_id), Item("assistant", "none")], ttl=DAY
    )
    known = await client.usage.known("o")
    assert (known.runs, known.webhooks, known.assistants) == (1, 0, 0)
    assert 1_000 < known.bytes < 2_000
    await client.stop(run.run_id)
    await client.delete(run.run_id)
    assert await client.usage.measure("o") == Stored()


async def test_what_a_killed_process_had_reserved_lapses(cell: Cell, usage: Usage) -> None:
    await usage.add("o", [Item("thread", "t", 1_000, 1)], most_bytes=None, ttl=DAY)
    assert await usage.measure("o") == Stored(bytes=1_000, threads=1)
    await cell.redis.zadd(cell.keys.reserved("o"), {"thread:t": 1})  # a minute later
    assert await usage.measure("o") == Stored()
    assert await usage.add("o", [Item("thread", "u", 1, 1)], most_bytes=None, ttl=DAY) is None


async def test_additions_correct_what_has_changed_meanwhile(cell: Cell, usage: Usage) -> None:
    for at in range(5):
        await cell.redis.hset(cell.keys.document("thread", f"t{at}"), "json", "{}")
    await usage.look("o", [Item("thread", f"t{at}") for at in range(5)], ttl=DAY)
    assert await usage.known("o") == Stored(bytes=10, threads=5)
    for at in range(5):
        await cell.redis.delete(cell.keys.document("thread", f"t{at}"))

    async def is_corrected() -> bool:
        assert await usage.add("o", [Item("run", "r")], most_bytes=None, ttl=DAY) is None
        return (await usage.known("o")).threads == 0

    await until(is_corrected, "all have been looked at")
    assert (await usage.known("o")).bytes == 0


@pytest.mark.parametrize("most", [0, 1])
async def test_a_limit_of_none_or_few(usage: Usage, most: int) -> None:
    replies = [await usage.add("o", [Item("run", f"{at}", 0, most)], most_bytes=None, ttl=DAY) for at in range(2)]
    assert replies.count(None) == most
