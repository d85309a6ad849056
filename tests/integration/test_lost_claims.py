"""A claim that Redis has lost, of a worker that is dead: by a real loss of power, and by a real failover."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from redis.asyncio import Redis
from tests.contract.test_lost_numbers import Reader, speak
from tests.support.cell import Cell
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.sentinels import promote, replicate
from tests.support.stage import Stage, Story, spoken
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, ClientSettings, Status
from runstream.connection import connect
from runstream.keys import Keys
from runstream.model import EventId
from runstream.scripts import Hold

pytestmark = pytest.mark.real_redis

HI: dict[str, Any] = {"messages": [{"type": "human", "content": "hi", "id": "h"}], "steps": []}


def graph(stage: Stage) -> Any:
    built = StateGraph(Story).add_sequence([(name, stage.node(name)) for name in ("one", "two")])
    return built.add_edge(START, "one").compile()


@asynccontextmanager
async def at_work(url: str, namespace: str) -> AsyncIterator[tuple[Client, Cell]]:
    """A client that outlasts what happens, and the scripts."""
    settings = ClientSettings(namespace=namespace, call_timeout=30, reconnect_timeout=60)
    async with AsyncExitStack() as stack:
        redis = connect(url, connections=2)
        stack.push_async_callback(redis.aclose)
        yield await stack.enter_async_context(Client(url, settings=settings)), Cell(redis, Keys(namespace))


async def begin_and_die(client: Client, cell: Cell, run_id: str) -> Reader:
    """Have a worker publish something that it never saves, and somebody read it."""
    dead = await cell.take("dead", "play")
    assert dead == Hold(run_id, 1, "dead")
    await speak(cell, dead, "said and never saved", task="t")
    reader = Reader(client, run_id)
    await reader.has("1-4")
    return reader


async def goes_on(client: Client, url: str, namespace: str, run_id: str, reader: Reader) -> None:
    """Have a living worker take the run; its reader has what it saves, and nothing else."""
    stage = Stage()
    async with Workers(url, namespace) as workers:
        await workers.start(play=graph(stage))
        result = await client.result(run_id)
        await reader.ended()
    assert reader.texts == spoken(result["messages"])
    assert (reader.fold.status, reader.fold.complete) == (Status.SUCCESS, True)
    assert EventId.of(reader.events[-1].id).attempt > 1000
    info = await client.get(run_id)
    assert (info.attempts, info.holders) == (1, [])


async def test_a_loss_of_power_gives_no_number_out_twice(tmp_path: Path, namespace: str) -> None:
    async with RedisServer(tmp_path, "everysec") as server, at_work(server.url, namespace) as (client, cell):
        run = await client.enqueue("play", HI, stream_mode=["messages", "updates"])
        written = server.written()
        reader = await begin_and_die(client, cell, run.run_id)
        await server.cut_power(written)
        await server.start()
        assert (await client.get(run.run_id)).status is Status.QUEUED
        await goes_on(client, server.url, namespace, run.run_id, reader)


async def test_a_failover_to_a_replica_that_was_behind_gives_no_number_out_twice(
    tmp_path: Path, namespace: str
) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    async with (
        RedisServer(folders[0]) as master,
        RedisServer(folders[1]) as replica,
        Proxy(master.url) as address,
        Proxy(master.url) as link,
        at_work(address.url, namespace) as (client, cell),
    ):
        await replicate(replica, link.url)
        run = await client.enqueue("play", HI, stream_mode=["messages", "updates"])
        await until(lambda: _has(replica, run.run_id, namespace), "the replica has the run")
        await link.take_away()
        reader = await begin_and_die(client, cell, run.run_id)
        await master.kill()
        await promote(replica)
        address.lead_to(replica.url)
        await goes_on(client, address.url, namespace, run.run_id, reader)
        await master.start()  # for the end of the block to kill


async def _has(server: RedisServer, run_id: str, namespace: str) -> bool:
    async with Redis.from_url(server.url) as redis:
        return bool(await redis.exists(Keys(namespace).run(run_id)))


async def test_two_losses_of_power_in_a_row_give_no_number_out_twice(tmp_path: Path, namespace: str) -> None:
    """The second one takes with it that there was a first."""
    async with RedisServer(tmp_path, "everysec") as server, at_work(server.url, namespace) as (client, cell):
        run = await client.enqueue("play", HI, stream_mode=["messages", "updates"])
        written = server.written()
        reader = await begin_and_die(client, cell, run.run_id)
        await server.cut_power(written)
        await server.start()
        again = await cell.take("dead too", "play")
        await speak(cell, again, "said and lost again", task="u")
        await reader.has(f"{again.attempt}-4")
        assert reader.texts == {"message of u": "said and lost again "}
        await server.cut_power(written)
        await server.start()
        await asyncio.sleep(0)
        await goes_on(client, server.url, namespace, run.run_id, reader)
        assert (await client.get(run.run_id)).attempt > again.attempt
