"""Readers that come at any moment and leave in any way: each gets exactly what it should, and disturbs no other."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.schema import StreamPart
from tests.support.gateways import LONG, MODES, TARGETS, Fleet, Reading, answers, check_ids, with_ids
from tests.support.history import check_history
from tests.support.processes import Processes
from tests.support.raw_http import RawStream
from tests.support.redis_server import RedisServer
from tests.support.sdk_parts import human
from tests.support.waiting import until
from websockets.asyncio.client import connect

from runstream import Client, ClientSettings, Event, Status
from runstream.model import EventId
from runstream_gateway.project import Project
from runstream_gateway.server import serve
from runstream_gateway.settings import GatewaySettings
from runstream_worker.graphs import load_graphs

pytestmark = [pytest.mark.real_redis, pytest.mark.ours("its processes are started here")]
JOINERS: Final = int(os.environ.get("RUNSTREAM_TEST_JOINERS", "50"))
TOKENS: Final = 1500
NAMESPACE: Final = "joiners"
SEED: Final = int(os.environ.get("RUNSTREAM_TEST_SEED", "4"))


@dataclass(frozen=True)
class Stage:
    """A gateway and a worker, as processes, for all tests of this file.

    Attributes:
        url: of the gateway; `pid` is its process.
        redis_url: of their Redis.
        folder: of their own.
    """

    url: str
    pid: int
    redis_url: str
    folder: Path

    @property
    def talking(self) -> dict[str, Any]:
        """An input of a run that goes on until it is stopped."""
        return {**human("hi"), "delay": 0.05, "gate": str(self.folder / "never")}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with asyncio.Runner() as runner:
        stages = _stage()
        yield runner.run(anext(stages))
        runner.run(stages.aclose())


async def _stage() -> AsyncGenerator[Stage, None]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            RedisServer(folder, fsync="no") as redis,
            Processes(redis.url, NAMESPACE, folder) as processes,
            Fleet(processes, gateways=1) as fleet,
        ):
            (port,) = fleet.ports
            yield Stage(f"http://127.0.0.1:{port}", fleet.gateways[port].pid, redis.url, folder)


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[Client]:
    async with Client(stage.redis_url, settings=ClientSettings(namespace=NAMESPACE)) as client:
        yield client


@pytest.fixture
async def api(stage: Stage) -> AsyncIterator[LangGraphClient]:
    async with get_client(url=stage.url, api_key=None) as api:
        yield api


# --- joining ----------------------------------------------------------------------------------------------------------


async def test_joiners_at_any_moment(stage: Stage, client: Client, api: LangGraphClient) -> None:
    chance = random.Random(SEED)  # noqa: S311 - to be repeated
    moments = sorted(chance.randrange(TOKENS) for _ in range(JOINERS))
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        apis = [await stack.enter_async_context(get_client(url=stage.url, api_key=None)) for _ in range(5)]
        thread_id = (await api.threads.create())["thread_id"]
        watching = Reading()
        options: dict[str, Any] = {"input": {**human("hi"), "tokens": TOKENS, "delay": 0.001}, "stream_mode": MODES}
        group.create_task(watching.read(api.runs.stream(thread_id, "talk", **options)))
        joined: list[tuple[str, Reading]] = []
        for number, moment in enumerate(moments):
            await until(lambda moment=moment: len(watching.parts) > moment, "the run goes on", LONG)  # type: ignore[misc]
            begin = "-1" if number % 2 else str(chance.choice(watching.parts).id)
            parts = _over_websocket if number % 10 > 7 else _over_sse
            reading = Reading()
            group.create_task(reading.read(parts(stage, apis[number % 5], thread_id, watching.run_id, begin)))
            joined.append((begin, reading))
        await until(lambda: all(reading.ended for _, reading in joined), "all have read to the end", LONG)

        events = [event async for event in client.tail(watching.run_id)]
        check_history(events)
        (plan, written, check) = answers(await api.threads.get_state(thread_id)).values()
        assert written == "".join(f"write{number} " for number in range(TOKENS))
        for begin, reading in [("-1", watching), *joined]:
            _check_joined(reading, begin, events, [plan, written, check])


async def _over_sse(
    _stage: Stage, api: LangGraphClient, thread_id: str, run_id: str, begin: str
) -> AsyncIterator[StreamPart]:
    async for part in api.runs.join_stream(thread_id, run_id, last_event_id=begin):
        yield part


async def _over_websocket(
    stage: Stage, _api: LangGraphClient, thread_id: str, run_id: str, begin: str
) -> AsyncIterator[StreamPart]:
    url = stage.url.replace("http", "ws", 1)
    async with connect(f"{url}/threads/{thread_id}/runs/{run_id}/stream?last_event_id={begin}") as socket:
        async for message in socket:
            frame = json.loads(message)
            yield StreamPart(frame["event"], frame["data"], frame.get("id"))
    assert socket.close_code == 1000


def _check_joined(reading: Reading, begin: str, events: list[Event], whole: list[str]) -> None:
    behind = None if begin == "-1" else EventId.of(begin)
    if behind is not None and behind == EventId.of(events[-1].id):
        assert reading.parts == []
        return
    check_ids(reading.parts, after=behind)
    known = {event.id: event.data for event in events if event.is_chunk}
    told = {id_: data for id_, _, data in with_ids(reading.parts) if id_ in known}
    assert told == {id_: data for id_, data in known.items() if behind is None or EventId.of(id_) > behind}
    if behind is None:
        said = [data[0]["content"] for _, name, data in with_ids(reading.parts) if name == "messages"]
        assert "".join(said) == "".join(whole)


# --- leaving ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def created(
    url: str, stage: Stage, api: LangGraphClient, on_disconnect: str, **options: Any
) -> AsyncIterator[RawStream]:
    """A run that goes on until it is stopped, and the stream of who created it, which has begun."""
    thread_id = (await api.threads.create())["thread_id"]
    body: dict[str, Any] = {"assistant_id": "talk", "stream_mode": MODES, "on_disconnect": on_disconnect}
    body["input"] = {**stage.talking, **options}
    async with RawStream(url, "POST", f"/threads/{thread_id}/runs/stream", body) as stream:
        await stream.read_until(b"event: messages")
        yield stream


async def is_stopped(client: Client, run_id: str) -> bool:
    return (await client.get(run_id)).status is Status.STOPPED


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_who_creates_a_run_may_take_it_along(
    stage: Stage, client: Client, api: LangGraphClient, how: str
) -> None:
    async with (
        created(stage.url, stage, api, "continue") as staying,
        created(stage.url, stage, api, "cancel") as leaving,
        created(stage.url, stage, api, "continue") as joined,
    ):
        getattr(staying, how)()
        getattr(leaving, how)()
        await until(lambda: is_stopped(client, leaving.run_id), "its run is stopped", LONG)
        path = f"{joined.header('content-location')}/stream?cancel_on_disconnect=1"
        async with RawStream(stage.url, "GET", path, headers={"last-event-id": "-1"}) as joiner:
            await joiner.read_until(b"event: messages")
            getattr(joiner, how)()
            await until(lambda: is_stopped(client, joined.run_id), "that run is stopped, too", LONG)
        await joined.read_until(b"event: end")
        assert not (await client.get(staying.run_id)).status.ended
        await client.stop(staying.run_id)


@asynccontextmanager
async def impatient_gateway(stage: Stage) -> AsyncIterator[str]:
    """A gateway in this process that takes clients for gone within a second or two."""
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    settings = GatewaySettings(redis_url=stage.redis_url, namespace=NAMESPACE, heartbeat=0.2, vanished_after=1.0)
    graphs = load_graphs(TARGETS)
    serving = asyncio.create_task(
        serve(graphs, settings, Project(), host="127.0.0.1", port=0, on_ready=ready.set_result)
    )
    either: list[asyncio.Future[Any]] = [serving, ready]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await serving  # raises why
    try:
        yield ready.result()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await serving


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when somebody was last heard of")
async def test_who_vanishes_without_a_word_is_noticed_and_who_does_not_read_is_not(
    stage: Stage, client: Client, api: LangGraphClient
) -> None:
    flood = {"assistant_id": "flood", "input": {"events": 5000, "size": 4000}, "stream_mode": ["custom"]}
    path = f"/threads/{(await api.threads.create())['thread_id']}/runs/stream"
    async with (
        impatient_gateway(stage) as url,
        created(url, stage, api, "cancel") as speaking,
        created(url, stage, api, "cancel", delay=1000) as silent,
        RawStream(url, "POST", path, flood, receive_buffer=4096) as full,
    ):
        await full.read_until(b"event: custom")
        for gone in (speaking, silent):
            gone.vanish()
            await until(lambda gone=gone: is_stopped(client, gone.run_id), "its run is stopped", LONG)  # type: ignore[misc]
        # Two have been taken for gone meanwhile; the one that left its buffer full has not.
        await full.read_to_the_end()
        assert _numbers(full.body) == list(range(5000))


def _numbers(body: bytes) -> list[int]:
    """Those of the events of a `flood`."""
    return [int(number) for number in re.findall(rb'^data: {"number":(\d+),', body, re.MULTILINE)]


# --- reading slowly ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="looks at memory as Linux tells it")
async def test_slow_readers_cost_little_lose_nothing_and_slow_nobody(stage: Stage, api: LangGraphClient) -> None:
    slow_ones, events = 4, 5000
    flood = {"assistant_id": "flood", "input": {"events": events, "size": 4000}, "stream_mode": ["custom"]}
    async with AsyncExitStack() as stack:

        async def create() -> RawStream:
            path = f"/threads/{(await api.threads.create())['thread_id']}/runs/stream"
            return await stack.enter_async_context(RawStream(stage.url, "POST", path, flood))

        async def join(path: str) -> RawStream:
            slow = RawStream(stage.url, "GET", path, headers={"last-event-id": "-1"}, receive_buffer=4096)
            return await stack.enter_async_context(slow)

        # Once without them: what the gateway takes in any case it has then.
        await (await create()).read_to_the_end()
        before = _peak_memory(stage.pid)

        fast = await create()
        await fast.read_until(b"event: custom")
        slow = [await join(f"{fast.header('content-location')}/stream") for _ in range(slow_ones)]
        while not fast.has_ended:
            await fast.read()
            for each in slow:
                await each.read(1)
        assert _numbers(fast.body) == list(range(events))
        assert all(len(each.received) < len(fast.received) // 100 for each in slow)
        assert _peak_memory(stage.pid) - before < slow_ones * len(fast.received) // 4
        for each in slow:
            await each.read_to_the_end()
            assert _numbers(each.body) == list(range(events))


def _peak_memory(pid: int) -> int:
    """The most that a process has ever had in memory, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index] # it is there
