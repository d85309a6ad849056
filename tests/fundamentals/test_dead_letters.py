"""Runs that could not be executed are kept, and can be enqueued again, once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest
from redis.asyncio import Redis
from tests.support.attempts import HandAttempt

from runstream import Client, InvalidRequest, ProtocolError, RunNotFound, RunSpec, Status
from runstream.connection import connect
from runstream.keys import Keys
from runstream.model import new_run_id
from runstream.request import RunRequest
from runstream.scripts import Scripts

MakeHand: TypeAlias = Callable[..., Awaitable[HandAttempt]]


async def lost(make_hand: MakeHand, **options: Any) -> HandAttempt:
    hand = await make_hand(**{"max_attempts": 1, **options})
    await hand.lose()
    return hand


async def request_of(redis: Redis, namespace: str, run_id: str) -> RunRequest:
    kept: Any = await redis.hget(Keys(namespace).run(run_id), "request")  # type: ignore[misc] # redis-py's types say that it may be synchronous
    return RunRequest.model_validate_json(kept)


async def test_dead_letters_are_the_lost_runs_the_last_first(client: Client, make_hand: MakeHand) -> None:
    assert await client.dead() == []
    first, second = await lost(make_hand), await lost(make_hand)
    alive = await make_hand()
    dead = await client.dead()
    assert [info.run_id for info in dead] == [second.run_id, first.run_id]
    assert [info.run_id for info in await client.dead(limit=1)] == [second.run_id]
    assert alive.run_id not in {info.run_id for info in dead}
    assert [(holder.worker, holder.cause) for holder in dead[0].holders] == [("hand", "lost")]
    assert (dead[0].failures, dead[0].max_attempts, dead[0].error and dead[0].error.type) == (1, 1, "WorkerLost")
    with pytest.raises(InvalidRequest, match="limit: 0 must be"):
        await client.dead(limit=0)


async def test_dead_letters_that_have_expired_are_dropped(
    client: Client, make_hand: MakeHand, redis: Redis, namespace: str
) -> None:
    gone, kept = await lost(make_hand), await lost(make_hand)
    await redis.delete(Keys(namespace).run(gone.run_id))
    assert [info.run_id for info in await client.dead()] == [kept.run_id]
    assert await redis.zrange(Keys(namespace).dead, 0, -1) == [kept.run_id.encode()]


async def test_a_requeued_run_is_the_same_request_on_the_same_thread(
    client: Client, make_hand: MakeHand, redis: Redis, namespace: str
) -> None:
    options = {"stream_mode": ["messages"], "context": {"user": 7}, "timeout": 60, "restartable": True}
    old = await lost(make_hand, **options, metadata={"owner": "u-1"}, retention=77, start_within=99)

    run = await client.requeue(old.run_id)

    assert run.is_new
    info, before = await client.get(run.run_id), await client.get(old.run_id)
    assert (info.status, info.graph, info.thread_id) == (Status.QUEUED, before.graph, old.run_id)
    assert run.thread_id == before.thread_id
    assert info.metadata == {"owner": "u-1", "requeued_from": old.run_id}
    asked, asked_before = [await request_of(redis, namespace, one) for one in (run.run_id, old.run_id)]
    assert asked == asked_before.model_copy(update={"continues": [old.run_id]})
    fields: Any = ("retention", "queued_ttl", "max_attempts")
    kept = [await redis.hmget(Keys(namespace).run(one), fields) for one in (run.run_id, old.run_id)]  # type: ignore[misc] # redis-py's types say that it may be synchronous
    assert kept[0] == kept[1] == [b"77000", b"99000", b"1"]
    assert await client.dead() == []


async def test_a_run_is_requeued_once(client: Client, make_hand: MakeHand) -> None:
    old = await lost(make_hand)
    first, again = [await client.requeue(old.run_id) for _ in range(2)]
    assert (again.run_id, first.is_new, again.is_new) == (first.run_id, True, False)
    assert len(await client.runs()) == 2


async def test_a_call_that_came_half_way_is_completed_by_the_next(
    client: Client, make_hand: MakeHand, redis: Redis, namespace: str
) -> None:
    old = await lost(make_hand)
    first = await client.requeue(old.run_id)
    await redis.zadd(Keys(namespace).dead, {old.run_id: 1})  # as if the reply had been lost before it was taken out
    assert (await client.requeue(old.run_id)).run_id == first.run_id
    assert await client.dead() == []


async def test_a_run_that_is_lost_again_continues_whichever_of_them_has_saved_something(
    client: Client, make_hand: MakeHand, redis: Redis, redis_url: str, namespace: str
) -> None:
    old = await lost(make_hand)
    second = await client.requeue(old.run_id)
    raw = connect(redis_url, connections=1)
    hand = HandAttempt(client, Scripts(raw, Keys(namespace)), second.run_id, second.graph)
    await hand.claim()
    await hand.lose()
    await raw.aclose()
    assert [info.run_id for info in await client.dead()] == [second.run_id]

    third = await client.requeue(second.run_id)

    assert (await request_of(redis, namespace, third.run_id)).continues == [old.run_id, second.run_id]
    assert (await client.get(third.run_id)).metadata == {"requeued_from": second.run_id}
    assert third.thread_id == old.run_id


@pytest.mark.parametrize("status", ["error", "timeout", "stopped"])
async def test_runs_that_failed_are_requeued_too(client: Client, hand: HandAttempt, status: str) -> None:
    await hand.end(status)
    assert (await client.requeue(hand.run_id)).is_new


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("success", "is success and cannot be requeued: its graph has come to its end"),
        ("interrupted", "is interrupted and cannot be requeued: it waits for an answer; enqueue a Command"),
        ("running", "is running and cannot be requeued: it has not ended"),
    ],
)
async def test_runs_that_need_no_second_one_are_not_requeued(
    client: Client, hand: HandAttempt, status: str, told: str
) -> None:
    if status != "running":
        await hand.end(status)
    with pytest.raises(InvalidRequest, match=told):
        await client.requeue(hand.run_id)
    assert len(await client.runs()) == 1


async def test_a_requeued_run_waits_for_its_turn(client: Client, make_hand: MakeHand) -> None:
    old = await lost(make_hand, thread_id="t")
    other = await client.enqueue("another", None, thread_id="t")
    again = await client.requeue(old.run_id)
    waiting = await client.waiting_for(again.run_id)
    assert waiting is not None
    assert (waiting.reason, waiting.behind) == ("thread", other.run_id)


async def test_what_does_not_exist_or_cannot_be_read_is_not_requeued(
    client: Client, make_hand: MakeHand, redis: Redis, namespace: str
) -> None:
    with pytest.raises(RunNotFound):
        await client.requeue(new_run_id())
    old = await lost(make_hand)
    await redis.hset(Keys(namespace).run(old.run_id), "request", '{"v": 2}')  # type: ignore[misc] # redis-py's types say that it may be synchronous
    with pytest.raises(ProtocolError, match=f"the request of run {old.run_id} cannot be read"):
        await client.requeue(old.run_id)
    assert [info.run_id for info in await client.dead()] == [old.run_id]


async def test_requeuing_does_not_get_in_the_way_of_the_producers_own_keys(client: Client, make_hand: MakeHand) -> None:
    old = await lost(make_hand, idempotency_key="order 1")
    again = await client.requeue(old.run_id)
    (same,) = await client.enqueue_many([RunSpec(again.graph, None, {"idempotency_key": "order 1", "max_attempts": 1})])
    assert (same.run_id, same.is_new) == (old.run_id, False)
