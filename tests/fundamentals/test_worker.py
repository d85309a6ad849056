"""The worker: slots, stops, timeouts, limits, and whatever a queue or a graph may do to it."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, TypedDict

import pytest
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from redis.asyncio import Redis
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, InvalidRequest, RunErrored, RunLost, RunStopped, RunTimedOut, Status
from runstream.keys import Keys
from runstream_worker.settings import WorkerSettings


class State(TypedDict, total=False):
    n: int


class Gate:
    """A graph whose runs wait until they are let go, and that counts them."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.inside = 0
        self.most = 0
        self.cancelled = 0
        self.graph = graph(self.wait)

    async def wait(self, state: State) -> State:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.inside -= 1
        return state


def graph(node: Any) -> Any:
    return StateGraph(State).add_node("node", node).add_edge(START, "node").compile()


async def test_a_worker_executes_as_many_runs_as_it_has_slots(client: Client, workers: Workers) -> None:
    gate = Gate()
    await workers.start({"concurrency": 3}, gate=gate.graph)
    runs = [await client.enqueue("gate", {"n": n}) for n in range(8)]
    await until(lambda: gate.inside == 3, "three runs are being executed")
    gate.open.set()
    assert await client.gather(run.run_id for run in runs) == [{"n": n} for n in range(8)]
    assert gate.most == 3


async def test_a_burst_spreads_over_the_workers_and_fills_every_slot(client: Client, workers: Workers) -> None:
    gate = Gate()
    runners = [await workers.start({"concurrency": 5}, gate=gate.graph) for _ in range(4)]
    results = asyncio.create_task(client.batch("gate", [{"n": n} for n in range(20)]))
    await until(lambda: gate.inside == 20, "every slot is taken")
    assert [len(runner.running) for runner in runners] == [5] * 4
    gate.open.set()
    assert len(await results) == 20


async def test_a_worker_without_a_free_slot_leaves_the_bell_to_others(client: Client, workers: Workers) -> None:
    gate = Gate()
    # With so long a poll interval only the bell can have told the other in time.
    full = await workers.start({"concurrency": 1, "poll_interval": 10.0}, gate=gate.graph)
    first = await client.enqueue("gate", {"n": 1})
    await until(lambda: gate.inside == 1, "its slot is taken")
    other = await workers.start({"poll_interval": 10.0}, gate=gate.graph, other=graph(lambda state: state))
    await client.invoke("other", {"n": 0})  # so it listens
    second = await client.enqueue("gate", {"n": 2})
    await until(lambda: gate.inside == 2, "the other has taken the second run", timeout=5.0)
    assert (list(full.running), list(other.running)) == ([first.run_id], [second.run_id])
    gate.open.set()
    assert await client.gather([first.run_id, second.run_id]) == [{"n": 1}, {"n": 2}]


async def test_a_worker_takes_only_runs_of_its_graphs(client: Client, workers: Workers) -> None:
    await workers.start(one=graph(lambda state: {"n": 1}))
    two = await client.enqueue("two", {"n": 0})
    assert await client.invoke("one", {"n": 0}) == {"n": 1}
    assert (await client.get(two.run_id)).status == Status.QUEUED
    await workers.start(two=graph(lambda state: {"n": 2}))
    assert await client.result(two.run_id) == {"n": 2}


async def test_a_silent_run_is_stopped_at_once(client: Client, workers: Workers) -> None:
    gate = Gate()
    # So long between two beats, and two polls, that only the bell can have told the worker.
    await workers.start({"beat_interval": 30.0, "poll_interval": 10.0, "lease": 90.0}, gate=gate.graph)
    run = await client.enqueue("gate", {"n": 1})
    await until(lambda: gate.inside == 1, "the run waits")
    assert await client.stop(run.run_id, reason="user left") == ("stopping", Status.RUNNING)
    events = [event async for event in client.tail(run.run_id)]
    assert (events[-1].mode, events[-1].data["status"], events[-1].data["reason"]) == ("end", "stopped", "user left")
    assert gate.cancelled == 1
    with pytest.raises(RunStopped, match="user left"):
        await client.result(run.run_id)
    assert await client.stop(run.run_id) == ("ended", Status.STOPPED)


async def test_a_node_that_ignores_its_cancellation_is_left_behind(client: Client, workers: Workers) -> None:
    going_on = asyncio.Event()
    stubborn_tasks: list[asyncio.Task[Any] | None] = []

    async def stubborn(state: State) -> State:
        stubborn_tasks.append(asyncio.current_task())
        while not going_on.is_set():
            try:
                await going_on.wait()
            except asyncio.CancelledError:
                get_stream_writer()("still here")
        return state

    await workers.start({"cancel_grace": 0.1}, stubborn=graph(stubborn), other=graph(lambda state: {"n": 2}))
    run = await client.enqueue("stubborn", {"n": 1}, stream_mode="custom")
    await until(lambda: bool(stubborn_tasks), "the run has begun")
    await client.stop(run.run_id)
    with pytest.raises(RunStopped):
        await client.result(run.run_id)
    assert await client.invoke("other", {"n": 1}) == {"n": 2}
    going_on.set()
    await until(lambda: all(task is None or task.done() for task in stubborn_tasks), "the node has come to its end")
    assert [event.mode async for event in client.tail(run.run_id)][-1] == "end"


async def test_a_run_that_takes_too_long_times_out(client: Client, workers: Workers) -> None:
    gate = Gate()
    await workers.start({"run_timeout": 60.0}, gate=gate.graph)
    run = await client.enqueue("gate", {"n": 1}, timeout=0.05)
    with pytest.raises(RunTimedOut, match=r"longer than 0\.05 s"):
        await client.result(run.run_id)
    assert gate.cancelled == 1


async def test_a_run_that_publishes_too_much_ends_with_an_error(client: Client, workers: Workers) -> None:
    def flood(state: State) -> State:
        for n in range(1000):
            get_stream_writer()({"n": n, "text": "x" * 100})
        return state

    await workers.start({"max_stream_bytes": 10_000}, flood=graph(flood))
    run = await client.enqueue("flood", {"n": 1}, stream_mode="custom")
    with pytest.raises(RunErrored, match=r"StreamTooLarge.*max_stream_bytes"):
        await client.result(run.run_id)
    info = await client.get(run.run_id)
    assert 0 < info.stream_bytes <= 10_000
    events = [event async for event in client.tail(run.run_id)]
    assert events[-1].data["error"]["type"] == "StreamTooLarge"
    assert [event.data["n"] for event in events if event.mode == "custom"] == list(range(len(events) - 2))


async def test_a_worker_that_is_shut_down_gives_its_runs_some_time(client: Client, workers: Workers) -> None:
    gate = Gate()
    async with Workers(workers.redis_url, workers.namespace) as brief:
        await brief.start({"shutdown_grace": 30.0}, gate=gate.graph)
        run = await client.enqueue("gate", {"n": 1})
        await until(lambda: gate.inside == 1, "the run waits")
        asyncio.get_running_loop().call_later(0.05, gate.open.set)
    assert (await client.get(run.run_id)).status == Status.SUCCESS
    assert await client.workers() == []


async def test_a_run_that_outlasts_the_shutdown_of_its_worker_goes_on_elsewhere(
    client: Client, workers: Workers
) -> None:
    gate = Gate()
    async with Workers(workers.redis_url, workers.namespace) as brief:
        first = await brief.start({"shutdown_grace": 0.01}, gate=gate.graph)
        run = await client.enqueue("gate", {"n": 1}, max_attempts=1)
        await until(lambda: gate.inside == 1, "the run waits")
    assert gate.cancelled == 1
    info = await client.get(run.run_id)
    assert (info.status, info.attempt) == (Status.QUEUED, 1)
    assert [(each.attempt, each.worker, each.cause) for each in info.holders] == [(1, first.worker_id, "drained")]
    gate.open.set()
    await workers.start(gate=gate.graph)
    assert await client.result(run.run_id) == {"n": 1}
    # A shutdown costs no attempt: this run had but one.
    assert (await client.get(run.run_id)).attempt == 2


async def test_without_checkpoints_a_run_that_outlasts_the_shutdown_of_its_worker_is_lost_and_says_so(
    client: Client, workers: Workers
) -> None:
    gate = Gate()
    async with Workers(workers.redis_url, workers.namespace) as brief:
        await brief.start({"shutdown_grace": 0.01, "checkpointer_url": "none"}, gate=gate.graph)
        run = await client.enqueue("gate", {"n": 1})
        await until(lambda: gate.inside == 1, "the run waits")
    with pytest.raises(RunLost, match="WorkerShutdown: the worker was shut down"):
        await client.result(run.run_id)


@pytest.mark.parametrize(
    ("settings", "restartable"),
    [({"restartable": frozenset({"gate"})}, False), ({}, True)],
    ids=["the worker says so", "the run says so"],
)
async def test_without_checkpoints_a_restartable_run_starts_over(
    client: Client, workers: Workers, settings: dict[str, Any], restartable: bool
) -> None:
    gate = Gate()
    settings = {"shutdown_grace": 0.01, "checkpointer_url": "none", **settings}
    async with Workers(workers.redis_url, workers.namespace) as brief:
        await brief.start(settings, gate=gate.graph)
        run = await client.enqueue("gate", {"n": 1}, stream_mode=["values", "updates"], restartable=restartable)
        await until(lambda: gate.inside == 1, "the run waits")
    gate.open.set()
    await workers.start(settings, gate=gate.graph)
    events = [event async for event in client.tail(run.run_id)]
    told = ["attempt", "values", "attempt", "values", "updates", "values", "end"]
    assert [event.mode for event in events] == told
    again = events[2].data
    assert (again["after"], again["left"], again["checkpoint"]) == ("1-1", "drained", None)
    assert again["voids"] == {"all": True, "count": 1}
    assert await client.result(run.run_id) == {"n": 1}


async def test_a_worker_whose_lease_expired_is_told_and_another_goes_on(
    client: Client, workers: Workers, redis: Redis, namespace: str
) -> None:
    gate = Gate()
    # The first is about to beat again when its lease has expired, and has no slot left; the second looks for expired
    # leases twenty times as often.
    first = await workers.start({"beat_interval": 1.0, "lease": 30.0, "concurrency": 1}, gate=gate.graph)
    run = await client.enqueue("gate", {"n": 1})
    await until(lambda: gate.inside == 1, "the run waits")
    second = await workers.start({"beat_interval": 0.05, "lease": 30.0}, gate=gate.graph)
    keys = Keys(namespace)
    await redis.zadd(keys.leases, {keys.run(run.run_id): 1})
    await until(lambda: run.run_id in second.running, "the second worker has taken the run")
    await until(lambda: gate.cancelled == 1, "the first worker has been told, and has let go of the run")
    gate.open.set()
    assert await client.result(run.run_id) == {"n": 1}
    info = await client.get(run.run_id)
    assert (info.attempt, info.worker) == (2, second.worker_id)
    assert [(each.worker, each.cause) for each in info.holders] == [(first.worker_id, "lost")]


async def test_a_run_whose_worker_takes_it_again_is_executed_once_at_a_time(
    client: Client, workers: Workers, redis: Redis, namespace: str
) -> None:
    gate = Gate()
    # Nobody else has the graph: the worker that lost the run gets it back before a beat tells it of the loss.
    await workers.start({"beat_interval": 10.0, "lease": 30.0}, gate=gate.graph)
    run = await client.enqueue("gate", {"n": 1})
    await until(lambda: gate.inside == 1, "the run waits")
    await workers.start({"beat_interval": 0.05, "lease": 30.0}, other=graph(lambda state: state))
    keys = Keys(namespace)
    await redis.zadd(keys.leases, {keys.run(run.run_id): 1})
    await until(lambda: gate.cancelled == 1 and gate.inside == 1, "the second attempt waits in the place of the first")
    gate.open.set()
    assert await client.result(run.run_id) == {"n": 1}
    assert (await client.get(run.run_id)).attempt == 2


async def test_a_blocked_loop_does_not_lose_its_runs(client: Client, workers: Workers) -> None:
    async def rude(state: State) -> State:
        time.sleep(1.0)  # noqa: ASYNC251 - this is what is being tested
        return {"n": 2}

    await workers.start({"lease": 0.4, "beat_interval": 0.1}, rude=graph(rude))
    await workers.start({"lease": 0.4, "beat_interval": 0.1}, other=graph(lambda state: state))
    assert await client.invoke("rude", {"n": 1}) == {"n": 2}


async def test_a_loop_that_is_blocked_for_too_long_loses_its_runs(client: Client, workers: Workers) -> None:
    blocked, going_on = threading.Event(), threading.Event()
    quick = {"lease": 0.4, "beat_interval": 0.1, "stall_limit": 0.3}

    async def rude(state: State) -> State:
        blocked.set()
        going_on.wait()
        return {"n": 1}

    async def work() -> None:
        """Another worker, in another loop, which it blocks."""
        async with Workers(workers.redis_url, workers.namespace) as others:
            await others.start(quick, graph=graph(rude))
            await asyncio.to_thread(going_on.wait)

    rude_worker = asyncio.create_task(asyncio.to_thread(asyncio.run, work()))
    try:
        run = await client.enqueue("graph", {"n": 0})
        await until(blocked.is_set, "the run has begun, and blocks")
        heir = await workers.start(quick, graph=graph(lambda state: {"n": 2}))
        assert await client.result(run.run_id) == {"n": 2}
        info = await client.get(run.run_id)
        assert (info.attempt, info.worker) == (2, heir.worker_id)
    finally:
        going_on.set()
        await rude_worker
    assert (await client.get(run.run_id)).status is Status.SUCCESS


async def test_a_delayed_run_starts_when_it_is_due(client: Client, workers: Workers) -> None:
    # With so long a poll interval only the time that the claim was told can have woken the worker.
    await workers.start({"poll_interval": 10.0}, one=graph(lambda state: {"n": 1}))
    run = await client.enqueue("one", {"n": 0}, delay=0.3)
    assert await client.result(run.run_id) == {"n": 1}
    info = await client.get(run.run_id)
    assert info.started_at is not None
    assert info.started_at >= info.due_at


UNREADABLE = [
    ('{"v": 2, "graph": "one"}', "written by another version of runstream: v: Input should be 1"),
    ("garbage", "written by another version of runstream: request: Invalid JSON"),
    (None, "written by another version of runstream: request: Invalid JSON"),
    ('{"graph": "renamed", "thread_id": "t", "stream_mode": []}', "this worker has no graph 'renamed'; it has one"),
]


@pytest.mark.parametrize("unreadable", UNREADABLE, ids=["another version", "garbage", "missing", "unknown graph"])
async def test_a_run_that_cannot_be_read_is_a_dead_letter_and_slows_nobody(
    client: Client, workers: Workers, redis: Redis, namespace: str, unreadable: tuple[str | None, str]
) -> None:
    request, told = unreadable
    keys = Keys(namespace)
    run = await client.enqueue("one", {"n": 0})
    if request is None:
        await redis.hdel(keys.run(run.run_id), "request")  # type: ignore[misc] # redis-py 5's types
    else:
        await redis.hset(keys.run(run.run_id), "request", request)  # type: ignore[misc] # redis-py 5's types
    await redis.zadd(keys.queue("one"), {"garbage": 1})
    await workers.start(one=graph(lambda state: {"n": 1}))
    with pytest.raises(RunLost, match=f"ProtocolError: .*{told}"):
        await client.result(run.run_id)
    assert await redis.zrange(keys.dead, 0, -1) == [run.run_id.encode()]
    assert await client.invoke("one", {"n": 0}) == {"n": 1}


async def test_a_graph_that_raises_ends_its_run_with_the_error(client: Client, workers: Workers) -> None:
    def fail(state: State) -> State:
        raise KeyError("no such city")

    await workers.start(fail=graph(fail), one=graph(lambda state: {"n": 1}))
    with pytest.raises(RunErrored, match="KeyError: 'no such city'") as caught:
        await client.invoke("fail", {"n": 1})
    assert caught.value.info.error is not None
    assert caught.value.info.error.type == "KeyError"
    outcomes = await client.batch("fail", [{"n": 1}, {"n": 2}], return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RunErrored, RunErrored]
    assert await client.invoke("one", {"n": 0}) == {"n": 1}


async def test_workers_say_what_they_are(client: Client, workers: Workers) -> None:
    runner = await workers.start({"concurrency": 7}, one=graph(lambda state: state), two=graph(lambda state: state))
    found: list[Any] = []

    async def announced() -> bool:
        found[:] = await client.workers()
        return bool(found)

    await until(announced, "the worker has said something")
    (worker,) = found
    said = (worker.worker_id, worker.graphs, worker.concurrency, worker.running)
    assert said == (runner.worker_id, ["one", "two"], 7, 0)
    assert worker.started_at <= worker.beat_at


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("\ud83d is half a character"), "ValueError: . is half a character"),
        (Unspeakable(), "Unspeakable: .its message cannot be told"),
        (ValueError("x" * 3_000_000), r"xxx\.\.\. \(3,000,000 characters in all\)"),
    ],
    ids=["surrogate", "no text", "long"],
)
async def test_whatever_an_exception_says_its_run_ends_with_it(
    client: Client, workers: Workers, error: Exception, told: str
) -> None:
    def fail(state: State) -> State:
        raise error

    await workers.start(fail=graph(fail))
    with pytest.raises(RunErrored, match=told) as caught:
        await client.invoke("fail", {"n": 1})
    assert len(str(caught.value)) < 11_000


async def test_a_result_that_is_too_large_is_an_error(client: Client, workers: Workers) -> None:
    await workers.start({"max_stream_bytes": 10_000}, large=graph(lambda state: {"n": "x" * 20_000}))
    run = await client.enqueue("large", {"n": 1}, stream_mode="custom")
    with pytest.raises(RunErrored, match=r"ResultTooLarge.*max_stream_bytes"):
        await client.result(run.run_id)


async def test_an_event_that_is_too_large_is_an_error(client: Client, workers: Workers) -> None:
    def shout(state: State) -> State:
        get_stream_writer()("a" * 20_000)
        return {"n": 1}

    await workers.start({"max_stream_bytes": 10_000}, shout=graph(shout))
    run = await client.enqueue("shout", {"n": 1}, stream_mode="custom")
    with pytest.raises(RunErrored, match=r"StreamTooLarge: one event of mode custom is 20,\d\d\d bytes"):
        await client.result(run.run_id)


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0}, {"buffer_events": 0}, {"buffer_bytes": -1}, {"poll_interval": 20}, {"lease": 1.0},
        {"run_timeout": 0}, {"shutdown_grace": -1}, {"max_stream_bytes": 1.5}, {"beat_interval": float("nan")},
    ],
    ids=lambda wrong: next(iter(wrong)),
)  # fmt: skip
def test_a_setting_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=f"^{next(iter(wrong))}: "):
        WorkerSettings(**wrong)
