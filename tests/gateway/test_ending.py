"""Runs that are stopped: what is rolled back goes, what has come to its end stays, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from tests.gateway.inprocess import Here, gateway_here
from tests.support.attempts import HandAttempt
from tests.support.waiting import until

from runstream import Client, RunNotFound, Status
from runstream.keys import Keys
from runstream_gateway.endings import stop_and_wait
from runstream_gateway.errors import ApiError
from runstream_gateway.runs import Runs

MakeHand = Callable[..., Awaitable[HandAttempt]]
BODY: dict[str, Any] = {"assistant_id": "one", "input": {"text": "hi"}}


class State(TypedDict):
    text: str


def graph() -> Any:
    return StateGraph(State).add_node("say", lambda s: s).add_edge(START, "say").compile()


@pytest.fixture
async def here(redis_url: str, namespace: str) -> AsyncIterator[Here]:
    async with gateway_here(redis_url, namespace, forget_after=0.3, one=graph()) as here:
        yield here


async def is_gone(client: Client, run_id: str) -> bool:
    return await client.get_many([run_id]) == [None]


@pytest.mark.parametrize("by", ["a cancel", "another run"])
async def test_only_a_run_that_was_stopped_is_rolled_back(
    here: Here, client: Client, make_hand: MakeHand, by: str
) -> None:
    for status, code in (("success", 200), ("stopped", 404)):
        thread = await here.thread()
        hand = await make_hand(thread_id=thread)
        path = f"/threads/{thread}/runs/{hand.run_id}"
        if by == "a cancel":
            answer = await here.http.post(f"{path}/cancel", params={"action": "rollback"})
        else:
            answer = await here.http.post(f"/threads/{thread}/runs", json={**BODY, "multitask_strategy": "rollback"})
        assert answer.is_success
        assert (await here.http.get(path)).json()["status"] == "running"
        await hand.end(status)
        assert (await here.http.get(path)).status_code == code
        listed = [run["run_id"] for run in (await here.http.get(f"/threads/{thread}/runs")).json()]
        assert (hand.run_id in listed) is (code == 200)
        if code == 404:
            # Whoever reads its stream has yet to read its end, and then it goes.
            assert (await client.get(hand.run_id)).status is Status.STOPPED
            await until(lambda: is_gone(client, hand.run_id), "the run has gone")  # noqa: B023 - awaited here
        else:
            await until(lambda: not _forgetting(), "nothing is being forgotten")
            assert (await client.get(hand.run_id)).status is Status.SUCCESS


def _forgetting() -> bool:
    return any(task.get_name() == "gateway-forget" for task in asyncio.all_tasks())


async def test_a_run_that_has_ended_since_it_was_looked_at_stays(here: Here, hand: HandAttempt, client: Client) -> None:
    looked_at = await client.get(hand.run_id)
    await hand.end("success")
    await here.gateway.runs.cancel(looked_at, "rollback")
    assert not _forgetting()
    assert (await here.http.get(f"/runs/{hand.run_id}")).json()["status"] == "success"


async def test_what_is_forgotten_twice_is_forgotten_once(here: Here, hand: HandAttempt, client: Client) -> None:
    info = await client.get(hand.run_id)
    await here.gateway.runs.cancel(info, "rollback")
    await here.gateway.runs.cancel(info, "rollback")
    assert [task.get_name() for task in asyncio.all_tasks()].count("gateway-forget") == 1
    await hand.end("stopped")
    await until(lambda: is_gone(client, hand.run_id), "the run has gone")


async def test_a_run_that_cannot_be_forgotten_is_told_of(
    here: Here, hand: HandAttempt, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuses(_: str) -> None:
        raise RedisConnectionError("not now")

    documents = client.documents("thread", ttl=60)
    runs = Runs(client, documents, here.gateway.states, refuses, show_errors=True, forget_after=0)
    with caplog.at_level(logging.WARNING, "runstream.gateway"):
        await runs.cancel(await client.get(hand.run_id), "rollback")
        await hand.end("stopped")
        await until(lambda: "not now" in caplog.text, "it is told")
    assert (await here.http.get(f"/runs/{hand.run_id}")).status_code == 404
    await runs.aclose()


@pytest.mark.parametrize("result", ["0", "[]", '""', "false"])
async def test_a_result_that_is_nothing_much_is_a_result(here: Here, hand: HandAttempt, result: str) -> None:
    await hand.end("success", result=result)
    assert (await here.http.get(f"/runs/{hand.run_id}/join")).text.strip() == result


@pytest.mark.parametrize("how", ["delete", "cancel"])
async def test_a_run_whose_worker_has_died_is_ended_where_no_worker_is_left(
    here: Here, hand: HandAttempt, redis: Redis, namespace: str, how: str
) -> None:
    path = f"/threads/{hand.run_id}/runs/{hand.run_id}"
    wanted = here.http.delete(path) if how == "delete" else here.http.post(f"{path}/cancel", params={"wait": True})
    asking = asyncio.create_task(wanted)
    keys = Keys(namespace)
    try:

        async def is_told() -> bool:
            return (await hand.client.get(hand.run_id)).stop_action is not None

        await until(is_told, "the worker has been told")
        await redis.zadd(keys.leases, {keys.run(hand.run_id): 1})
        answer = await asking
    finally:
        asking.cancel()
    assert answer.is_success
    if how == "delete":
        with pytest.raises(RunNotFound):
            await hand.client.get(hand.run_id)
    else:
        assert (await hand.client.get(hand.run_id)).status is Status.STOPPED


async def test_a_worker_that_does_not_end_its_run_is_not_waited_for_for_ever(client: Client, hand: HandAttempt) -> None:
    with pytest.raises(ApiError) as refused:
        await stop_and_wait(client, hand.run_id, reason="enough", patience=0.1)
    assert refused.value.status == 503
    await hand.end("stopped")
