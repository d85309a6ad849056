"""What each script writes and answers, as `docs/PROTOCOL.md` says."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.support.cell import LEASE, TTL, Cell

from runstream import Client, RunExists, RunNotFound, Status
from runstream.model import TRANSITIONS, new_run_id
from runstream.scripts import Append, AppendReply, FinishReply, Hold, Wish


async def test_a_claim_takes_due_runs_in_order_and_opens_their_attempt(any_client: Client, cell: Cell) -> None:
    runs = [await any_client.enqueue("agent", {"n": n}) for n in range(3)]
    later = await any_client.enqueue("agent", {"n": 4}, delay=3600)

    first = await cell.claim(2)
    rest = await cell.claim(2)

    assert [run.run_id for run in [*first, *rest]] == [run.run_id for run in runs]
    assert {run.attempt for run in [*first, *rest]} == {1}
    assert await cell.ids(runs[0].run_id) == ["1-0"]
    assert (await any_client.get(runs[0].run_id)).status == Status.RUNNING
    assert (await any_client.get(later.run_id)).status == Status.QUEUED
    assert await cell.redis.zscore(cell.keys.leases, cell.keys.run(runs[0].run_id)) is not None
    assert await cell.claim() == []


async def test_a_claim_says_when_the_next_run_is_due(any_client: Client, cell: Cell) -> None:
    reply = await cell.scripts.claim("w", ["agent"], limit=1, lease=LEASE, running_ttl=TTL)
    assert reply.next_due == -1
    await any_client.enqueue("agent", None, delay=100)
    reply = await cell.scripts.claim("w", ["agent"], limit=1, lease=LEASE, running_ttl=TTL)
    assert 99 < reply.next_due <= 100
    for _ in range(2):
        await any_client.enqueue("agent", None)
    reply = await cell.scripts.claim("w", ["agent"], limit=1, lease=LEASE, running_ttl=TTL)
    assert (len(reply.claimed), reply.next_due) == (1, 0)


async def test_a_delayed_run_is_claimed_when_it_is_due(any_client: Client, cell: Cell) -> None:
    run = await any_client.enqueue("agent", None, delay=100)
    await cell.let_pass(90)
    assert await cell.claim() == []
    await cell.let_pass(10)
    assert (await cell.take()).run_id == run.run_id


async def test_a_claim_takes_the_longest_due_whichever_queue_it_waits_in(any_client: Client, cell: Cell) -> None:
    names = ["a", "b", "a", "b"]
    runs = []
    for name in names:
        runs.append(await any_client.enqueue(name, None))
        await asyncio.to_thread(until_next_ms)
    reply = await cell.scripts.claim("w", ["b", "a"], limit=3, lease=LEASE, running_ttl=TTL)
    assert [run.run_id for run in reply.claimed] == [run.run_id for run in runs[:3]]
    (other,) = (await cell.scripts.claim("w", ["a", "b"], limit=3, lease=LEASE, running_ttl=TTL)).claimed
    assert other.run_id == runs[3].run_id


def until_next_ms() -> None:
    """Let the clock that the scripts read in milliseconds go on by one."""
    begin = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 <= begin:
        pass


async def test_a_worker_gets_only_runs_of_its_graphs(any_client: Client, cell: Cell) -> None:
    await any_client.enqueue("other", None)
    assert await cell.claim() == []


@pytest.mark.parametrize("garbage", ["missing", "wrong type", "not a key of ours"])
async def test_whatever_is_in_the_queue_a_claim_goes_on(any_client: Client, cell: Cell, garbage: str) -> None:
    member = {
        "missing": cell.keys.run(new_run_id()),
        "wrong type": cell.keys.run(new_run_id()),
        "not a key of ours": "\x00\xff",
    }[garbage]
    if garbage == "wrong type":
        await cell.redis.set(member, "x", ex=60)
    await cell.redis.zadd(cell.keys.queue("agent"), {member: 1})
    run = await any_client.enqueue("agent", None)

    reply = await cell.scripts.claim("w", ["agent"], limit=10, lease=LEASE, running_ttl=TTL)

    assert [claimed.run_id for claimed in reply.claimed] == [run.run_id]
    assert len(reply.dropped) == 1
    assert await cell.redis.zcard(cell.keys.queue("agent")) == 0


async def test_a_claim_whose_reply_was_lost_is_handed_out_again(any_client: Client, cell: Cell) -> None:
    first = await any_client.enqueue("agent", {"n": 1})
    second = await any_client.enqueue("agent", {"n": 2})
    await cell.claim(1)
    lost = await cell.claim(1)

    again = await cell.claim(known=[first.run_id])

    assert again == lost
    assert again[0].run_id == second.run_id
    assert await cell.claim(known=[first.run_id, second.run_id]) == []


async def test_one_stroke_per_run_and_a_claim_that_leaves_some_rings_on(any_client: Client, cell: Cell) -> None:
    for _ in range(3):
        await any_client.enqueue("agent", None)
    assert await cell.redis.llen(cell.keys.bell("agent")) == 3
    await cell.redis.delete(cell.keys.bell("agent"))
    await cell.claim(2)
    assert await cell.redis.llen(cell.keys.bell("agent")) == 1
    await cell.claim(2)
    assert await cell.redis.llen(cell.keys.bell("agent")) == 0


async def test_a_batch_sent_again_adds_nothing_twice(cell: Cell, run: Hold) -> None:
    assert (await cell.append(run, 1, b"a", b"b")).outcome == "ok"
    assert (await cell.append(run, 1, b"a", b"b")).outcome == "ok"
    assert (await cell.append(run, 2, b"b", b"c")).outcome == "ok"
    assert await cell.ids(run.run_id) == ["1-0", "1-1", "1-2", "1-3"]
    assert [fields for _, fields in await cell.redis.xrange(cell.keys.events(run.run_id), "1-1")] == [
        {b"1": b} for b in (b"a", b"b", b"c")
    ]
    assert await cell.redis.hmget(cell.keys.run(run.run_id), "seq", "bytes") == [b"3", b"3"]


async def test_a_batch_is_appended_as_far_as_the_byte_limit_allows(cell: Cell, run: Hold) -> None:
    assert (await cell.append(run, 1, b"1234", limit=8)).outcome == "ok"
    assert await cell.append(run, 2, b"12", b"345", limit=8) == ("full", "2")
    assert await cell.append(run, 2, b"12", b"345", limit=8) == ("full", "2")
    assert await cell.append(run, 3, b"12345", limit=8) == ("full", "2")
    assert await cell.ids(run.run_id) == ["1-0", "1-1", "1-2"]


@pytest.mark.parametrize("other", [{"attempt": 0}, {"attempt": 2}, {"worker_id": "x"}])
async def test_only_the_attempt_and_the_worker_that_hold_the_run_write(
    any_client: Client, cell: Cell, run: Hold, other: dict[str, Any]
) -> None:
    stranger = run._replace(**other)
    assert await cell.scripts.last_seq(run) == 0
    assert await cell.scripts.last_seq(stranger) is None
    assert (await cell.append(stranger, 1, b"x")).outcome == "lost"
    assert (await cell.finish(stranger, 1)).outcome == "lost"
    assert await cell.release(stranger) == "not held"
    assert (await cell.beat({run.run_id: stranger.attempt}, worker=stranger.worker_id)).lost == [run.run_id]
    assert await cell.ids(run.run_id) == ["1-0"]
    assert (await any_client.get(run.run_id)).status == Status.RUNNING
    # Nor could it end the run again once it has ended, whatever it says that the end was.
    await cell.finish(run, 1)
    assert (await cell.finish(stranger, 1)).outcome == "lost"


async def test_nothing_is_written_behind_the_end(cell: Cell, run: Hold) -> None:
    assert (await cell.finish(run, 1)).outcome == "ok"
    assert (await cell.append(run, 2, b"x")).outcome == "lost"
    assert await cell.release(run) == "not held"
    assert await cell.scripts.last_seq(run) is None
    assert await cell.ids(run.run_id) == ["1-0", "1-1"]


async def test_a_batch_that_does_not_follow_what_redis_knows_is_not_taken(cell: Cell, run: Hold) -> None:
    await cell.append(run, 1, b"a")
    assert await cell.append(run, 3, b"c") == ("behind", "1")
    assert await cell.ids(run.run_id) == ["1-0", "1-1"]
    assert await cell.append(run, 2, b"b", b"c") == ("ok", "")
    assert await cell.ids(run.run_id) == ["1-0", "1-1", "1-2", "1-3"]


async def test_what_redis_has_lost_is_sent_again_under_the_same_ids(cell: Cell, run: Hold) -> None:
    await cell.append(run, 1, b"a", b"b", b"c")
    await lose_the_last(cell, run, 2)
    assert await cell.append(run, 4, b"d") == ("behind", "1")
    assert (await cell.finish(run, 5)) == FinishReply("behind", 1)
    assert await cell.append(run, 2, b"b", b"c", b"d") == ("ok", "")
    assert (await cell.finish(run, 5)).outcome == "ok"
    assert await cell.ids(run.run_id) == [f"1-{n}" for n in range(6)]


async def lose_the_last(cell: Cell, run: Hold, count: int) -> None:
    """Take the last events away as a Redis does that was restarted without them: record and stream know nothing."""
    key = cell.keys.events(run.run_id)
    entries = (await cell.redis.xrange(key))[:-count]
    left = await cell.redis.pttl(key)
    await cell.redis.delete(key)
    for event_id, fields in entries:
        await cell.redis.xadd(key, fields, event_id)
    await cell.redis.pexpire(key, left)
    await cell.redis.hset(cell.keys.run(run.run_id), "seq", entries[-1][0].decode().partition("-")[2])


async def test_a_gap_is_left_where_the_worker_says_that_what_was_there_is_gone(cell: Cell, run: Hold) -> None:
    await cell.append(run, 1, b"a")
    assert await cell.append(run, 5, b"e", b"f", leave_gap=True) == ("ok", "")
    assert await cell.append(run, 5, b"e", b"f", leave_gap=True) == ("ok", "")
    assert await cell.append(run, 6, b"f", b"g") == ("ok", "")
    assert await cell.finish(run, 9) == FinishReply("behind", 7)
    assert (await cell.finish(run, 9, leave_gap=True)).outcome == "ok"
    assert await cell.ids(run.run_id) == ["1-0", "1-1", "1-5", "1-6", "1-7", "1-9"]


async def test_a_batch_behind_a_gap_that_has_no_room_leaves_none(cell: Cell, run: Hold) -> None:
    assert await cell.append(run, 4, b"12345", limit=4, leave_gap=True) == ("full", "0")
    assert await cell.append(run, 1, b"1", limit=4) == ("ok", "")
    assert await cell.ids(run.run_id) == ["1-0", "1-1"]


async def test_many_runs_are_appended_in_one_round_trip_and_each_has_its_reply(
    any_client: Client, cell: Cell, run: Hold
) -> None:
    await any_client.enqueue("agent", None)
    other = await cell.take()
    gone = Hold(new_run_id(), 1, "w")
    replies = await cell.scripts.append(
        [Append(run, 1, [b"x"]), Append(gone, 1, [b"x"]), Append(other, 1, [b"y"])], byte_limit=1000
    )
    assert [reply.outcome for reply in replies if isinstance(reply, AppendReply)] == ["ok", "lost", "ok"]


async def test_scripts_that_redis_has_forgotten_are_sent_again(any_client: Client, cell: Cell) -> None:
    await cell.redis.script_flush()
    await any_client.enqueue("agent", None)
    run = await cell.take()
    await cell.redis.script_flush()
    assert (await cell.append(run, 1, b"x")).outcome == "ok"


async def test_an_end_is_written_once(any_client: Client, cell: Cell, run: Hold) -> None:
    await cell.append(run, 1, b'{"m": "custom", "d": 1}')
    assert (await cell.finish(run, 2)).outcome == "ok"
    assert (await cell.finish(run, 2)).outcome == "ok"
    assert (await cell.finish(run, 2, "error")).outcome == "lost"
    assert await cell.ids(run.run_id) == ["1-0", "1-1", "1-2"]
    info = await any_client.get(run.run_id)
    assert (info.status, info.last_event_id, info.ended_at is not None) == (Status.SUCCESS, "1-2", True)
    assert await cell.redis.zscore(cell.keys.leases, cell.keys.run(run.run_id)) is None
    assert await cell.redis.exists(cell.keys.arq_job(run.run_id)) == 0
    assert await any_client.result(run.run_id) == 1


async def test_the_retention_that_the_producer_chose_begins_with_the_end(any_client: Client, cell: Cell) -> None:
    await any_client.enqueue("agent", None, retention=30)
    run = await cell.take()
    assert await cell.redis.pttl(cell.keys.run(run.run_id)) > 30_000
    await cell.finish(run, 1)
    for key in (cell.keys.run(run.run_id), cell.keys.events(run.run_id)):
        assert 29_000 < await cell.redis.pttl(key) <= 30_000


async def test_stopping_a_waiting_run_ends_it(any_client: Client, cell: Cell) -> None:
    run = await any_client.enqueue("agent", None)
    assert await any_client.stop(run.run_id, reason="not needed") == ("stopped", Status.STOPPED)
    assert await cell.claim() == []
    events = [event async for event in any_client.tail(run.run_id)]
    assert [(event.id, event.mode, event.data["status"], event.data["reason"]) for event in events] == [
        ("1-0", "end", "stopped", "not needed")
    ]
    assert (await any_client.get(run.run_id)).stop_reason == "not needed"
    assert await any_client.stop(run.run_id) == ("ended", Status.STOPPED)


async def test_stopping_a_running_run_rings_its_worker(any_client: Client, cell: Cell, run: Hold) -> None:
    assert await any_client.stop(run.run_id, reason="user left") == ("stopping", Status.RUNNING)
    assert await cell.redis.lrange(cell.keys.worker_bell("w"), 0, -1) == [cell.keys.run(run.run_id).encode()]
    assert await cell.append(run, 1, b"x") == ("stop", "user left")
    assert (await cell.beat({run.run_id: 1})).stop == {run.run_id: Wish("user left", "interrupt")}


async def test_stopping_an_orphan_ends_it_and_fences_its_worker_off(any_client: Client, cell: Cell, run: Hold) -> None:
    await cell.redis.zadd(cell.keys.leases, {cell.keys.run(run.run_id): 1})
    assert (await any_client.stop(run.run_id, reason="user left")).outcome == "stopped"
    assert (await cell.append(run, 1, b"x")).outcome == "lost"
    assert (await cell.finish(run, 1)).outcome == "lost"
    assert await cell.ids(run.run_id) == ["1-0", "2-0"]
    info = await any_client.get(run.run_id)
    assert (info.status, info.stop_reason, info.failures) == (Status.STOPPED, "user left", 1)
    # Who had it is told as if its death had been noticed before.
    assert [(holder.attempt, holder.worker, holder.cause) for holder in info.holders] == [(1, "w", "lost")]
    assert await cell.held() == set()


async def test_stopping_what_does_not_exist_is_an_error(any_client: Client) -> None:
    with pytest.raises(RunNotFound):
        await any_client.stop(new_run_id())


async def test_a_beat_renews_what_the_worker_holds_and_tells_what_it_does_not(cell: Cell, run: Hold) -> None:
    await cell.redis.zadd(cell.keys.leases, {cell.keys.run(run.run_id): 1})
    gone = new_run_id()
    reply = await cell.beat({run.run_id: 1, gone: 1})
    assert reply.lost == [gone]
    assert (await cell.redis.zscore(cell.keys.leases, cell.keys.run(run.run_id)) or 0) > 1_000_000
    assert await cell.redis.hget(cell.keys.worker("w"), "host") == b"h"


async def test_an_end_goes_behind_events_whose_reply_the_worker_never_heard(cell: Cell, run: Hold) -> None:
    await cell.append(run, 1, b"a", b"b")
    assert (await cell.finish(run, 1)).outcome == "ok"
    assert await cell.ids(run.run_id) == ["1-0", "1-1", "1-2", "1-3"]


async def test_the_first_reason_to_stop_is_kept_and_whoever_wants_it_undone_gets_that(
    any_client: Client, cell: Cell, run: Hold
) -> None:
    await any_client.stop(run.run_id, reason="first")
    await any_client.stop(run.run_id, reason="second", action="rollback")
    await any_client.stop(run.run_id, reason="third")
    assert (await any_client.get(run.run_id)).stop_reason == "first"
    assert (await cell.beat({run.run_id: 1})).stop == {run.run_id: Wish("first", "rollback")}


async def test_a_beat_keeps_a_long_run_from_expiring_and_all_that_knows_of_it(cell: Cell, run: Hold) -> None:
    keys = [cell.keys.run(run.run_id), cell.keys.events(run.run_id), cell.keys.thread(run.run_id)]
    keys += [cell.keys.leases, cell.keys.runs, cell.keys.thread_runs(run.run_id)]
    for key in keys:
        await cell.redis.pexpire(key, 1000)
    await cell.beat({run.run_id: 1})
    for key in keys:
        assert await cell.lives(key) > 50_000, key


async def test_the_index_of_runs_forgets_what_has_expired(any_client: Client, cell: Cell) -> None:
    await cell.redis.zadd(cell.keys.runs, {new_run_id(): n for n in range(50)})
    for _ in range(150):
        await any_client.enqueue("agent", None)
    assert await cell.redis.zcard(cell.keys.runs) < 190


async def test_what_an_expired_run_left_behind_does_not_hurt_a_new_one_of_its_id(
    any_client: Client, cell: Cell
) -> None:
    run_id = new_run_id()
    await cell.redis.xadd(cell.keys.events(run_id), {"1": "x"}, "5-5")
    await any_client.enqueue("agent", None, run_id=run_id)
    run = await cell.take()
    assert await cell.ids(run.run_id) == ["1-0"]


async def test_the_same_request_under_the_same_id_is_the_same_run(any_client: Client, cell: Cell) -> None:
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
