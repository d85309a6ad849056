"""What a step of a long conversation costs in each of the places where checkpoints can be."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from redis.asyncio import Redis

from bench.figure import Ground, Measurement
from runstream.keys import Keys
from runstream_worker.checkpoints import open_checkpointer

_WORDS = 50
_POSTGRES = os.environ.get("RUNSTREAM_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
_THREAD: RunnableConfig = {"configurable": {"thread_id": "chat"}}

Size: TypeAlias = Callable[[], Awaitable[int]]


@dataclass(frozen=True)
class _Place:
    """Where checkpoints are kept, and how many bytes they take there."""

    name: str
    saver: BaseCheckpointSaver[Any]
    size: Size | None


async def checkpoints(ground: Ground) -> list[Measurement]:
    """A message and its answer at a time; a step is one of the three checkpoints of such a turn."""
    turns, rows = ground.size(100, 10), []
    async with AsyncExitStack() as stack:
        for place in (_redis(ground), _sqlite(), _postgres(), _nowhere()):
            found = await stack.enter_async_context(place)
            if found is not None:
                rows += await _measure(found, turns)
    return rows


async def _measure(place: _Place, turns: int) -> list[Measurement]:
    """Of the last fifth of the thread: what a step adds, and how long it takes."""
    graph = StateGraph(MessagesState).add_node("answer", _answer).add_edge(START, "answer")
    compiled = graph.compile(checkpointer=place.saver)

    async def talk(first: int, last: int) -> float:
        began = time.perf_counter()
        for number in range(first, last):
            await compiled.ainvoke({"messages": [HumanMessage(_text(2 * number))]}, _THREAD)
        return time.perf_counter() - began

    fifth = turns // 5
    await talk(0, turns - fifth)
    before = await place.size() if place.size else 0
    seconds = await talk(turns - fifth, turns)
    steps = 3 * fifth
    at = f"checkpoints: a step at {2 * turns} messages, {place.name}"
    rows = [Measurement(f"{at}: time", seconds * 1000 / steps, "ms")]
    if place.size:
        rows.append(Measurement(f"{at}: stored", (await place.size() - before) / steps, "bytes"))
    return rows


async def _answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(_text(len(state["messages"])))]}


def _text(number: int) -> str:
    """As long as what people say, and no easier to compress."""
    letters = random.Random(number)  # noqa: S311 - the same for everybody
    return " ".join("".join(letters.choices("etaoinshrdlu", k=letters.randint(1, 10))) for _ in range(_WORDS))


@asynccontextmanager
async def _redis(ground: Ground) -> AsyncIterator[_Place]:
    keys = Keys(ground.namespace)

    async def size() -> int:
        thread = (keys.checkpoints("chat"), keys.checkpoint_index("chat"))
        return sum([int(await cast("Any", redis).memory_usage(key, samples=0)) for key in thread])

    async with (
        Redis.from_url(ground.redis_url) as redis,
        open_checkpointer("redis", runs_url=ground.redis_url, namespace=ground.namespace) as saver,
    ):
        assert saver is not None  # noqa: S101 - None is what no URL gives
        yield _Place("Redis", saver, size)


def _size_of(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return database.stat().st_size


@asynccontextmanager
async def _sqlite() -> AsyncIterator[_Place]:
    with await asyncio.to_thread(tempfile.TemporaryDirectory) as folder:

        async def size() -> int:
            return await asyncio.to_thread(_size_of, Path(folder) / "threads.db")

        async with open_checkpointer(f"sqlite:///{folder}/threads.db") as saver:
            assert saver is not None  # noqa: S101 - None is what no URL gives
            yield _Place("SQLite", saver, size)


@asynccontextmanager
async def _postgres() -> AsyncIterator[_Place | None]:
    """A database of its own; None where there is no PostgreSQL."""
    import psycopg  # noqa: PLC0415 - an extra
    from psycopg.sql import SQL, Identifier  # noqa: PLC0415 - an extra

    try:
        server = await psycopg.AsyncConnection.connect(_POSTGRES, autocommit=True, connect_timeout=5)
    except psycopg.OperationalError:
        yield None
        return
    name = f"runstream_bench_{secrets.token_hex(4)}"
    head, _, _ = _POSTGRES.rpartition("/")

    async def size() -> int:
        row = await (await server.execute("SELECT pg_database_size(%s)", (name,))).fetchone()
        return int(row[0]) if row else 0

    async with server:
        await server.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        try:
            async with open_checkpointer(f"{head}/{name}") as saver:
                assert saver is not None  # noqa: S101 - None is what no URL gives
                yield _Place("PostgreSQL", saver, size)
        finally:
            await server.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@asynccontextmanager
async def _nowhere() -> AsyncIterator[_Place]:
    """The time that LangGraph takes anyway."""
    yield _Place("in memory", InMemorySaver(), None)
