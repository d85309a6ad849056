"""A Redis that refuses: its disk is full, or its memory; it does not know us; it throws keys away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypedDict

import httpx
import pytest
import redis.exceptions as errors
from langgraph.graph import START, StateGraph
from redis.asyncio import Redis
from tests.support.processes import Processes
from tests.support.redis_server import RedisServer
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, ClientSettings
from runstream.apikeys import ApiKeys
from runstream.faults import is_away, reason_of
from runstream_gateway.app import create_app
from runstream_gateway.core import open_gateway
from runstream_gateway.settings import GatewaySettings
from runstream_worker.graphs import graph_source

ANSWERED_WITHIN = 15.0
"""A gateway gives Redis 10 s for a call."""


class State(TypedDict, total=False):
    n: int


def graph() -> Any:
    async def add(state: State) -> State:
        return {"n": state["n"] + 1}

    return StateGraph(State).add_node("add", add).add_edge(START, "add").compile()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path, fsync="everysec") as server:
        yield server


@asynccontextmanager
async def gateway_of(url: str, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway in this process; a client of its API."""
    settings = GatewaySettings(redis_url=url, **options)
    async with open_gateway({"adds": graph_source("adds", graph())}, settings) as gateway:
        transport = httpx.ASGITransport(create_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=60) as http:
            yield http


async def refuses_writes(redis: Any, code: str) -> None:
    """Write until Redis refuses."""

    async def refused() -> bool:
        try:
            await redis.set("filler", "x" * 10_000)
        except errors.ResponseError as error:
            return code in str(error) or isinstance(error, errors.OutOfMemoryError)
        return False

    await until(refused, "Redis refuses to write")


RUN = {"assistant_id": "adds", "input": {"n": 1}}


@pytest.mark.parametrize("what", ["disk", "memory"])
async def test_a_redis_that_is_full_is_answered_and_all_goes_on_when_it_has_room(
    server: RedisServer, what: str
) -> None:
    code = {"disk": "MISCONF", "memory": "OOM"}[what]
    async with (
        Redis.from_url(server.url) as redis,
        Workers(server.url, "runstream") as workers,
        Client(server.url, settings=ClientSettings(call_timeout=2)) as client,
        gateway_of(server.url) as http,
    ):
        await workers.start(None, adds=graph())
        thread = (await http.post("/threads", json={})).json()["thread_id"]
        assert (await http.post(f"/threads/{thread}/runs/wait", json=RUN)).json() == {"n": 2}
        waiting = await client.enqueue("adds", {"n": 5}, delay=3600)

        if what == "disk":
            server.fill_disk()
        else:
            await redis.config_set("maxmemory", "1mb")
        await refuses_writes(redis, code)

        for path, body in {
            "/runs": RUN,
            "/runs/wait": RUN,
            "/runs/stream": RUN,
            "/runs/batch": [RUN],
            f"/threads/{thread}/runs": RUN,
            f"/threads/{thread}/runs/stream": RUN,
            "/threads": {},
            "/assistants": {"graph_id": "adds"},
            f"/threads/{thread}/copy": {},
        }.items():
            began = time.monotonic()
            async with asyncio.timeout(ANSWERED_WITHIN):
                answer = await http.post(path, json=body)
            assert (answer.status_code, code in answer.json()["detail"]) == (503, True), (path, answer.text)
            assert answer.headers["retry-after"] == "1"
            assert time.monotonic() - began < ANSWERED_WITHIN
        for path in (f"/threads/{thread}", f"/threads/{thread}/state", "/threads/search"):
            async with asyncio.timeout(ANSWERED_WITHIN):
                read = await (http.post(path, json={}) if path.endswith("search") else http.get(path))
            assert read.status_code in (200, 503), (path, read.text)
        health = await http.get("/ok")
        if what == "disk":
            assert (health.status_code, code in health.json()["redis"]["detail"]) == (503, True)
        with pytest.raises(errors.RedisError) as refused:
            await client.enqueue("adds", {"n": 1})
        assert code in reason_of(refused.value)

        server.free_disk()
        await redis.config_set("maxmemory", "0")
        await until(lambda: _serves(http), "it goes on")
        assert (await http.post(f"/threads/{thread}/runs/wait", json=RUN)).json() == {"n": 2}
        assert (await http.get(f"/threads/{thread}/state")).json()["values"] == {"n": 2}
        await client.stop(waiting.run_id)
        assert len([run async for run in client.all_runs()]) == 3  # nothing of what was refused


async def _serves(http: httpx.AsyncClient) -> bool:
    return (await http.post("/threads", json={})).status_code == 200


@pytest.mark.parametrize(
    ("error", "reason", "away"),
    [
        (errors.ResponseError("MISCONF Errors writing to the AOF file"), "cannot write to its disk", False),
        (errors.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "no memory left", False),
        (errors.ReadOnlyError("You can't write against a read only replica."), "read-only replica", True),
        (errors.BusyLoadingError("Redis is loading the dataset in memory"), "loading its data", True),
        (errors.AuthenticationError("Authentication required."), "wants a user and password", False),
        (errors.AuthenticationError("invalid username-password pair or user is disabled."), "does not accept", False),
        (
            errors.NoPermissionError("this user has no permissions to run the 'set' command"),
            "lacks a permission",
            False,
        ),
        (errors.ResponseError("NOREPLICAS Not enough good replicas to write."), "too few replicas", True),
        (errors.ResponseError("BUSY Redis is busy running a script."), "busy with a script", True),
        (errors.ConnectionError("Error 111 connecting to secret-host:6379."), "cannot be reached", True),
        (
            errors.ResponseError("ERR unknown command 'x', with args beginning with: 'secret'"),
            "refuses the call",
            False,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_refusal_has_a_sentence_of_its_own_that_anybody_may_see(
    error: Exception, reason: str, *, away: bool
) -> None:
    assert reason in reason_of(error)
    assert "secret" not in reason_of(error)
    assert is_away(error) is away


@pytest.mark.parametrize(
    ("user", "told"),
    [
        ("reader:pw", "lacks a permission (NOPERM)"),
        ("nobody:pw", "does not accept the user and password of its URL (WRONGPASS)"),
        ("", "wants a user and password, and its URL has none (NOAUTH)"),
    ],
)
async def test_a_gateway_whose_redis_does_not_let_it_in_says_so(server: RedisServer, user: str, told: str) -> None:
    async with Redis.from_url(server.url) as redis, gateway_of(server.url) as http:
        assert (await http.post("/threads", json={})).status_code == 200
        await redis.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+@connection", "+info")
        await redis.execute_command("ACL", "SETUSER", "default", "resetpass", ">else")
        await redis.execute_command("ACL", "SETUSER", "default", "off")
        url = server.url.replace("redis://", f"redis://{user}@" if user else "redis://")
        async with Client(url) as client:
            with pytest.raises(errors.RedisError) as refused:
                await client.enqueue("adds", {"n": 1})
        assert told in reason_of(refused.value)


# -- a Redis that throws keys away ------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-ttl", "volatile-lfu"])
async def test_a_policy_that_throws_keys_away_is_warned_of(
    server: RedisServer, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Redis.from_url(server.url) as redis, Workers(server.url, "runstream") as workers:
        await redis.config_set("maxmemory-policy", policy)
        with caplog.at_level(logging.WARNING):
            await workers.start(None, adds=graph())
            async with gateway_of(server.url) as http:
                health = await http.get("/ok")
        assert caplog.text.count(f"Redis has the maxmemory-policy {policy}") == 2  # the worker, and the gateway
        assert (health.status_code, policy in health.json()["redis"]["warning"]) == (200, True)


async def test_api_keys_that_were_evicted_are_told_from_wrong_ones(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with Redis.from_url(server.url) as redis, Client(server.url) as client:
        key, made = await ApiKeys(client).create("backend")
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        async with gateway_of(server.url, api_keys=True) as http:
            assert (await http.get("/ok")).status_code == 200
            await redis.config_set("maxmemory", "2mb")

            async def evicted() -> bool:
                for number in range(50):
                    await redis.set(f"filler{time.monotonic()}{number}", "x" * 10_000)
                return await ApiKeys(client).get(made.id) is None

            await until(evicted, "the key was evicted")
            # The index is a key as any other; the marker is looked for where it is left.
            await redis.config_set("maxmemory", "0")
            await redis.zadd(b"{runstream:0}:documents:api_key", {made.id: time.time() * 1000})

            caplog.clear()
            lost = await http.post("/threads", json={}, headers={"x-api-key": key})
            wrong = await http.post("/threads", json={}, headers={"x-api-key": "rs_" + "x" * 43})
            assert (lost.status_code, wrong.status_code, lost.json()) == (401, 401, wrong.json())
            assert caplog.text.count("is refused, though it was made and not revoked") == 1
            assert made.id in caplog.text
            health = await http.get("/ok")
            assert (health.status_code, "evicted" in health.json()["redis"]["detail"]) == (503, True)


async def test_info_and_the_list_of_keys_say_what_was_evicted(server: RedisServer, tmp_path: Path) -> None:
    async with (
        Redis.from_url(server.url) as redis,
        Client(server.url) as client,
        Processes(server.url, "runstream", tmp_path) as cli,
    ):
        _, made = await ApiKeys(client).create("backend")
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        info = await cli.run("info", "--json")
        assert (info.json["redis"]["eviction"], "Set it to noeviction" in info.err) == ("allkeys-lru", True)
        await redis.delete(f"{{runstream:0}}:document:api_key:{made.id}")
        listed = await cli.run("keys", "list")
        assert "keys that were not revoked and are gone: 1" in listed.err


async def test_nothing_is_said_of_a_redis_that_keeps_what_it_has(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with gateway_of(server.url, api_keys=True) as http:
            assert "warning" not in (await http.get("/ok")).json()["redis"]
            assert (await http.get("/threads/x", headers={"x-api-key": "rs_" + "x" * 43})).status_code == 401
    assert caplog.text == ""
