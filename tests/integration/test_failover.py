"""The master is another server: found by Sentinels, or behind an address that has moved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from tests.support.counting import MODES, Counting, check_first_attempt, check_result, read
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.sentinels import SERVICE, Sentinels, port_of, promote, replicate
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, ClientSettings, Event, InvalidRequest, RunNotFound
from runstream.connection import connect
from runstream.model import new_run_id

pytestmark = pytest.mark.real_redis

SIZE = 60
PATIENT = 30.0


@pytest.fixture
async def sentinels(tmp_path: Path) -> AsyncIterator[Sentinels]:
    async with Sentinels(tmp_path) as sentinels:
        yield sentinels


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[RedisServer, RedisServer]]:
    """A master and its replica."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    async with RedisServer(folders[0]) as master, RedisServer(folders[1]) as replica:
        await replicate(replica, master.url)
        yield master, replica


@pytest.mark.parametrize("how", ["killed", "on demand"])
async def test_runs_and_their_readers_outlast_a_failover_by_sentinels(
    sentinels: Sentinels, namespace: str, how: str
) -> None:
    if how == "on demand":
        # Sentinels promote the replica and let the old master take writes, which are lost, until they look at it again.
        async with Redis.from_url(sentinels.servers[0].url) as redis:
            await redis.config_set("min-replicas-to-write", 1)
    counting = Counting()
    settings = ClientSettings(namespace=namespace, call_timeout=PATIENT)
    async with Workers(sentinels.url, namespace) as workers, Client(sentinels.url, settings=settings) as client:
        for _ in range(2):
            await workers.start({"lease": 30.0}, count=counting.graph)
        runs = await asyncio.gather(*(client.enqueue("count", {"size": SIZE}, stream_mode=MODES) for _ in range(4)))
        readers = [asyncio.create_task(read(client, run.run_id)) for run in runs]
        await counting.has_said(20)
        # What is claimed and enqueued is on the replica; of what is said meanwhile it may lack the end.
        async with Redis.from_url(sentinels.servers[0].url) as redis:
            await redis.execute_command("WAIT", 1, 1000)
        if how == "killed":
            await sentinels.servers[0].kill()
            # A producer waits for the new master, too. (One that is still connected to a demoted master, and quick,
            # can be answered by it for a run that goes with it: that is what asynchronous replication promises.)
            runs.append(await client.enqueue("count", {"size": SIZE}, stream_mode=MODES))
            readers.append(asyncio.create_task(read(client, runs[-1].run_id)))
        else:
            await sentinels.fail_over()

        for run, reader in zip(runs, readers, strict=True):
            check_first_attempt(await reader, SIZE)
            check_first_attempt(await read(client, run.run_id), SIZE)
            await check_result(client, run.run_id, SIZE)
            assert (await client.get(run.run_id)).holders == []
    async with Redis.from_url(sentinels.servers[1].url) as redis:
        assert await redis.exists(*(f"{{{namespace}:0}}:run:{run.run_id}" for run in runs)) == len(runs)
    if how == "killed":
        await sentinels.servers[0].start()  # for the end of the block to kill


async def test_a_sentinel_that_is_away_is_passed_over(tmp_path: Path, namespace: str) -> None:
    async with Sentinels(tmp_path, count=2) as sentinels:
        await sentinels.sentinels[0].kill()
        async with Client(sentinels.url, settings=ClientSettings(namespace=namespace)) as client:
            await client.ping()
        await sentinels.sentinels[1].kill()
        impatient = ClientSettings(namespace=namespace, call_timeout=0.3)
        async with Client(sentinels.url, settings=impatient) as client:
            with pytest.raises(RedisConnectionError, match=f"no Sentinel names a master of '{SERVICE}'"):
                await client.ping()


async def test_a_service_that_no_sentinel_knows_is_told(sentinels: Sentinels) -> None:
    redis = connect(sentinels.url.replace(SERVICE, "other"), connections=1)
    with pytest.raises(RedisConnectionError, match="knows no service 'other'"):
        await redis.ping()
    await redis.aclose()


async def test_a_server_that_sentinels_call_the_master_and_that_is_none_is_not_written_to(sentinels: Sentinels) -> None:
    """As in the moment between their decision and the promotion."""
    redis = connect(sentinels.url, connections=1)
    async with Redis.from_url(sentinels.servers[0].url) as master:
        await master.replicaof("127.0.0.1", port_of(sentinels.servers[1].url))
        with pytest.raises(RedisConnectionError, match="is not the master of 'main' yet"):
            await redis.set("a", 1)
    await redis.aclose()


async def test_an_old_master_that_lives_on_as_a_replica_is_left(
    pair: tuple[RedisServer, RedisServer], namespace: str
) -> None:
    """The address of the master leads to another server now, and nobody has cut the connections to the old one."""
    master, replica = pair
    counting = Counting(held=True)
    async with Proxy(master.url) as address:
        settings = ClientSettings(namespace=namespace, call_timeout=PATIENT)
        async with Workers(address.url, namespace) as workers, Client(address.url, settings=settings) as client:
            await workers.start({"lease": 30.0}, count=counting.graph)
            run = await client.enqueue("count", {"size": 10}, stream_mode=MODES)
            reader = asyncio.create_task(read(client, run.run_id))
            counting.allow(15)
            await counting.has_said(15)
            await promote(replica)
            address.lead_to(replica.url)
            await replicate(master, replica.url)
            counting.let_go()
            check_first_attempt(await reader, 10)
            other = await client.enqueue("count", {"size": 1}, stream_mode=MODES)
            check_first_attempt(await read(client, other.run_id), 1)


ASKING: dict[str, Callable[[Client, str], Awaitable[Any]]] = {
    "get": lambda client, run_id: client.get(run_id),
    "result": lambda client, run_id: client.result(run_id),
    "requeue": lambda client, run_id: client.requeue(run_id),
    "waiting_for": lambda client, run_id: client.waiting_for(run_id),
    "tail": read,
}


@pytest.mark.parametrize("asking", ASKING)
async def test_a_replica_that_has_no_runs_yet_is_not_believed(tmp_path: Path, namespace: str, asking: str) -> None:
    """As a demoted master while it takes the new one's data over: it has nothing, and answers."""
    counting, settings = Counting(), ClientSettings(namespace=namespace, call_timeout=PATIENT)
    folders = [tmp_path / name for name in ("new", "old")]
    for folder in folders:
        folder.mkdir()
    async with RedisServer(folders[0]) as new, RedisServer(folders[1]) as old, Proxy(old.url) as address:
        async with Redis.from_url(old.url) as redis:
            await redis.replicaof("127.0.0.1", 1)  # where nobody is: it stays as it is
        async with Workers(new.url, namespace) as workers, Client(new.url, settings=settings) as knowing:
            await workers.start(count=counting.graph)
            run = await knowing.enqueue("count", {"size": 3}, stream_mode=MODES)
            await knowing.wait(run.run_id)
            for run_id in (run.run_id, new_run_id()):
                address.lead_to(old.url)
                async with Client(address.url, settings=settings) as client:
                    await client.ping()  # makes a connection, which stays
                    address.lead_to(new.url)
                    told = await _outcome(ASKING[asking](client, run_id))
                assert told == await _outcome(ASKING[asking](knowing, run_id))
                assert (told[0] is RunNotFound) == (run_id != run.run_id)


async def _outcome(asking: Awaitable[Any]) -> tuple[type, str]:
    try:
        told = await asking
    except (RunNotFound, InvalidRequest) as refusal:
        told = refusal
    return type(told), str(told)


async def test_what_a_replica_had_not_got_yet_is_published_again(
    pair: tuple[RedisServer, RedisServer], namespace: str
) -> None:
    master, replica = pair
    counting = Counting(held=True)
    async with Proxy(master.url) as address, Proxy(master.url) as link:
        await replicate(replica, link.url)
        settings = ClientSettings(namespace=namespace, call_timeout=PATIENT)
        async with Workers(address.url, namespace) as workers, Client(address.url, settings=settings) as client:
            await workers.start({"lease": 30.0}, count=counting.graph)
            run = await client.enqueue("count", {"size": 10}, stream_mode=MODES)
            seen: list[Event] = []
            reader = asyncio.create_task(read(client, run.run_id, seen))
            counting.allow(5)
            await until(lambda: len(seen) == 6, "five numbers have been read")
            async with Redis.from_url(master.url) as redis:
                assert await redis.execute_command("WAIT", 1, 5000) == 1
            # It hears nothing more of its master: neither of 14 numbers, nor of a checkpoint between them.
            await link.take_away()
            counting.allow(14)
            await until(lambda: len(seen) == 21, "more has been read, and a step has been saved")
            await master.kill()
            await promote(replica)
            async with Client(replica.url, settings=settings) as behind:
                assert (await behind.get(run.run_id)).last_event_id == "1-5"
            address.lead_to(replica.url)
            counting.let_go()
            check_first_attempt(await reader, 10)
            check_first_attempt(await read(client, run.run_id), 10)
            await check_result(client, run.run_id, 10)
        await master.start()  # for the end of the block to kill


async def test_a_read_only_replica_is_read_from_and_not_written_to(
    pair: tuple[RedisServer, RedisServer], namespace: str
) -> None:
    master, replica = pair
    counting = Counting(held=True)
    async with (
        Workers(master.url, namespace) as workers,
        Client(master.url, settings=ClientSettings(namespace=namespace)) as client,
        Client(replica.url, settings=ClientSettings(namespace=namespace, call_timeout=0.3)) as reading,
    ):
        await workers.start({"lease": 30.0}, count=counting.graph)
        run = await client.enqueue("count", {"size": 10}, stream_mode=MODES)
        counting.allow(5)
        await counting.has_said(5)
        await until(lambda: _has(reading, run.run_id), "the replica has the run")
        reader = asyncio.create_task(read(reading, run.run_id))
        with pytest.raises(RedisConnectionError, match=r"no master to write to: .*read only replica"):
            await reading.enqueue("count", {"size": 1})
        with pytest.raises(RedisConnectionError, match=r"no master to write to: .*read only replica"):
            await reading.stop(run.run_id)
        counting.let_go()
        check_first_attempt(await reader, 10)
        assert (await client.runs())[0].run_id == run.run_id
        assert len(await client.runs()) == 1


async def _has(client: Client, run_id: str) -> bool:
    return any(info.run_id == run_id for info in await client.runs())
