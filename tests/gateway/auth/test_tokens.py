"""Read tokens: one run or one thread, to be read, for a while."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from langgraph_sdk import Auth
from redis.asyncio import Redis
from tests.gateway.auth.connections import request, websocket

from runstream import Client, ClientSettings, InvalidRequest
from runstream.apikeys import ApiKeys
from runstream.keys import Keys
from runstream_gateway.auth import tokens as tokens_module
from runstream_gateway.auth.caller import Caller, Filter, Limits, Scope
from runstream_gateway.auth.guard import Action, Guard, OpenGuard, Resource
from runstream_gateway.auth.handlers import HandlersGuard
from runstream_gateway.auth.keys import KeysGuard
from runstream_gateway.auth.tokens import ReadTokens, TokenGuard
from runstream_gateway.errors import ApiError

U1 = Caller("u1")
RUN = Scope("t1", "r1", {"owner": "u1"})
THREAD = Scope("t1", None, {"owner": "u1"})


@pytest.fixture
def tokens(client: Client) -> ReadTokens:
    return ReadTokens(client)


@pytest.fixture
def guard(tokens: ReadTokens) -> Guard:
    return TokenGuard(tokens, OpenGuard())


async def refusal(guard: Guard, caller: Caller, resource: Resource, action: Action, value: dict[str, Any]) -> int:
    with pytest.raises(ApiError) as refused:
        await guard.authorize(caller, resource, action, value)
    return refused.value.status


async def test_who_has_a_token_is_whom_it_was_made_for_within_its_scope(tokens: ReadTokens) -> None:
    for scope in (RUN, THREAD, Scope("t2")):
        issued = await tokens.issue(U1, scope, seconds=60)
        assert issued.token.startswith("rst_")
        assert 59 <= issued.expires_at - time.time() <= 61
        caller = await tokens.read(issued.token)
        assert (caller.identity, caller.scope, caller.key_id) == ("u1", scope, None)
        assert caller.scope is not None
        assert caller.scope.expires_at == issued.expires_at


async def test_any_gateway_verifies_it(tokens: ReadTokens, redis_url: str, namespace: str) -> None:
    issued = await tokens.issue(U1, RUN)
    async with Client(redis_url, settings=ClientSettings(namespace=namespace)) as another:
        assert (await ReadTokens(another).read(issued.token)).scope == RUN


async def test_gateways_that_were_given_a_secret_need_no_redis_for_it(
    client: Client, redis: Redis, namespace: str
) -> None:
    one, other = ReadTokens(client, "a secret of enough characters"), ReadTokens(client, "another one, just as long")
    issued = await one.issue(U1, RUN)
    assert (await ReadTokens(client, "a secret of enough characters").read(issued.token)).scope == RUN
    with pytest.raises(ApiError):
        await other.read(issued.token)
    assert not [key async for key in redis.scan_iter(f"*{namespace}*")]
    with pytest.raises(InvalidRequest, match="secret"):
        ReadTokens(client, "short")


async def test_a_token_that_was_touched_is_none(tokens: ReadTokens) -> None:
    issued = await tokens.issue(U1, RUN)
    said, _, signature = issued.token.removeprefix("rst_").partition(".")
    meant = json.loads(base64.urlsafe_b64decode(said + "=="))
    other = base64.urlsafe_b64encode(json.dumps({**meant, "r": "r2"}).encode()).rstrip(b"=").decode()
    for forged in (
        f"rst_{other}.{signature}",
        f"rst_{said}.{signature[:-4]}AAAA",
        f"rst_{said}.",
        f"rst_{said}",
        "rst_",
        "rst_.",
        "rst_\udcff.\udcff",
        f"rst_{said}.{signature}x",
        f"rst_{said}. {signature}",
    ):
        with pytest.raises(ApiError) as refused:
            await tokens.read(forged)
        assert (refused.value.status, refused.value.detail) == (401, "the read token is not valid")


async def test_a_token_is_over_when_it_said(tokens: ReadTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    issued = await tokens.issue(U1, RUN, seconds=1)

    class Later:
        monotonic = staticmethod(time.monotonic)

        @staticmethod
        def time() -> float:
            return float(issued.expires_at)

    monkeypatch.setattr(tokens_module, "time", Later)
    with pytest.raises(ApiError, match="has expired") as refused:
        await tokens.read(issued.token)
    assert refused.value.status == 401


@pytest.mark.parametrize("seconds", [0, -1, 86401, float("nan")])
async def test_for_how_long_is_bounded(tokens: ReadTokens, seconds: float) -> None:
    with pytest.raises(ApiError) as refused:
        await tokens.issue(U1, RUN, seconds=seconds)
    assert refused.value.status == 422


async def test_a_token_cannot_make_another(tokens: ReadTokens) -> None:
    holder = await tokens.read((await tokens.issue(U1, THREAD)).token)
    with pytest.raises(ApiError) as refused:
        await tokens.issue(holder, RUN)
    assert refused.value.status == 403


async def test_the_secret_lives_as_long_as_it_is_used(
    tokens: ReadTokens, redis: Redis, client: Client, namespace: str
) -> None:
    await tokens.issue(U1, RUN)
    name = Keys(namespace).document("secret", "read_tokens")
    await redis.expire(name, 100)
    await ReadTokens(client).issue(U1, RUN)
    assert await redis.ttl(name) > 29 * 86400


# -- what it lets its holder do ---------------------------------------------------------------------------------------


async def test_it_comes_in_a_header_or_in_the_url(tokens: ReadTokens, guard: Guard) -> None:
    token = (await tokens.issue(U1, RUN)).token
    for connection in (
        request(authorization=f"Bearer {token}"),
        request(query=f"stream_mode=values&token={token}"),
        websocket(query=f"token={token}"),
        request(authorization="Bearer else", query=f"token={token}"),
    ):
        assert (await guard.authenticate(connection)).scope == RUN
    for connection in (request(), request(query="token=abc"), request(authorization="Bearer abc")):
        assert (await guard.authenticate(connection)).scope is None


async def test_a_bad_token_does_not_make_one_anybody(guard: Guard) -> None:
    with pytest.raises(ApiError) as refused:
        await guard.authenticate(request(authorization="Bearer rst_bad"))
    assert refused.value.status == 401


async def test_of_a_run_only_that_run_is_there(tokens: ReadTokens, guard: Guard) -> None:
    holder = await tokens.read((await tokens.issue(U1, RUN)).token)
    found = await guard.authorize(holder, "threads", "read", {"thread_id": "t1", "run_id": "r1"})
    assert found == Filter({"owner": "u1"})
    for value in (
        {"thread_id": "t1", "run_id": "r2"},
        {"thread_id": "t2", "run_id": "r1"},
        {"thread_id": "t1", "run_id": None},
        {"thread_id": "t1"},
        {"run_id": "r1"},
        {},
    ):
        assert await refusal(guard, holder, "threads", "read", value) == 404
    # No other words than where there is none.
    with pytest.raises(ApiError, match="run 'r2' not found"):
        await guard.authorize(holder, "threads", "read", {"thread_id": "t2", "run_id": "r2"})


async def test_of_a_thread_its_runs_are_there_too(tokens: ReadTokens, guard: Guard) -> None:
    holder = await tokens.read((await tokens.issue(U1, THREAD)).token)
    of_it: list[dict[str, Any]] = [{"thread_id": "t1"}, {"thread_id": "t1", "run_id": "r1"}]
    for value in of_it:
        assert await guard.authorize(holder, "threads", "read", value) == Filter({"owner": "u1"})
    assert await refusal(guard, holder, "threads", "read", {"thread_id": "t2"}) == 404


@pytest.mark.parametrize("scope", [RUN, THREAD])
async def test_nothing_can_be_done_with_it_but_read(tokens: ReadTokens, guard: Guard, scope: Scope) -> None:
    holder = await tokens.read((await tokens.issue(U1, scope)).token)
    value = {"thread_id": "t1", "run_id": "r1"}
    actions: tuple[Action, ...] = ("create", "update", "delete", "create_run", "search")
    for action in actions:
        assert await refusal(guard, holder, "threads", action, dict(value)) == 403
    resources: tuple[Resource, ...] = ("assistants", "crons", "store")
    for resource in resources:
        for action in (*actions, "read"):
            assert await refusal(guard, holder, resource, action, dict(value)) == 403


# -- beside the other guards ------------------------------------------------------------------------------------------


async def test_a_token_ends_with_the_key_it_was_made_with(client: Client) -> None:
    keys, tokens = ApiKeys(client), ReadTokens(client)

    def with_keys() -> Guard:
        guard = KeysGuard(keys)
        return TokenGuard(tokens, guard, vouch=guard.vouch)

    key, made = await keys.create("backend", owner="o1", limits={"streams": 3})
    guard = with_keys()
    maker = await guard.authenticate(request(x_api_key=key))
    issued = await tokens.issue(maker, RUN)
    holder = await guard.authenticate(request(query=f"token={issued.token}"))
    assert (holder.identity, holder.key_id, holder.limits.streams) == ("o1", made.id, 3)
    await keys.revoke(made.id)
    with pytest.raises(ApiError) as refused:
        await with_keys().authenticate(request(query=f"token={issued.token}"))
    assert refused.value.status == 401
    # Nor does it work where there are no keys.
    with pytest.raises(ApiError):
        await TokenGuard(tokens, OpenGuard()).authenticate(request(query=f"token={issued.token}"))


async def test_a_project_s_own_handlers_are_not_asked_about_tokens(client: Client) -> None:
    auth = Auth()

    @auth.authenticate
    async def authenticate(authorization: str | None) -> str:
        if authorization is None:
            raise Auth.exceptions.HTTPException(status_code=401)
        return authorization.removeprefix("Bearer ")

    @auth.on
    async def on(ctx: Any, value: Any) -> dict[str, str]:
        return {"owner": ctx.user.identity}

    tokens, limits = ReadTokens(client), Limits(streams=5)
    guard = TokenGuard(tokens, HandlersGuard(auth, limits=limits), limits=limits)
    maker = await guard.authenticate(request(authorization="Bearer u1"))
    seen = await guard.authorize(maker, "threads", "read", {"thread_id": "t1"})
    issued = await tokens.issue(maker, Scope("t1", "r1", seen.conditions))
    holder = await guard.authenticate(request(query=f"token={issued.token}"))
    assert (holder.identity, holder.limits.streams) == ("u1", 5)
    found = await guard.authorize(holder, "threads", "read", {"thread_id": "t1", "run_id": "r1"})
    assert found.matches({"owner": "u1"})
    assert not found.matches({"owner": "u2"})
    with pytest.raises(ApiError):
        await guard.authenticate(request())


async def test_without_auth_everything_is_open() -> None:
    guard = OpenGuard(Limits(runs=9))
    caller = await guard.authenticate(request(x_api_key="anything"))
    assert (caller.identity, caller.limits.runs) == ("", 9)
    value: dict[str, Any] = {"metadata": {}}
    assert not await guard.authorize(caller, "threads", "create", value)
    assert value == {"metadata": {}}
