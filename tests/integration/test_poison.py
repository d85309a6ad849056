"""Whatever is in a queue, workers go on, and at once."""

from __future__ import annotations

import json
from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from redis.asyncio import Redis
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, RunLost, Status
from runstream.keys import Keys


class State(TypedDict, total=False):
    n: int


def graph() -> Any:
    return StateGraph(State).add_node("node", lambda state: {"n": state["n"] + 1}).add_edge(START, "node").compile()


@pytest.fixture
def cell(redis: Redis, namespace: str) -> tuple[Any, Keys]:
    """What is in Redis, and how it is called. Any: redis-py 5's types say that its commands may be synchronous."""
    return redis, Keys(namespace)


async def test_garbage_in_a_queue_is_dropped_and_the_run_behind_it_is_executed(
    client: Client, workers: Workers, cell: tuple[Any, Keys]
) -> None:
    raw, keys = cell
    members = [f"garbage {n}" for n in range(300)] + ["", "\x00\xff", keys.run("not-a-uuid"), keys.leases]
    await raw.zadd(keys.queue("good"), dict.fromkeys(members, 1))
    await raw.hset(keys.run("half"), mapping={"status": "queued"})
    await raw.set(keys.run("text"), "no record", ex=60)
    await raw.expire(keys.run("half"), 60)
    await raw.zadd(keys.queue("good"), {keys.run("half"): 1, keys.run("text"): 1})
    run = await client.enqueue("good", {"n": 1})
    runner = await workers.start(good=graph())
    assert await client.result(run.run_id) == {"n": 2}
    assert await raw.zcard(keys.queue("good")) == 0
    assert not runner.running


@pytest.mark.parametrize(
    ("request_json", "told"),
    [
        ('{"v": 2, "graph": "good", "thread_id": "t", "stream_mode": ["values"]}', "another version"),
        ('{"graph": "good", "thread_id": "t", "stream_mode": ["values"], "new_option": 1}', "new_option"),
        ("garbage", "another version"),
        (None, "another version"),
        ('{"graph": "unknown", "thread_id": "t", "stream_mode": ["values"]}', "has no graph 'unknown'"),
    ],
)
async def test_a_request_that_cannot_be_executed_is_a_dead_letter(
    request_json: str | None, told: str, client: Client, workers: Workers, cell: tuple[Any, Keys]
) -> None:
    redis, keys = cell
    poisoned = await client.enqueue("good", {"n": 1}, thread_id="t")
    key = keys.run(poisoned.run_id)
    await (redis.hdel(key, "request") if request_json is None else redis.hset(key, "request", request_json))
    await workers.start(good=graph())
    with pytest.raises(RunLost, match=told):
        await client.result(poisoned.run_id)
    assert await client.invoke("good", {"n": 5}, thread_id="t") == {"n": 6}
    assert [info.run_id for info in await client.dead()] == [poisoned.run_id]


async def test_a_stream_of_another_version_cannot_be_gone_on_with_and_says_so(
    client: Client, workers: Workers, cell: tuple[Any, Keys]
) -> None:
    """The attempt before was of a newer version, whose events this one cannot read."""
    raw, keys = cell
    run = await client.enqueue("good", {"n": 1})
    await raw.hset(keys.run(run.run_id), mapping={"attempt": 1, "seq": 1})
    await raw.xadd(keys.events(run.run_id), {"7": json.dumps({"new": "form"})}, id="1-1")
    await raw.expire(keys.events(run.run_id), 60)
    await workers.start(good=graph())
    with pytest.raises(RunLost, match="format"):
        await client.wait(run.run_id)


async def test_a_run_that_no_worker_has_the_graph_for_says_so_and_ends(client: Client, workers: Workers) -> None:
    await workers.start({"beat_interval": 0.05, "lease": 30.0}, good=graph())
    await until(lambda: _has_worker(client), "the worker has said that it is there")
    run = await client.enqueue("other", {"n": 1}, start_within=0.2)
    waiting = await client.waiting_for(run.run_id)
    assert waiting is not None
    assert "other" in str(waiting)
    with pytest.raises(RunLost, match="no worker that has graph other took it"):
        await client.result(run.run_id)
    assert (await client.get(run.run_id)).status is Status.LOST
    assert await client.invoke("good", {"n": 1}) == {"n": 2}


async def _has_worker(client: Client) -> bool:
    return bool(await client.workers())
