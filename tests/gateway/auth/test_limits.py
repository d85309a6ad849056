"""Limits: over one of them is 429 and nothing done; what is held is given back, whoever dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import IO, cast

import anyio
import pytest
from redis.asyncio import Redis
from tests.support.unsent import unsent
from tests.support.waiting import until

from runstream import Client, ClientSettings
from runstream.keys import Keys
from runstream_gateway.auth.caller import Caller, Limits
from runstream_gateway.auth.limits import Limiter, subject_of
from runstream_gateway.errors import ApiError

FREE = Caller("u1")

HOLDER = """
import asyncio, sys
from runstream import Client, ClientSettings
from runstream_gateway.auth.caller import Caller, Limits
from runstream_gateway.auth.limits import Limiter

async def main():
    async with Client(sys.argv[1], settings=ClientSettings(namespace=sys.argv[2])) as client:
        async with Limiter(client.quotas, lease=1.0) as limiter, limiter.stream(Caller("u1", limits=Limits(streams=1))):
            print("held", flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def limiter(client: Client) -> AsyncIterator[Limiter]:
    async with Limiter(client.quotas) as limiter:
        yield limiter


def limited(**limits: float) -> Caller:
    return replace(FREE, limits=Limits(**limits))  # type: ignore[arg-type] # whole numbers where they have to be


async def is_full(limiter: Limiter, caller: Caller) -> bool:
    try:
        async with limiter.stream(caller):
            return False
    except ApiError:
        return True


# -- requests ---------------------------------------------------------------------------------------------------------


async def test_too_many_requests_are_told_when_to_come_again(limiter: Limiter) -> None:
    caller = limited(rate=0.1, burst=2)
    await limiter.admit(caller)
    await limiter.admit(caller)
    with pytest.raises(ApiError) as refused:
        await limiter.admit(caller)
    assert refused.value.status == 429
    assert refused.value.headers == {"Retry-After": "10"}
    await limiter.admit(replace(caller, identity="u2"))
    await limiter.admit(FREE)


async def test_a_batch_counts_as_many_and_a_large_one_gets_through(limiter: Limiter) -> None:
    caller = limited(rate=0.1, burst=3)
    await limiter.admit(caller, requests=2)
    with pytest.raises(ApiError):
        await limiter.admit(caller, requests=2)
    await limiter.admit(replace(caller, identity="u2"), requests=1000)


async def test_two_gateways_count_together(redis_url: str, namespace: str, limiter: Limiter) -> None:
    caller = limited(rate=0.01, burst=2, streams=2, runs=2)
    async with (
        Client(redis_url, settings=ClientSettings(namespace=namespace)) as client,
        Limiter(client.quotas) as other,
    ):
        await limiter.admit(caller)
        await other.admit(caller)
        for one in (limiter, other):
            with pytest.raises(ApiError):
                await one.admit(caller)
        async with limiter.stream(caller), other.stream(caller):
            assert await is_full(limiter, caller)
            assert await is_full(other, caller)
        async with limiter.runs(caller, ["a"]), other.runs(caller, ["b"]):
            with pytest.raises(ApiError):
                async with other.runs(caller, ["c"]):
                    pytest.fail("there is no place")


async def test_a_body_that_is_too_large_is_413(limiter: Limiter) -> None:
    caller = limited(request_bytes=100)
    limiter.check_size(caller, 100)
    limiter.check_size(FREE, 10**9)
    with pytest.raises(ApiError) as refused:
        limiter.check_size(caller, 101)
    assert refused.value.status == 413
    assert "Retry-After" not in refused.value.headers


async def test_who_has_no_limits_costs_nothing(limiter: Limiter, redis: Redis, namespace: str) -> None:
    await limiter.admit(FREE)
    async with limiter.stream(FREE), limiter.runs(FREE, ["a"]):
        pass
    assert not [key async for key in redis.scan_iter(f"*{namespace}*")]


async def test_a_key_is_counted_by_itself_and_redis_has_no_names(
    limiter: Limiter, redis: Redis, namespace: str
) -> None:
    caller = replace(limited(rate=0.1, burst=1), identity="alice@example.com")
    await limiter.admit(caller)
    await limiter.admit(replace(caller, key_id="k1"))
    await limiter.admit(replace(caller, key_id="k2"))
    names = {key.decode() async for key in redis.scan_iter(f"*{namespace}*")}
    assert len(names) == 3
    assert not any("alice" in name for name in names)


# -- runs -------------------------------------------------------------------------------------------------------------


async def test_runs_count_until_they_end_and_nothing_is_enqueued_beyond(limiter: Limiter, client: Client) -> None:
    caller, ids = limited(runs=2), [f"01985d2e-6f1c-7b3a-9d44-0c5d6f6f2a1{n}" for n in range(4)]

    async def enqueue(*run_ids: str) -> None:
        async with limiter.runs(caller, run_ids):
            for run_id in run_ids:
                await client.enqueue("agent", None, run_id=run_id)

    await enqueue(ids[0])
    with pytest.raises(ApiError) as refused:
        await enqueue(ids[1], ids[2])
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
    assert [run.run_id for run in await client.runs()] == [ids[0]]
    await enqueue(ids[1])
    with pytest.raises(ApiError):
        await enqueue(ids[2])
    await client.stop(ids[0])
    await enqueue(ids[2])
    assert len(await client.runs()) == 3


async def test_runs_that_were_not_enqueued_count_no_more(limiter: Limiter) -> None:
    caller = limited(runs=1)
    with pytest.raises(ValueError, match="no such graph"):
        async with limiter.runs(caller, ["a"]):
            raise ValueError("no such graph")
    await limiter.aclose()
    async with limiter.runs(caller, ["b"]):
        pass


# -- streams ----------------------------------------------------------------------------------------------------------


async def test_streams_count_while_they_are_open(limiter: Limiter) -> None:
    caller = limited(streams=2)
    async with limiter.stream(caller):
        async with limiter.stream(caller):
            with pytest.raises(ApiError) as refused:
                async with limiter.stream(caller):
                    pytest.fail("there is no place")
            assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "5"})
            assert not await is_full(limiter, replace(caller, identity="u2"))
        await until(lambda: _has_place(limiter, caller), "the place that was given back is there")


async def test_of_a_thousand_that_come_at_once_as_many_get_in_as_may(limiter: Limiter) -> None:
    caller, leave = limited(streams=20), asyncio.Event()
    refused, inside = 0, 0

    async def read() -> None:
        nonlocal refused, inside
        try:
            async with limiter.stream(caller):
                inside += 1
                await leave.wait()
        except ApiError:
            refused += 1

    async with asyncio.TaskGroup() as readers:
        for _ in range(1000):
            readers.create_task(read())
        await until(lambda: refused + inside == 1000, "all have been answered")
        assert (inside, refused) == (20, 980)
        leave.set()
    await until(lambda: _has_place(limiter, caller), "all have left")


async def test_who_is_cancelled_again_and_again_gives_back(limiter: Limiter) -> None:
    caller = limited(streams=1)
    with anyio.CancelScope() as scope:
        async with limiter.stream(caller):
            scope.cancel()
            await anyio.sleep_forever()
    await until(lambda: _has_place(limiter, caller), "the place was given back")


async def test_a_stream_that_goes_on_keeps_its_place(client: Client, redis: Redis, namespace: str) -> None:
    caller = limited(streams=2)
    places = Keys(namespace).places("streams", subject_of(caller))
    async with Limiter(client.quotas, lease=0.3) as limiter, limiter.stream(caller), limiter.stream(caller):
        until_when = await _latest(redis, places)
        for _ in range(4):  # longer than the lease
            before = until_when

            async def renewed(before: float = before) -> bool:
                return await _latest(redis, places) > before

            await until(renewed, "the places are renewed")
            until_when = await _latest(redis, places)
        assert await is_full(limiter, caller)
    assert not await redis.exists(places)


@pytest.mark.parametrize("error", [RuntimeError("the handler is closed"), OSError("no route")], ids=repr)
async def test_no_error_ends_the_counting(client: Client, redis: Redis, namespace: str, error: Exception) -> None:
    caller = limited(streams=1)
    places = Keys(namespace).places("streams", subject_of(caller))
    async with Limiter(client.quotas, lease=0.3) as limiter, limiter.stream(caller):
        with unsent(places, error) as failed:
            await until(lambda: bool(failed), "the places could not be renewed")
        before = await _latest(redis, places)

        async def renewed() -> bool:
            return await _latest(redis, places) > before

        await until(renewed, "the places are renewed again")


async def test_places_of_a_gateway_that_was_killed_lapse(redis_url: str, namespace: str, client: Client) -> None:
    command = [sys.executable, "-c", HOLDER, redis_url, namespace]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:  # noqa: ASYNC220 - is there at once
        said = await asyncio.to_thread(cast("IO[bytes]", holder.stdout).readline)
        assert said == b"held\n"
        caller = limited(streams=1)
        async with Limiter(client.quotas) as limiter:
            assert await is_full(limiter, caller)
            os.kill(holder.pid, signal.SIGKILL)
            assert await is_full(limiter, caller)
            await until(lambda: _has_place(limiter, caller), "the place of the dead one has lapsed")


async def test_a_gateway_that_ends_gives_back_what_it_holds(client: Client, redis: Redis, namespace: str) -> None:
    caller = limited(streams=2)
    limiter = Limiter(client.quotas)
    async with contextlib.AsyncExitStack() as streams:
        await streams.enter_async_context(limiter.stream(caller))
        await limiter.aclose()
        assert not await redis.exists(Keys(namespace).places("streams", subject_of(caller)))
    await limiter.aclose()


async def _has_place(limiter: Limiter, caller: Caller) -> bool:
    return not await is_full(limiter, caller)


async def _latest(redis: Redis, places: str) -> float:
    found = await redis.zrange(places, -1, -1, withscores=True)
    return float(found[0][1])
