"""The contract is tried on a real Redis, on the oldest one that will do, and on the stand-in, by the same tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.support.cell import Cell

from runstream import Client, ClientSettings
from runstream.connection import connect
from runstream.keys import Keys
from runstream.scripts import Hold

pytest.register_assert_rewrite("tests.support.promises")


@pytest.fixture(params=["redis_url", "redis_6_url", "fakeredis_url"], ids=["redis", "redis-6.2", "fakeredis"])
def any_redis_url(request: pytest.FixtureRequest) -> str:
    """One after the other."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def keys(namespace: str) -> Keys:
    """The keys of the test's namespace."""
    return Keys(namespace)


@pytest.fixture
async def cell(any_redis_url: str, keys: Keys) -> AsyncIterator[Cell]:
    """The scripts, on connections of their own."""
    redis = connect(any_redis_url, connections=4)
    yield Cell(redis, keys)
    await redis.aclose()


@pytest.fixture
async def run(any_client: Client, cell: Cell) -> Hold:
    """A run that worker `w` holds."""
    await any_client.enqueue("agent", {"n": 1})
    return await cell.take()


@pytest.fixture
async def any_client(any_redis_url: str, namespace: str) -> AsyncIterator[Client]:
    """A client, on both."""
    async with Client(any_redis_url, settings=ClientSettings(namespace=namespace)) as client:
        yield client
