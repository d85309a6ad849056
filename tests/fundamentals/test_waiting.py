"""A run that waits says why."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.support.attempts import HandAttempt

from runstream import Client, RunNotFound, Waiting
from runstream.connection import connect
from runstream.keys import Keys
from runstream.model import new_run_id
from runstream.scripts import Scripts


@pytest.fixture
async def scripts(redis_url: str, namespace: str) -> AsyncIterator[Scripts]:
    redis = connect(redis_url, connections=1)
    yield Scripts(redis, Keys(namespace))
    await redis.aclose()


async def live(scripts: Scripts, graphs: str, *, name: str = "w", running: int = 0) -> None:
    """A worker says that it is there."""
    about = {"host": "h", "pid": 1, "graphs": graphs, "concurrency": 2, "version": "1", "running": running}
    about["started_at"] = time.time_ns() // 1_000_000
    await scripts.beat(name, {}, lease=3000, worker_ttl=60_000, running_ttl=60_000, about=about)  # type: ignore[arg-type] # text and numbers


async def why(client: Client, run_id: str) -> Waiting:
    waiting = await client.waiting_for(run_id)
    assert waiting is not None
    assert waiting.run_id == run_id
    return waiting


async def test_no_live_worker_has_the_graph(client: Client, scripts: Scripts) -> None:
    run = await client.enqueue("agent", None)
    nobody = await why(client, run.run_id)
    assert (nobody.reason, nobody.graphs, str(nobody)) == (
        "worker",
        [],
        "no live worker has graph 'agent'; there is none",
    )

    await live(scripts, "sales,support")
    others = await why(client, run.run_id)
    assert (others.reason, others.graphs) == ("worker", ["sales", "support"])
    assert str(others) == "no live worker has graph 'agent'; those that are there have sales, support"


async def test_a_worker_that_has_said_nothing_for_a_while_is_not_there(
    client: Client, scripts: Scripts, redis: Redis, namespace: str
) -> None:
    run = await client.enqueue("agent", None)
    await live(scripts, "agent")
    assert (await why(client, run.run_id)).reason == "slots"
    beat = str(time.time_ns() // 1_000_000 - 20_000)
    await redis.hset(Keys(namespace).worker("w"), "beat_at", beat)  # type: ignore[misc] # redis-py's types say that it may be synchronous
    assert (await why(client, run.run_id)).reason == "worker"


async def test_the_workers_that_have_the_graph_are_busy(client: Client, scripts: Scripts) -> None:
    runs = [await client.enqueue("agent", None) for _ in range(3)]
    await live(scripts, "agent,sales", running=2)
    await live(scripts, "agent", name="other", running=1)
    await live(scripts, "sales", name="third", running=1)
    waiting = [await why(client, run.run_id) for run in runs]
    assert [one.ahead for one in waiting] == [0, 1, 2]
    assert {(one.reason, one.workers, one.running, one.slots) for one in waiting} == {("slots", 2, 3, 4)}
    assert str(waiting[2]) == "3 of 4 slots for graph 'agent' are taken, 2 runs are to be taken before it"


async def test_it_is_not_due(client: Client) -> None:
    run = await client.enqueue("agent", None, delay=3600)
    waiting = await why(client, run.run_id)
    assert waiting.reason == "due"
    assert waiting.due_at == (await client.get(run.run_id)).due_at
    assert str(waiting).startswith(f"it is due at {waiting.due_at.date()}")


async def test_another_run_is_on_its_thread(client: Client, make_hand: Callable[..., Any]) -> None:
    first: HandAttempt = await make_hand(thread_id="t")
    second = await client.enqueue("agent", None, thread_id="t")
    third = await client.enqueue("agent", None, thread_id="t")
    for run in (second, third):
        waiting = await why(client, run.run_id)
        assert (waiting.reason, waiting.behind) == ("thread", first.run_id)
        assert str(waiting) == f"run {first.run_id} is on its thread"
    assert await client.waiting_for(first.run_id) is None

    await first.end()

    assert (await why(client, second.run_id)).reason == "worker"
    assert (await why(client, third.run_id)).behind == second.run_id


async def test_a_queue_that_a_run_was_called_up_into_expires_with_it(
    client: Client, make_hand: Callable[..., Any], redis: Redis, namespace: str
) -> None:
    first: HandAttempt = await make_hand(thread_id="t")
    second = await client.enqueue("agent", None, thread_id="t", start_within=60)
    queue = Keys(namespace).queue("agent")
    assert await redis.exists(queue) == 0
    await first.end()
    left = await redis.pttl(queue), await redis.pttl(Keys(namespace).run(second.run_id))
    assert left[0] == pytest.approx(left[1], abs=1000)
    assert left[0] > 60_000


async def test_what_is_left_of_a_run_that_has_gone_is_not_waited_for(
    client: Client, make_hand: Callable[..., Any], redis: Redis, namespace: str
) -> None:
    first: HandAttempt = await make_hand(thread_id="t")
    second = await client.enqueue("agent", None, thread_id="t")
    await redis.delete(Keys(namespace).run(first.run_id))
    assert (await why(client, second.run_id)).reason == "worker"


async def test_a_run_that_lost_its_worker_waits_again(client: Client, make_hand: Callable[..., Any]) -> None:
    hand: HandAttempt = await make_hand()
    assert await client.waiting_for(hand.run_id) is None
    await hand.lose()
    assert (await why(client, hand.run_id)).reason == "worker"
    await hand.claim("another")
    await hand.append(b'{"m":"attempt","d":{"attempt":2}}')
    await hand.end()
    assert await client.waiting_for(hand.run_id) is None


async def test_what_does_not_exist_waits_for_nothing(client: Client) -> None:
    with pytest.raises(RunNotFound):
        await client.waiting_for(new_run_id())


async def test_a_running_run_whose_worker_has_died_says_so_while_nobody_looks_after_it(
    client: Client, hand: HandAttempt, redis: Redis, namespace: str
) -> None:
    keys = Keys(namespace)
    assert await client.waiting_for(hand.run_id) is None
    now = (await redis.time())[0]
    await redis.zadd(keys.leases, {keys.run(hand.run_id): (now - 60) * 1000})
    waiting = await client.waiting_for(hand.run_id)
    assert waiting is not None
    assert (waiting.reason, waiting.holder) == ("orphan", "hand")
    assert waiting.silent >= 60
    assert "no live worker is there to go on with it" in str(waiting)
