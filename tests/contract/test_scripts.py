"""What each script writes and answers, as `docs/PROTOCOL.md` says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.support.waiting import until

from runstream import Client, RunExists, RunNotFound, Status
from runstream.connection import connect
from runstream.keys import Keys
from runstream.model import TRANSITIONS, new_run_id
from runstream.scripts import Append, AppendReply, Claimed, Scripts

LEASE = 30_000
TTL = 60_000


@pytest.fixture
async def raw(any_redis_url: str) -> AsyncIterator[Any]:
    # Any: the types of redis-py 5 say that its asynchronous commands may be synchronous.
    redis = connect(any_redis_url, connections=2)
    yield redis
    await redis.aclose()


async def claim(scripts: Scripts, limit: int = 10, *, worker: str = "w", **options: Any) -> list[Claimed]:
    reply = await scripts.claim(worker, ["agent"], limit=limit, lease=LEASE, running_ttl=TTL, **options)
    return reply.claimed


async def append(scripts: Scripts, run: Claimed, first: int, *events: bytes, limit: int = 1000) -> AppendReply:
    (reply,) = await scripts.append([Append(run.run_id, run.attempt, first, events)], byte_limit=limit)
    assert isinstance(reply, AppendReply)
    return reply


async def beat(scripts: Scripts, runs: dict[str, int], worker: str = "w", lease: int = LEASE) -> Any:
    return await scripts.beat(worker, runs, lease=lease, worker_ttl=TTL, running_ttl=TTL, about={"host": "h"})


async def finish(scripts: Scripts, run: Claimed, end_seq: int, status: str = "success") -> bool:
    event = b'{"m": "end", "d": {"status": "success"}}'
    return await scripts.finish(
        run.run_id, run.attempt, end_seq=end_seq, event=event, status=status, record={"result": b"1"}
    )


async def ids(raw: Any, keys: Keys, run_id: str) -> list[str]:
    return [event_id.decode() for event_id, _ in await raw.xrange(keys.events(run_id))]


@pytest.fixture
async def run(any_client: Client, scripts: Scripts) -> Claimed:
    """A run that worker `w` holds."""
    await any_client.enqueue("agent", {"n": 1})
    (claimed,) = await claim(scripts)
    return claimed


async def test_a_claim_takes_due_runs_in_order_and_opens_their_attempt(
    any_client: Client, scripts: Scripts, raw: Any, keys: Keys
) -> None:
    runs = [await any_client.enqueue("agent", {"n": n}) for n in range(3)]
    later = await any_client.enqueue("agent", {"n": 4}, delay=3600)

    first = await claim(scripts, 2)
    rest = await claim(scripts, 2)

    assert [run.run_id for run in [*first, *rest]] == [run.run_id for run in runs]
    assert {run.attempt for run in [*first, *rest]} == {1}
    assert await ids(raw, keys, runs[0].run_id) == ["1-0"]
    assert (await any_client.get(runs[0].run_id)).status == Status.RUNNING
    assert (await any_client.get(later.run_id)).status == Status.QUEUED
    assert await raw.zscore(keys.leases, keys.run(runs[0].run_id)) is not None
    assert await claim(scripts) == []


async def test_a_claim_says_when_the_next_run_is_due(any_client: Client, scripts: Scripts) -> None:
    reply = await scripts.claim("w", ["agent"], limit=1, lease=LEASE, running_ttl=TTL)
    assert reply.next_due == -1
    await any_client.enqueue("agent", None, delay=100)
    reply = await scripts.claim("w", ["agent"], limit=1, lease=LEASE, running_ttl=TTL)
    assert 99 < reply.next_due <= 100
    for _ in range(2):
        await any_client.enqueue("agent", None)
    reply = await scripts.claim("w", ["agent"], limit=1, lease=LEASE, running_ttl=TTL)
    assert (len(reply.claimed), reply.next_due) == (1, 0)


async def test_a_delayed_run_is_claimed_when_it_is_due(any_client: Client, scripts: Scripts) -> None:
    run = await any_client.enqueue("agent", None, delay=0.5)
    assert await claim(scripts) == []
    found: list[Claimed] = []

    async def due() -> bool:
        found.extend(await claim(scripts))
        return bool(found)

    await until(due, "the run is due")
    assert [claimed.run_id for claimed in found] == [run.run_id]


async def test_a_claim_takes_the_longest_due_whichever_queue_it_waits_in(any_client: Client, scripts: Scripts) -> None:
    names = ["a", "b", "a", "b"]
    runs = []
    for name in names:
        runs.append(await any_client.enqueue(name, None))
        await asyncio.to_thread(until_next_ms)
    reply = await scripts.claim("w", ["b", "a"], limit=3, lease=LEASE, running_ttl=TTL)
    assert [run.run_id for run in reply.claimed] == [run.run_id for run in runs[:3]]
    (other,) = (await scripts.claim("w", ["a", "b"], limit=3, lease=LEASE, running_ttl=TTL)).claimed
    assert other.run_id == runs[3].run_id


def until_next_ms() -> None:
    """Let the clock that the scripts read in milliseconds go on by one."""
    begin = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 <= begin:
        pass


async def test_a_worker_gets_only_runs_of_its_graphs(any_client: Client, scripts: Scripts) -> None:
    await any_client.enqueue("other", None)
    assert await claim(scripts) == []


@pytest.mark.parametrize("garbage", ["missing", "wrong type", "not a key of ours"])
async def test_whatever_is_in_the_queue_a_claim_goes_on(
    any_client: Client, scripts: Scripts, raw: Any, keys: Keys, garbage: str
) -> None:
    member = {"missing": keys.run(new_run_id()), "wrong type": keys.run(new_run_id()), "not a key of ours": "\x00\xff"}[
        garbage
    ]
    if garbage == "wrong type":
        await raw.set(member, "x", ex=60)
    await raw.zadd(keys.queue("agent"), {member: 1})
    run = await any_client.enqueue("agent", None)

    reply = await scripts.claim("w", ["agent"], limit=10, lease=LEASE, running_ttl=TTL)

    assert [claimed.run_id for claimed in reply.claimed] == [run.run_id]
    assert len(reply.dropped) == 1
    assert await raw.zcard(keys.queue("agent")) == 0


async def test_a_claim_whose_reply_was_lost_is_handed_out_again(any_client: Client, scripts: Scripts) -> None:
    first = await any_client.enqueue("agent", {"n": 1})
    second = await any_client.enqueue("agent", {"n": 2})
    await claim(scripts, 1)
    lost = await claim(scripts, 1)

    again = await claim(scripts, known=[first.run_id])

    assert again == lost
    assert again[0].run_id == second.run_id
    assert await claim(scripts, known=[first.run_id, second.run_id]) == []


async def test_one_stroke_per_run_and_a_claim_that_leaves_some_rings_on(
    any_client: Client, scripts: Scripts, raw: Any, keys: Keys
) -> None:
    for _ in range(3):
        await any_client.enqueue("agent", None)
    assert await raw.llen(keys.bell("agent")) == 3
    await raw.delete(keys.bell("agent"))
    await claim(scripts, 2)
    assert await raw.llen(keys.bell("agent")) == 1
    await claim(scripts, 2)
    assert await raw.llen(keys.bell("agent")) == 0


async def test_a_batch_sent_again_adds_nothing_twice(scripts: Scripts, run: Claimed, raw: Any, keys: Keys) -> None:
    assert (await append(scripts, run, 1, b"a", b"b")).outcome == "ok"
    assert (await append(scripts, run, 1, b"a", b"b")).outcome == "ok"
    assert (await append(scripts, run, 2, b"b", b"c")).outcome == "ok"
    assert await ids(raw, keys, run.run_id) == ["1-0", "1-1", "1-2", "1-3"]
    assert [fields for _, fields in await raw.xrange(keys.events(run.run_id), "1-1")] == [
        {b"1": b} for b in (b"a", b"b", b"c")
    ]
    assert await raw.hmget(keys.run(run.run_id), "seq", "bytes") == [b"3", b"3"]


async def test_a_batch_is_appended_as_far_as_the_byte_limit_allows(
    scripts: Scripts, run: Claimed, raw: Any, keys: Keys
) -> None:
    assert (await append(scripts, run, 1, b"1234", limit=8)).outcome == "ok"
    assert await append(scripts, run, 2, b"12", b"345", limit=8) == ("full", "2")
    assert await append(scripts, run, 2, b"12", b"345", limit=8) == ("full", "2")
    assert await append(scripts, run, 3, b"12345", limit=8) == ("full", "2")
    assert await ids(raw, keys, run.run_id) == ["1-0", "1-1", "1-2"]


async def test_only_the_attempt_that_holds_the_run_appends(
    scripts: Scripts, run: Claimed, raw: Any, keys: Keys
) -> None:
    older = run._replace(attempt=0)
    assert (await append(scripts, older, 1, b"x")).outcome == "lost"
    assert await finish(scripts, run, 1)
    assert (await append(scripts, run, 2, b"x")).outcome == "lost"
    assert await ids(raw, keys, run.run_id) == ["1-0", "1-1"]


async def test_many_runs_are_appended_in_one_round_trip_and_each_has_its_reply(
    any_client: Client, scripts: Scripts, run: Claimed
) -> None:
    await any_client.enqueue("agent", None)
    (other,) = await claim(scripts)
    replies = await scripts.append(
        [Append(run.run_id, 1, 1, [b"x"]), Append(new_run_id(), 1, 1, [b"x"]), Append(other.run_id, 1, 1, [b"y"])],
        byte_limit=1000,
    )
    assert [reply.outcome for reply in replies if isinstance(reply, AppendReply)] == ["ok", "lost", "ok"]


async def test_scripts_that_redis_has_forgotten_are_sent_again(any_client: Client, scripts: Scripts, raw: Any) -> None:
    await raw.script_flush()
    await any_client.enqueue("agent", None)
    (run,) = await claim(scripts)
    await raw.script_flush()
    assert (await append(scripts, run, 1, b"x")).outcome == "ok"


async def test_an_end_is_written_once(any_client: Client, scripts: Scripts, run: Claimed, raw: Any, keys: Keys) -> None:
    await append(scripts, run, 1, b'{"m": "custom", "d": 1}')
    assert await finish(scripts, run, 2)
    assert await finish(scripts, run, 2)
    assert not await finish(scripts, run, 2, "error")
    assert not await finish(scripts, run._replace(attempt=2), 1)
    assert await ids(raw, keys, run.run_id) == ["1-0", "1-1", "1-2"]
    info = await any_client.get(run.run_id)
    assert (info.status, info.last_event_id, info.ended_at is not None) == (Status.SUCCESS, "1-2", True)
    assert await raw.zscore(keys.leases, keys.run(run.run_id)) is None
    assert await raw.exists(keys.arq_job(run.run_id)) == 0
    assert await any_client.result(run.run_id) == 1


async def test_the_retention_that_the_producer_chose_begins_with_the_end(
    any_client: Client, scripts: Scripts, raw: Any, keys: Keys
) -> None:
    await any_client.enqueue("agent", None, retention=30)
    (run,) = await claim(scripts)
    assert await raw.pttl(keys.run(run.run_id)) > 30_000
    await finish(scripts, run, 1)
    for key in (keys.run(run.run_id), keys.events(run.run_id)):
        assert 29_000 < await raw.pttl(key) <= 30_000


async def test_stopping_a_waiting_run_ends_it(any_client: Client, scripts: Scripts, raw: Any, keys: Keys) -> None:
    run = await any_client.enqueue("agent", None)
    assert await any_client.stop(run.run_id, reason="not needed") == ("stopped", Status.STOPPED)
    assert await claim(scripts) == []
    events = [event async for event in any_client.tail(run.run_id)]
    assert [(event.id, event.mode, event.data["status"], event.data["reason"]) for event in events] == [
        ("1-0", "end", "stopped", "not needed")
    ]
    assert (await any_client.get(run.run_id)).stop_reason == "not needed"
    assert await any_client.stop(run.run_id) == ("ended", Status.STOPPED)


async def test_stopping_a_running_run_rings_its_worker(
    any_client: Client, scripts: Scripts, run: Claimed, raw: Any, keys: Keys
) -> None:
    assert await any_client.stop(run.run_id, reason="user left") == ("stopping", Status.RUNNING)
    assert await raw.lrange(keys.worker_bell("w"), 0, -1) == [keys.run(run.run_id).encode()]
    assert await append(scripts, run, 1, b"x") == ("stop", "user left")
    assert (await beat(scripts, {run.run_id: 1})).stop == {run.run_id: "user left"}


async def test_stopping_an_orphan_ends_it_and_fences_its_worker_off(
    any_client: Client, scripts: Scripts, run: Claimed, raw: Any, keys: Keys
) -> None:
    await raw.zadd(keys.leases, {keys.run(run.run_id): 1})
    assert (await any_client.stop(run.run_id)).outcome == "stopped"
    assert (await append(scripts, run, 1, b"x")).outcome == "lost"
    assert not await finish(scripts, run, 1)
    assert await ids(raw, keys, run.run_id) == ["1-0", "2-0"]


async def test_stopping_what_does_not_exist_is_an_error(any_client: Client) -> None:
    with pytest.raises(RunNotFound):
        await any_client.stop(new_run_id())


async def test_a_beat_renews_what_the_worker_holds_and_tells_what_it_does_not(
    scripts: Scripts, run: Claimed, raw: Any, keys: Keys
) -> None:
    await raw.zadd(keys.leases, {keys.run(run.run_id): 1})
    gone = new_run_id()
    reply = await beat(scripts, {run.run_id: 1, gone: 1})
    assert reply.lost == [gone]
    assert (await raw.zscore(keys.leases, keys.run(run.run_id)) or 0) > 1_000_000
    assert await raw.hget(keys.worker("w"), "host") == b"h"


async def test_an_expired_lease_ends_the_run_as_lost_once(
    any_client: Client, scripts: Scripts, run: Claimed, raw: Any, keys: Keys
) -> None:
    await scripts.reap(limit=10, lease=LEASE)
    await raw.zadd(keys.leases, {keys.run(run.run_id): 1})
    assert await scripts.reap(limit=10, lease=LEASE) == ([run.run_id], {})
    assert await scripts.reap(limit=10, lease=LEASE) == ([], {})
    events = [event async for event in any_client.tail(run.run_id)]
    assert [(event.id, event.mode) for event in events] == [("1-0", "attempt"), ("2-0", "end")]
    assert events[-1].data["error"]["type"] == "WorkerLost"
    info = await any_client.get(run.run_id)
    assert (info.status, info.error is not None) == (Status.LOST, True)
    assert (await append(scripts, run, 1, b"x")).outcome == "lost"
    assert (await beat(scripts, {run.run_id: 1})).lost == [run.run_id]


@pytest.mark.parametrize("looked_before", [True, False])
async def test_after_a_time_in_which_nobody_could_beat_no_lease_is_held_to_be_expired(
    scripts: Scripts, run: Claimed, raw: Any, keys: Keys, *, looked_before: bool
) -> None:
    await raw.zadd(keys.leases, {keys.run(run.run_id): 1})
    if looked_before:
        await raw.set(keys.reaper, 1, ex=60)
    assert await scripts.reap(limit=10, lease=LEASE) == ([], {})
    assert await scripts.reap(limit=10, lease=LEASE) == ([], {})
    assert (await raw.zscore(keys.leases, keys.run(run.run_id)) or 0) > 1_000_000


async def test_a_damaged_run_does_not_keep_the_others_from_being_reaped(
    any_client: Client, scripts: Scripts, run: Claimed, raw: Any, keys: Keys
) -> None:
    await any_client.enqueue("agent", None)
    (other,) = await claim(scripts)
    await scripts.reap(limit=10, lease=LEASE)
    await raw.hdel(keys.run(run.run_id), "retention")
    await raw.zadd(keys.leases, {keys.run(run.run_id): 1, keys.run(other.run_id): 2})
    reply = await scripts.reap(limit=10, lease=LEASE)
    assert reply.ended == [other.run_id]
    assert list(reply.broken) == [run.run_id]
    await raw.delete(keys.run(run.run_id), keys.events(run.run_id))


async def test_an_end_goes_behind_events_whose_reply_the_worker_never_heard(
    scripts: Scripts, run: Claimed, raw: Any, keys: Keys
) -> None:
    await append(scripts, run, 1, b"a", b"b")
    assert await finish(scripts, run, 1)
    assert await ids(raw, keys, run.run_id) == ["1-0", "1-1", "1-2", "1-3"]


async def test_the_first_reason_to_stop_is_kept(any_client: Client, run: Claimed) -> None:
    await any_client.stop(run.run_id, reason="first")
    await any_client.stop(run.run_id, reason="second")
    assert (await any_client.get(run.run_id)).stop_reason == "first"


async def test_a_beat_keeps_a_long_run_from_expiring(scripts: Scripts, run: Claimed, raw: Any, keys: Keys) -> None:
    for key in (keys.run(run.run_id), keys.events(run.run_id)):
        await raw.pexpire(key, 1000)
    await beat(scripts, {run.run_id: 1})
    for key in (keys.run(run.run_id), keys.events(run.run_id)):
        assert await raw.pttl(key) > 50_000


async def test_the_index_of_runs_forgets_what_has_expired(any_client: Client, raw: Any, keys: Keys) -> None:
    await raw.zadd(keys.runs, {new_run_id(): n for n in range(50)})
    for _ in range(150):
        await any_client.enqueue("agent", None)
    assert await raw.zcard(keys.runs) < 190


async def test_what_an_expired_run_left_behind_does_not_hurt_a_new_one_of_its_id(
    any_client: Client, scripts: Scripts, raw: Any, keys: Keys
) -> None:
    run_id = new_run_id()
    await raw.xadd(keys.events(run_id), {"1": "x"}, "5-5")
    await any_client.enqueue("agent", None, run_id=run_id)
    (run,) = await claim(scripts)
    assert await ids(raw, keys, run.run_id) == ["1-0"]


async def test_the_same_request_under_the_same_id_is_the_same_run(any_client: Client, scripts: Scripts) -> None:
    run_id = new_run_id()
    first = await any_client.enqueue("agent", {"n": 1}, run_id=run_id, delay=0.001)
    again = await any_client.enqueue("agent", {"n": 1}, run_id=run_id)
    assert (first.run_id, first.is_new, again.run_id, again.is_new) == (run_id, True, run_id, False)
    with pytest.raises(RunExists):
        await any_client.enqueue("agent", {"n": 2}, run_id=run_id)


async def test_the_same_request_under_the_same_key_is_the_same_run(any_client: Client) -> None:
    first = await any_client.enqueue("agent", {"n": 1}, idempotency_key="order 1")
    again = await any_client.enqueue("agent", {"n": 1}, idempotency_key="order 1")
    assert (again.run_id, again.thread_id, again.is_new) == (first.run_id, first.thread_id, False)
    assert [info.run_id for info in await any_client.runs()] == [first.run_id]
    with pytest.raises(RunExists):
        await any_client.enqueue("agent", {"n": 2}, idempotency_key="order 1")


def test_a_state_once_ended_has_no_further_transition() -> None:
    assert all(not TRANSITIONS[status] for status in Status if status.ended)
    assert set(TRANSITIONS) == set(Status)
