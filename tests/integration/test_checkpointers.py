"""Checkpointers by URL: what a thread has been told in one worker, another remembers."""

from __future__ import annotations

import asyncio
import operator
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import psycopg
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from psycopg.sql import SQL, Identifier
from redis.asyncio import Redis
from tests.support.workers import Workers

from runstream import Client
from runstream.errors import InvalidRequest
from runstream.keys import Keys
from runstream_worker.checkpoints import CheckpointerError, open_checkpointer

TOGETHER = 6
POSTGRES = os.environ.get("RUNSTREAM_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")


class Log(TypedDict):
    entries: Annotated[list[str], operator.add]


def log_graph(checkpointer: Any = None) -> Any:
    """A graph that does nothing but keep what it is given."""
    graph = StateGraph(Log).add_node("keep", lambda _: {"entries": []}).add_edge(START, "keep")
    return graph.compile(checkpointer=checkpointer)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/threads.db"


@pytest.fixture
async def postgres_url() -> AsyncIterator[str]:
    """An empty database of its own."""
    try:
        server = await psycopg.AsyncConnection.connect(POSTGRES, autocommit=True, connect_timeout=5)
    except psycopg.OperationalError as error:
        if "RUNSTREAM_TEST_POSTGRES" in os.environ:
            raise
        pytest.skip(f"no PostgreSQL at 127.0.0.1:5432, and RUNSTREAM_TEST_POSTGRES names none: {error}")
    name = f"runstream_test_{secrets.token_hex(4)}"
    async with server:
        await server.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        try:
            head, _, _ = POSTGRES.rpartition("/")
            yield f"{head}/{name}"
        finally:
            await server.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@pytest.fixture(params=["sqlite_url", "postgres_url", "redis_url"])
def shared_url(request: pytest.FixtureRequest) -> str:
    """The URL of each kind of checkpointer that several processes can share."""
    url: str = request.getfixturevalue(request.param)
    return url


async def test_runs_on_one_thread_remember_each_other_across_workers(
    client: Client, workers: Workers, shared_url: str
) -> None:
    settings = {"checkpointer_url": shared_url}
    await workers.start(settings, first=log_graph())
    # The checkpoint does not know what a graph is called, only what its thread is.
    await workers.start(settings, second=log_graph())
    for number, graph in enumerate(["first", "second", "first"]):
        result = await client.invoke(graph, {"entries": [f"entry {number}"]}, thread_id="shared")
    assert result == {"entries": ["entry 0", "entry 1", "entry 2"]}
    assert await client.invoke("first", {"entries": ["alone"]}, thread_id="another") == {"entries": ["alone"]}


async def remembers(client: Client) -> bool:
    """Whether a thread remembers its first run in its second."""
    for entry in ("a", "b"):
        result = await client.invoke("log", {"entries": [entry]}, thread_id="shared")
    assert result["entries"] in (["b"], ["a", "b"])
    return len(result["entries"]) == 2


async def is_in_redis(redis: Redis, namespace: str) -> bool:
    """Whether the thread's checkpoints are where the runs are."""
    return bool(await redis.exists(Keys(namespace).checkpoints("shared")))


async def test_by_default_a_thread_remembers_in_the_redis_of_its_runs(
    client: Client, workers: Workers, redis: Redis, namespace: str
) -> None:
    await workers.start(log=log_graph())
    assert await remembers(client)
    assert await is_in_redis(redis, namespace)


@pytest.mark.parametrize("url", [None, "none"])
async def test_a_graph_that_has_a_checkpointer_keeps_it(
    client: Client, workers: Workers, redis: Redis, namespace: str, url: str | None
) -> None:
    saver = InMemorySaver()
    await workers.start({"checkpointer_url": url}, log=log_graph(saver))
    assert await remembers(client)
    assert not await is_in_redis(redis, namespace)
    assert list(saver.list({"configurable": {"thread_id": "shared"}}))


async def test_a_checkpointer_that_is_named_replaces_the_graph_s_own(
    client: Client, workers: Workers, redis: Redis, namespace: str
) -> None:
    saver = InMemorySaver()
    await workers.start({"checkpointer_url": "redis"}, log=log_graph(saver))
    assert await remembers(client)
    assert await is_in_redis(redis, namespace)
    assert not list(saver.list(None))


async def test_without_a_checkpointer_a_thread_remembers_nothing(client: Client, workers: Workers) -> None:
    await workers.start({"checkpointer_url": "none"}, log=log_graph())
    assert not await remembers(client)


@pytest.mark.parametrize("url", [None, "redis", "memory://"])
async def test_a_graph_that_wants_no_checkpointer_gets_none(client: Client, workers: Workers, url: str | None) -> None:
    await workers.start({"checkpointer_url": url}, log=log_graph(False))
    assert not await remembers(client)


async def test_memory_remembers_within_one_worker(client: Client, workers: Workers) -> None:
    await workers.start({"checkpointer_url": "memory://"}, log=log_graph())
    await client.invoke("log", {"entries": ["a"]}, thread_id="shared")
    assert await client.invoke("log", {"entries": ["b"]}, thread_id="shared") == {"entries": ["a", "b"]}


async def test_workers_that_start_together_on_an_empty_database(shared_url: str) -> None:
    everybody = asyncio.Barrier(TOGETHER)

    async def start() -> None:
        await everybody.wait()
        async with open_checkpointer(shared_url) as saver:
            assert saver is not None
            assert await saver.aget_tuple({"configurable": {"thread_id": "none", "checkpoint_ns": ""}}) is None
            await everybody.wait()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(TOGETHER):
            group.create_task(start())


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("threads.db", r"'threads\.db' must begin with redis://, sqlite:///, postgresql:// or memory://"),
        ("mysql://user:secret@host/0", r"'mysql://host/0' must begin with redis://"),
        ("redis://user:secret@host/zero", r"'redis://host/zero' is no URL of Redis: the database 'zero' is no number"),
        ("sqlite://threads.db", r"'sqlite://threads.db' names no file; write sqlite:///threads\.db"),
        ("sqlite:///", "names no file"),
        ("sqlite:////no/such/folder/threads.db", "the folder '/no/such/folder' does not exist"),
        ("postgresql://user:secret@host/db?bogus=1", r"'postgresql://host/db': invalid URI query parameter: \"bogus\""),
        ("postgresql://user:se@secret@host/db", "'@'.* written as %40"),
        ("postgresql://user:/secret@host/db", "'/'.* written as .*%2F"),
        ("postgresql://user:?secret@host/db", r"'\?'.* written as .*%3F"),
        ("postgresql://user:%secret@host/db", "'%' are written as .*%25"),
    ],
)
async def test_a_url_that_is_none_is_refused_with_what_would_be_right(url: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told) as refused:
        async with open_checkpointer(url):
            pytest.fail("it was opened")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:secret@127.0.0.1:1/db",
        "postgres://user:secret@127.0.0.1:x/db",
        "redis://user:secret@127.0.0.1:1/0",
    ],
)
async def test_a_database_that_cannot_be_reached_is_told_at_once(url: str) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(CheckpointerError, match=r"checkpointer: '[a-z]+://127.0.0.1:(1|x)/(db|0)'") as refused:
            async with open_checkpointer(url):
                pytest.fail("it was opened")
    assert "secret" not in str(refused.value)


async def test_a_database_that_does_not_exist(postgres_url: str) -> None:
    with pytest.raises(CheckpointerError, match=r'database ".*_none" does not exist'):
        async with open_checkpointer(f"{postgres_url}_none"):
            pytest.fail("it was opened")


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, whatever its name may be\n" * 100)
    with pytest.raises(CheckpointerError, match=r"notes\.txt' cannot be used: file is not a database"):
        async with open_checkpointer(f"sqlite:///{tmp_path}/notes.txt"):
            pytest.fail("it was opened")
