"""Connections that break: the clients come back by themselves, and miss nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langgraph_sdk import get_client, get_sync_client
from tests.support.proxy import Proxy
from tests.support.sdk_clients import Threaded
from tests.support.sdk_parts import collect, of, slowly
from tests.support.waiting import until

TICKS = [{"tick": number} for number in range(8)]


@pytest.fixture
async def proxy(base_url: str) -> AsyncIterator[Proxy]:
    """A way to the server that can be cut."""
    async with Proxy(base_url) as proxy:
        yield proxy


@pytest.fixture(params=["async", "sync"])
async def client(request: pytest.FixtureRequest, proxy: Proxy) -> AsyncIterator[Any]:
    """Either client, by way of the proxy."""
    if request.param == "async":
        async with get_client(url=proxy.url, api_key=None) as client:
            yield client
    else:
        with get_sync_client(url=proxy.url, api_key=None) as sync_client:
            yield Threaded(sync_client)


async def test_a_stream_goes_on(client: Any, proxy: Proxy, thread_id: str) -> None:
    stream = client.runs.stream(
        thread_id, "slow", input=slowly(len(TICKS)), stream_mode=["custom", "values"], stream_resumable=True
    )
    parts = []
    async for part in stream:
        parts.append(part)
        if part.data in (TICKS[2], TICKS[5]):
            await proxy.cut()
    assert of(parts, "custom") == TICKS
    assert of(parts, "values")[-1]["steps"] == ["begin", "tick", "finish"]
    run_id = parts[0].data["run_id"]
    whole = await collect(client.runs.join_stream(thread_id, run_id, last_event_id="-1"))
    assert [part for part in parts if part.event != "end"] == whole


async def test_what_waits_goes_on(client: Any, proxy: Proxy, thread_id: str) -> None:
    waiting = asyncio.create_task(client.runs.wait(thread_id, "slow", input=slowly(len(TICKS))))
    await until(lambda: _runs(client, thread_id), "the run runs")
    await asyncio.sleep(0.1)  # until the answer's head is there, which nothing tells
    with pytest.warns(UserWarning, match="attempting reconnect to Location"):
        _, values = await asyncio.gather(proxy.cut(), waiting)
    assert values["steps"] == ["begin", "tick", "finish"]
    assert len(await client.runs.list(thread_id)) == 1


@pytest.mark.ours("only what was asked to be resumable can be read again")
async def test_a_stream_that_nobody_called_resumable_goes_on(client: Any, proxy: Proxy, thread_id: str) -> None:
    stream = client.runs.stream(thread_id, "slow", input=slowly(len(TICKS)), stream_mode="custom")
    parts = []
    async for part in stream:
        parts.append(part)
        if part.data == TICKS[2]:
            await proxy.cut()
    assert of(parts, "custom") == TICKS


async def _runs(client: Any, thread_id: str) -> bool:
    return bool(await client.runs.list(thread_id, status="running"))
