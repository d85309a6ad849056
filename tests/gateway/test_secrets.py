"""What callers show, and what the gateway knows of them, is for graphs at most: no record, reader or token tells it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph_sdk import Auth
from redis.asyncio import Redis

from runstream import Client, InvalidRequest
from runstream_gateway.app import create_app
from runstream_gateway.core import open_gateway
from runstream_gateway.settings import GatewaySettings, HeaderRules
from runstream_worker.graphs import graph_source

SHOWN = {
    "x-api-key": "of-key",
    "x-tenant-id": "of-tenant",
    "x-service-key": "of-service",
    "authorization": "of-authorization",
    "cookie": "of=cookie",
    "proxy-authorization": "of-proxy",
}


class State(TypedDict):
    text: str


def graph() -> Any:
    return StateGraph(State).add_node("node", lambda state: state).add_edge(START, "node").compile()


def knows_a_token() -> Auth:
    """Knows a credential of another service for everybody; nobody may read what is another's."""
    auth = Auth()

    @auth.authenticate
    async def who(headers: dict[bytes, bytes]) -> dict[str, str]:
        return {"identity": headers.get(b"x-api-key", b"ada").decode(), "service_token": "of-another-service"}

    return auth


@asynccontextmanager
async def serving(
    url: str, namespace: str, auth: Auth | None = None, **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway without a worker: its runs stay queued."""
    settings = GatewaySettings(redis_url=url, namespace=namespace, **options)
    async with open_gateway({"agent": graph_source("agent", graph())}, settings, auth=auth) as gateway:
        transport = httpx.ASGITransport(create_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            yield http


async def enqueued(http: httpx.AsyncClient, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
    """A run on a thread of its own, as its creator is shown it."""
    thread = (await http.post("/threads", json={}, headers=headers)).json()["thread_id"]
    asked = {"assistant_id": "agent", "input": {"text": "hi"}, **body}
    answer = await http.post(f"/threads/{thread}/runs", json=asked, headers=headers)
    assert answer.status_code == 200, answer.text
    run: dict[str, Any] = answer.json()
    return run


@pytest.mark.parametrize("includes", [("x-*",), ("*",), tuple(SHOWN)])
async def test_no_pattern_tells_graphs_by_what_a_caller_is_known(
    redis_url: str, namespace: str, client: Client, redis: Redis, includes: tuple[str, ...]
) -> None:
    async with serving(redis_url, namespace, headers=HeaderRules(includes)) as http:
        run = await enqueued(http, {**SHOWN, "x-team": "blue"})
        told = (await client.request(run["run_id"])).config["configurable"]
        assert ("x-team" in told) is (includes != tuple(SHOWN))
        assert not SHOWN.keys() & told.keys()
        assert await stored(redis, namespace, b"agent")
        assert not [secret for secret in SHOWN.values() if await stored(redis, namespace, secret.encode())]


def test_a_header_is_known_by_any_case() -> None:
    assert not HeaderRules(("*",)).admits("X-Api-Key")
    assert HeaderRules(("*",)).admits("x-team")


async def test_what_the_gateway_tells_a_graph_is_not_shown_with_the_run(
    redis_url: str, namespace: str, client: Client
) -> None:
    async with serving(redis_url, namespace, knows_a_token(), headers=HeaderRules(("x-*",))) as http:
        asked = {"config": {"configurable": {"mine": 1}, "tags": ["t"]}}
        run = await enqueued(http, {"x-team": "blue"}, **asked)
        told = (await client.request(run["run_id"])).config["configurable"]
        assert (told["user_id"], told["x-team"], told["mine"]) == ("ada", "blue", 1)
        assert told["langgraph_auth_user"]["service_token"] == "of-another-service"  # noqa: S105 - a test's
        path = f"/threads/{run['thread_id']}/runs"
        token = (await http.post(f"{path}/{run['run_id']}/token")).json()["token"]
        reader = {"authorization": f"Bearer {token}"}
        views = [
            run,
            (await http.get(f"{path}/{run['run_id']}")).json(),
            (await http.get(f"{path}/{run['run_id']}", headers=reader)).json(),
            *(await http.get(path)).json(),
        ]
        for view in views:
            shown = view["kwargs"]["config"]
            assert (shown["configurable"]["mine"], shown["tags"]) == (1, ["t"])
            assert not {"user_id", "x-team"} & shown["configurable"].keys()
            assert not [name for name in shown["configurable"] if name.startswith("langgraph_auth_")]
            assert "of-another-service" not in str(view)


async def test_what_a_caller_has_chosen_itself_is_shown(redis_url: str, namespace: str) -> None:
    async with serving(redis_url, namespace) as http:
        run = await enqueued(http, config={"configurable": {"user_id": "of my own"}})
        assert run["kwargs"]["config"]["configurable"]["user_id"] == "of my own"


async def test_feedback_goes_with_its_run_and_its_thread(redis_url: str, namespace: str, redis: Redis) -> None:
    async with serving(redis_url, namespace) as http:
        for whole in (False, True):
            run = await enqueued(http, feedback_keys=["taste"])
            thread, path = f"/threads/{run['thread_id']}", f"/threads/{run['thread_id']}/runs/{run['run_id']}"
            await http.post(f"{path}/cancel")
            link = (await http.get(f"{path}/join")).json()["__feedback__"]["taste"]
            assert (await http.post(link, json={"comment": "of the past"})).status_code == 200
            assert await stored(redis, namespace, b"of the past")
            assert (await http.delete(thread if whole else path)).is_success
            assert not await stored(redis, namespace, b"of the past")


async def stored(redis: Redis, namespace: str, text: bytes) -> bool:
    """Whether a text stands anywhere in Redis. (`DUMP` compresses.)"""
    readers: dict[bytes, Any] = {
        b"string": redis.get,
        b"hash": redis.hgetall,
        b"set": redis.smembers,
        b"list": lambda key: redis.lrange(key, 0, -1),
        b"zset": lambda key: redis.zrange(key, 0, -1),
        b"stream": redis.xrange,
    }
    values = [await readers[await redis.type(key)](key) async for key in redis.scan_iter(f"*{namespace}*")]
    return text in repr(values).encode()


# -- guards -----------------------------------------------------------------------------------------------------------


async def test_keys_beside_handlers_are_refused_at_start(redis_url: str, namespace: str) -> None:
    with pytest.raises(InvalidRequest, match=r"api_keys: .*auth\.path"):
        async with serving(redis_url, namespace, knows_a_token(), api_keys=True):
            pytest.fail("one of them would win")


async def test_a_token_is_none_to_a_gateway_that_asks_otherwise(redis_url: str, namespace: str) -> None:
    async with serving(redis_url, namespace) as http:
        thread = (await http.post("/threads", json={})).json()["thread_id"]
        token = (await http.post(f"/threads/{thread}/token")).json()["token"]
    asking: tuple[tuple[Auth | None, bool, int], ...] = (
        (None, False, 200),
        (None, True, 401),
        (knows_a_token(), False, 401),
    )
    for auth, api_keys, status in asking:
        async with serving(redis_url, namespace, auth, api_keys=api_keys) as http:
            answer = await http.get(f"/threads/{thread}", headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == status


def refuses_bob(status: int) -> Auth:
    """Says no to Bob rather than hiding what is not his."""
    auth = knows_a_token()

    @auth.on
    async def decide(ctx: Auth.types.AuthContext, value: Any) -> bool:
        if ctx.user.identity == "bob" and ctx.action == "read":
            if status == 403:
                return False
            raise Auth.exceptions.HTTPException(status_code=status, detail="no")
        return True

    return auth


@pytest.mark.parametrize("status", [403, 401])
async def test_a_refusal_does_not_tell_what_is_there(redis_url: str, namespace: str, status: int) -> None:
    bob = {"x-api-key": "bob"}
    async with serving(redis_url, namespace, refuses_bob(status)) as http:
        run = (await enqueued(http))["run_id"]
        assistant = (await http.post("/assistants", json={"graph_id": "agent"})).json()["assistant_id"]
        nobodys = "01985d2e-6f1c-7b3a-9d44-0c5d6f6f2a11"
        paths = ["/runs/{}", "/runs/{}/join", "/runs/{}/stream", "/runs/{}/join?cancel_on_disconnect=1"]
        for path in (*paths, "/console/runs/{}"):
            found = [await http.get(path.format(each), headers=bob) for each in (run, nobodys)]
            assert [each.status_code for each in found] == [404, 404], path
            assert found[0].text.replace(run, nobodys) == found[1].text
        found = [await http.post("/runs", json={"assistant_id": each}, headers=bob) for each in (assistant, nobodys)]
        assert [each.status_code for each in found] == [404, 404]
        assert found[0].text.replace(assistant, nobodys) == found[1].text
