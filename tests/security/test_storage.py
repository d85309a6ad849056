"""What one owner keeps has limits: they hold before the work is done, and an operator sees the figures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph.graph import START, MessagesState, StateGraph
from langgraph_sdk import Auth
from tests.gateway.served import served
from tests.security.probing import MEGABYTE, probed
from tests.support.processes import Processes

from runstream import Client
from runstream.apikeys import ApiKeys
from runstream.usage import owner_subject
from runstream_gateway.app import create_app
from runstream_gateway.core import Gateway, open_gateway
from runstream_gateway.settings import GatewaySettings
from runstream_worker.graphs import graph_source


def _graph() -> Any:
    return StateGraph(MessagesState).add_node("n", lambda _: {}).add_edge(START, "n").compile()


@asynccontextmanager
async def _gateway(
    redis_url: str, namespace: str, limits: dict[str, float | None], *, api_keys: bool = False, auth: Auth | None = None
) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    settings = GatewaySettings(
        redis_url=redis_url, namespace=namespace, limits=limits, api_keys=api_keys, webhook_allow=("127.0.0.1",)
    )
    async with open_gateway({"one": graph_source("one", _graph())}, settings, auth=auth) as gateway:
        transport = httpx.ASGITransport(create_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=30) as http:
            yield gateway, http


@pytest.fixture
async def cli(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        yield processes


@pytest.fixture
def place(redis_url: str, namespace: str) -> tuple[str, str]:
    return redis_url, namespace


async def _thread(http: httpx.AsyncClient, **options: Any) -> str:
    answer = await http.post("/threads", json={"metadata": {"graph_id": "one"}}, **options)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["thread_id"])


async def _say(http: httpx.AsyncClient, thread: str, text: str) -> httpx.Response:
    message = {"role": "user", "content": text}
    return await http.post(f"/threads/{thread}/state", json={"values": {"messages": [message]}})


def _check_refused(answer: httpx.Response, *parts: str) -> None:
    assert answer.status_code == 403, answer.text
    for part in parts:
        assert part in answer.json()["detail"], answer.text


async def test_copies_end_at_the_limit_and_nothing_of_one_that_is_refused_stays(redis_url: str, namespace: str) -> None:
    async with _gateway(redis_url, namespace, {"stored_bytes": 1_000_000}) as (gateway, http):
        thread = await _thread(http)
        assert (await _say(http, thread, "x" * 200_000)).status_code == 200
        answers = await asyncio.gather(*(http.post(f"/threads/{thread}/copy") for _ in range(30)))
        made = [answer for answer in answers if answer.status_code == 200]
        assert 1 <= len(made) <= 4
        for answer in answers:
            if answer not in made:
                _check_refused(answer, "stored_bytes: ", "this caller may have 1,000,000", "delete threads")
        assert (await http.post("/threads/count", json={})).json() == 1 + len(made)
        assert (await gateway.client.usage.known(owner_subject(""))).threads == 1 + len(made)
        # What is deleted makes room.
        for answer in made:
            assert (await http.delete(f"/threads/{answer.json()['thread_id']}")).status_code == 204
        assert (await http.post(f"/threads/{thread}/copy")).status_code == 200


async def test_a_thread_ends_at_its_limit_and_goes_on_when_it_is_pruned(redis_url: str, namespace: str) -> None:
    async with _gateway(redis_url, namespace, {"thread_bytes": 300_000}) as (_, http):
        thread = await _thread(http)
        assert (await _say(http, thread, "x" * 200_000)).status_code == 200
        _check_refused(
            await _say(http, thread, "y" * 200_000), "thread_bytes: the thread would have", "may have 300,000"
        )
        body = {"assistant_id": "one", "input": {"messages": []}}
        assert (await http.post(f"/threads/{thread}/runs", json=body)).status_code == 200
        small = await _thread(http)
        for _ in range(20):
            answer = await _say(http, small, "z" * 20_000)
        _check_refused(answer, "keep_latest")


@pytest.mark.parametrize(
    ("limit", "path", "body", "word"),
    [
        ("threads", "/threads", {}, "threads are kept"),
        ("assistants", "/assistants", {"graph_id": "one"}, "assistants are kept"),
        ("kept_runs", "/runs", {"assistant_id": "one", "input": {}}, "runs are kept"),
        ("threads", "/runs", {"assistant_id": "one", "on_completion": "keep"}, "threads are kept"),
        (
            "webhooks",
            "/runs",
            {"assistant_id": "one", "webhook": "http://127.0.0.1:9/hook"},
            "webhooks have not been taken yet",
        ),
    ],
)
async def test_numbers_of_things_have_limits(
    place: tuple[str, str], limit: str, path: str, body: dict[str, Any], word: str
) -> None:
    async with _gateway(*place, {limit: 3}) as (_, http):
        answers = [await http.post(path, json=body) for _ in range(4)]
        assert [answer.status_code for answer in answers[:3]] == [200] * 3, answers[0].text
        _check_refused(answers[3], f"{limit}: 3 {word}, and this caller may have 3")


async def test_a_batch_that_is_too_much_writes_nothing(redis_url: str, namespace: str) -> None:
    async with _gateway(redis_url, namespace, {"kept_runs": 5}) as (gateway, http):
        answer = await http.post("/runs/batch", json=[{"assistant_id": "one"}] * 6)
        _check_refused(answer, "kept_runs: 0 runs are kept")
        assert [run async for run in gateway.client.all_runs()] == []
        assert (await http.post("/runs/batch", json=[{"assistant_id": "one"}] * 5)).status_code == 200


async def test_owners_of_keys_have_limits_of_their_own(redis_url: str, namespace: str, client: Client) -> None:
    keys = ApiKeys(client)
    ada, _ = await keys.create("ada", limits={"threads": 1})
    again, _ = await keys.create("ada's other", owner="ada", limits={"threads": 2})
    bob, _ = await keys.create("bob")
    async with _gateway(redis_url, namespace, {"threads": 4}, api_keys=True) as (_, http):

        async def create(key: str) -> int:
            return (await http.post("/threads", json={}, headers={"x-api-key": key})).status_code

        assert [await create(ada), await create(ada), await create(again), await create(again)] == [200, 403, 200, 403]
        assert [await create(bob) for _ in range(5)] == [200] * 4 + [403]


async def test_users_of_handlers_have_limits(redis_url: str, namespace: str) -> None:
    auth = Auth()

    @auth.authenticate
    async def authenticate(headers: dict[bytes, bytes]) -> str:
        return headers[b"x-user"].decode()

    async with _gateway(redis_url, namespace, {"threads": 1}, auth=auth) as (_, http):

        async def create(user: str) -> int:
            return (await http.post("/threads", json={}, headers={"x-user": user})).status_code

        assert [await create("u1"), await create("u1"), await create("u2")] == [200, 403, 200]


async def test_half_of_what_redis_may_have_is_the_most(redis_url: str, namespace: str, client: Client) -> None:
    async with _gateway(redis_url, namespace, {}) as (gateway, http):
        room = await client.usage.room()
        caller = await gateway.guard.authenticate(httpx_request())
        assert caller.limits.stored_bytes == (16 * 1024**3 if room is None else min(room // 2, 16 * 1024**3))
        assert (await http.post("/threads", json={})).status_code == 200


def httpx_request() -> Any:
    from tests.gateway.auth.connections import request  # noqa: PLC0415 - one test needs it

    return request()


async def test_an_operator_sees_what_is_used(redis_url: str, namespace: str, cli: Processes, client: Client) -> None:
    key, made = await ApiKeys(client).create("ada", limits={"threads": 5})
    async with _gateway(redis_url, namespace, {}, api_keys=True) as (_, http):
        for _ in range(3):
            await _thread(http, headers={"x-api-key": key})
    shown = await cli.run("keys", "show", made.id)
    assert shown.json["limits"] == {"threads": 5}
    assert shown.json["use"]["threads"] == 3
    assert shown.json["use"]["bytes"] > 0
    assert (await cli.run("keys", "usage", "ada")).json == {"owner": "ada", "use": shown.json["use"]}
    assert (await cli.run("keys", "usage")).json["use"]["threads"] == 0
    assert (await cli.run("keys", "show", "nope")).code != 0


async def test_copies_of_a_large_thread_do_not_hold_the_gateway_up() -> None:
    async with served("--limit", f"stored_bytes={64 * MEGABYTE}", worker=False) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=120) as http:
            answer = await http.post("/threads", json={"metadata": {"graph_id": "chat"}})
            thread = answer.json()["thread_id"]
            for _ in range(4):
                assert (await _say(http, thread, "x" * 1_000_000)).status_code == 200
            async with probed(gateway) as probe:
                answers = await asyncio.gather(*(http.post(f"/threads/{thread}/copy") for _ in range(40)))
        assert {answer.status_code for answer in answers} == {200, 403}
        probe.figures.check(grew=128 * MEGABYTE)
