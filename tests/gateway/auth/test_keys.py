"""API keys: what is kept of them, who may come in, and what they see."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.gateway.auth.connections import request
from tests.support.processes import Processes

from runstream import Client, InvalidRequest
from runstream.apikeys import ApiKeys
from runstream_gateway.auth.caller import Limits
from runstream_gateway.auth.guard import Action
from runstream_gateway.auth.keys import KEY_LIMITS, KeysGuard
from runstream_gateway.errors import ApiError


@pytest.fixture
def keys(client: Client) -> ApiKeys:
    return ApiKeys(client)


@pytest.fixture
def guard(keys: ApiKeys) -> KeysGuard:
    return KeysGuard(keys, remembered=0)


async def refusal(guard: KeysGuard, **headers: Any) -> ApiError:
    with pytest.raises(ApiError) as refused:
        await guard.authenticate(request(**headers))
    return refused.value


# -- the keys ---------------------------------------------------------------------------------------------------------


async def test_a_key_is_found_and_another_is_not(keys: ApiKeys) -> None:
    key, made = await keys.create("backend", owner="o1", limits={"runs": 7, "rate": None})
    assert await keys.find(key) == made
    assert await keys.get(made.id) == made
    assert (made.name, made.owner, made.expires_at) == ("backend", "o1", None)
    assert made.limits == {"runs": 7, "rate": None}
    assert abs(datetime.now(UTC) - made.created_at) < timedelta(minutes=1)
    changed = key[:-2] + ("A" if key[-2] != "A" else "B") + key[-1]
    for other in (changed, key + "x", key[:-1], key.removeprefix("rs_"), "", "rs_", f" {key}", key + "\n", made.id):
        assert await keys.find(other) is None, other


async def test_redis_has_nothing_from_which_the_key_could_be_told(keys: ApiKeys, redis: Redis, namespace: str) -> None:
    key, made = await keys.create("backend")
    raw: Any = redis
    names = [name async for name in redis.scan_iter(f"*{namespace}*")]
    kept = b"".join([name + repr(await raw.dump(name)).encode() for name in names])
    assert made.id.encode() in kept
    assert key.removeprefix("rs_")[:12].encode() not in kept


async def test_a_revoked_key_is_none_any_more(keys: ApiKeys) -> None:
    key, made = await keys.create("backend")
    assert await keys.revoke(made.id)
    assert not await keys.revoke(made.id)
    assert await keys.find(key) is None
    assert await keys.get(made.id) is None
    assert await keys.all() == []


async def test_a_key_ends_on_its_date_and_using_it_does_not_change_that(keys: ApiKeys, redis: Redis) -> None:
    key, made = await keys.create("short", days=1)
    assert made.expires_at is not None
    assert abs(made.expires_at - made.created_at - timedelta(days=1)) < timedelta(seconds=1)
    (name,) = [name async for name in redis.scan_iter(f"*:document:api_key:{made.id}")]
    await redis.expire(name, 100)
    assert await keys.find(key) == made
    assert await redis.ttl(name) <= 100


async def test_a_key_without_a_date_lapses_when_it_is_not_used(keys: ApiKeys, redis: Redis) -> None:
    key, made = await keys.create("long")
    (name,) = [name async for name in redis.scan_iter(f"*:document:api_key:{made.id}")]
    await redis.expire(name, 100)
    await keys.find(key)
    assert await redis.ttl(name) > 399 * 86400


async def test_all_of_them_the_newest_first(keys: ApiKeys) -> None:
    made = [(await keys.create(f"k{at}"))[1] for at in range(3)]
    assert await keys.all() == made[::-1]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a" * 201}, "name"),
        ({"owner": ""}, "owner"),
        ({"days": 0}, "days"),
        ({"days": 401}, "days"),
        ({"days": float("nan")}, "days"),
        ({"limits": {"speed": 1}}, "limits"),
        ({"limits": {"runs": -1}}, r"limits\.runs"),
        ({"limits": {"runs": 1.5}}, r"limits\.runs"),
        ({"limits": {"rate": 0}}, r"limits\.rate"),
        ({"limits": {"burst": 0}}, r"limits\.burst"),
        ({"limits": {"streams": True}}, r"limits\.streams"),
    ],
)
async def test_what_cannot_be_is_refused(keys: ApiKeys, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest, match=field):
        await keys.create(**{"name": "k", **options})
    assert await keys.all() == []


# -- who comes in -----------------------------------------------------------------------------------------------------


async def test_the_key_comes_in_either_header(keys: ApiKeys, guard: KeysGuard) -> None:
    key, made = await keys.create("backend", owner="o1")
    several: list[dict[str, Any]] = [
        {"x_api_key": key},
        {"authorization": f"Bearer {key}"},
        {"authorization": f"bearer  {key} "},
        # LangGraph's SDK sends what it finds in the environment for another service.
        {"x_api_key": "lsv2_pt_1234", "authorization": f"Bearer {key}"},
        {"x_api_key": key, "authorization": "Bearer something else"},
    ]
    for headers in several:
        caller = await guard.authenticate(request(**headers))
        assert (caller.identity, caller.display_name, caller.key_id) == ("o1", "backend", made.id)
        assert key not in repr(caller)
        assert key not in json.dumps(caller.user)


async def test_without_a_key_or_with_none_of_ours_nobody_comes_in(keys: ApiKeys, guard: KeysGuard) -> None:
    key, made = await keys.create("backend")
    for headers in ({}, {"x_api_key": ""}, {"authorization": f"Basic {key}"}, {"authorization": "Bearer "}):
        assert "there is no API key" in (await refusal(guard, **headers)).detail
    for headers in ({"x_api_key": "rs_" + "A" * 43}, {"x_api_key": made.id}, {"authorization": "Bearer \xff"}):
        refused = await refusal(guard, **headers)
        assert refused.status == 401
        assert refused.detail == "the API key is not valid"
        assert refused.headers == {"WWW-Authenticate": "Bearer"}


async def test_a_key_that_was_just_looked_up_is_not_looked_up_again(keys: ApiKeys, client: Client) -> None:
    key, made = await keys.create("backend")
    believing = KeysGuard(keys, remembered=3600)
    await believing.authenticate(request(x_api_key=key))
    assert await believing.vouch(made.id) == KEY_LIMITS
    await keys.revoke(made.id)
    await believing.authenticate(request(x_api_key=key))
    assert (await refusal(KeysGuard(keys), x_api_key=key)).status == 401
    with pytest.raises(ApiError):
        await KeysGuard(keys).vouch(made.id)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, Limits(streams=10, rate=5.0, burst=50)),
        ({"streams": None, "runs": 3}, Limits(runs=3, rate=5.0, burst=50)),
        ({"rate": 1}, Limits(streams=10, rate=1)),
        ({"rate": 1, "burst": 2}, Limits(streams=10, rate=1, burst=2)),
        ({"rate": None}, Limits(streams=10)),
    ],
)
async def test_a_key_has_its_own_limits_before_those_of_all(
    keys: ApiKeys, said: dict[str, float | None], expected: Limits
) -> None:
    key, _ = await keys.create("backend", limits=said)
    guard = KeysGuard(keys, limits=Limits(streams=10, rate=5.0, burst=50))
    assert (await guard.authenticate(request(x_api_key=key))).limits == expected


# -- what they see ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["create", "update", "create_run"])
@pytest.mark.parametrize("metadata", [None, {}, {"owner": "somebody else", "a": 1}])
async def test_what_is_made_is_the_owners_whatever_the_caller_says(
    keys: ApiKeys, guard: KeysGuard, action: Action, metadata: dict[str, Any] | None
) -> None:
    key, _ = await keys.create("backend", owner="o1")
    caller = await guard.authenticate(request(x_api_key=key))
    value = {"metadata": metadata}
    found = await guard.authorize(caller, "threads", action, value)
    assert value["metadata"] == {**(metadata or {}), "owner": "o1"}
    assert found.matches(value["metadata"])


@pytest.mark.parametrize("action", ["create", "read", "update", "delete", "search", "create_run"])
async def test_what_is_somebody_elses_is_not_there(keys: ApiKeys, guard: KeysGuard, action: Action) -> None:
    key, _ = await keys.create("backend", owner="o1")
    caller = await guard.authenticate(request(x_api_key=key))
    found = await guard.authorize(caller, "threads", action, {})
    assert found.matches({"owner": "o1"})
    for other in ({"owner": "o2"}, {"owner": ["o1"]}, {"owner": None}, {}, None):
        assert not found.matches(other)


async def test_the_assistants_of_the_graphs_are_to_use_and_not_to_change(keys: ApiKeys, guard: KeysGuard) -> None:
    key, _ = await keys.create("backend", owner="o1")
    caller = await guard.authenticate(request(x_api_key=key))
    system, others = {"created_by": "system"}, {"owner": "o2"}
    to_use: tuple[Action, ...] = ("read", "search")
    to_change: tuple[Action, ...] = ("update", "delete")
    for action in to_use:
        found = await guard.authorize(caller, "assistants", action, {})
        assert found.matches(system)
        assert found.matches({"owner": "o1"})
        assert not found.matches(others)
    for action in to_change:
        found = await guard.authorize(caller, "assistants", action, {})
        assert not found.matches(system)
        assert not found.matches(others)
    with pytest.raises(ApiError) as refused:
        await guard.authorize(caller, "assistants", "create", {"metadata": dict(system)})
    assert refused.value.status == 403


async def test_the_store_begins_with_the_owner(keys: ApiKeys, guard: KeysGuard) -> None:
    key, _ = await keys.create("backend", owner="o1")
    caller = await guard.authenticate(request(x_api_key=key))
    for sent, kept in (
        (None, ("o1",)),
        (("a", "b"), ("o1", "a", "b")),
        (["o1", "a"], ("o1", "a")),
        (("o2",), ("o1", "o2")),
    ):
        value: dict[str, Any] = {"namespace": sent}
        await guard.authorize(caller, "store", "put", value)
        assert value["namespace"] == kept


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def cli(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        yield processes


async def test_keys_are_made_listed_and_revoked_at_the_command_line(cli: Processes, keys: ApiKeys) -> None:
    options = ("--owner", "o1", "--expires", "30", "--rate", "2.5", "--runs", "none", "--request-bytes", "100")
    made = await cli.run("keys", "create", "backend", *options)
    assert made.code == 0, made.err
    told = json.loads(made.out)
    found = await keys.find(told["key"])
    assert found is not None
    assert (found.id, found.owner) == (told["id"], "o1")
    assert found.limits == {"rate": 2.5, "runs": None, "request_bytes": 100}

    listed = await cli.run("keys", "list")
    assert [json.loads(line)["id"] for line in listed.out.splitlines()] == [found.id]
    assert told["key"] not in listed.out

    assert (await cli.run("keys", "revoke", found.id)).code == 0
    again = await cli.run("keys", "revoke", found.id)
    assert again.code == 3
    assert "keys list" in again.err
    assert await keys.all() == []


@pytest.mark.parametrize(
    "options",
    [("create",), ("create", "a", "--rate", "0"), ("create", "a", "--expires", "nan"), ("create", "a", "--runs", "-1"),
     ("create", "a\tb"), ("revoke",), ()],
)  # fmt: skip
async def test_what_is_not_understood_makes_no_key(cli: Processes, keys: ApiKeys, options: tuple[str, ...]) -> None:
    assert (await cli.run("keys", *options)).code == 2
    assert await keys.all() == []


async def test_the_command_teaches(cli: Processes) -> None:
    assert "    keys " in (await cli.run("--help")).out
    for words in (("keys",), ("keys", "create"), ("keys", "list"), ("keys", "revoke")):
        assert "example:" in (await cli.run(*words, "--help")).out
