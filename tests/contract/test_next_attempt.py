"""What becomes of a run when its attempt is over and it is not: the next attempt, or its end."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.cell import LEASE, Cell

from runstream import Client, Status
from runstream.model import new_run_id
from runstream.scripts import Claimed, Hold, ReapReply

DAY = 24 * 3600.0


async def next_attempt(cell: Cell, run_id: str, *, worker: str = "w") -> Claimed:
    """Claim the one run that waits, which is this one."""
    (claimed,) = await cell.claim(worker=worker)
    assert claimed.run_id == run_id
    return claimed


# -- given back -------------------------------------------------------------------------------------------------------


async def test_a_run_that_is_given_back_waits_for_its_next_attempt_before_all_others(
    any_client: Client, cell: Cell, run: Hold
) -> None:
    other = await any_client.enqueue("agent", None)
    await cell.append(run, 1, b"a", b"b")
    await cell.redis.delete(cell.keys.bell("agent"))

    assert await cell.release(run) == "queued"

    assert await cell.queue() == [run.run_id, other.run_id]
    assert await cell.redis.llen(cell.keys.bell("agent")) == 1
    assert await cell.held() == set()
    assert (await any_client.get(run.run_id)).status == Status.QUEUED
    first, second = await cell.claim(worker="v")
    assert (first.run_id, first.attempt, first.after, first.left) == (run.run_id, 2, "1-2", "drained")
    assert (second.run_id, second.attempt, second.after, second.left) == (other.run_id, 1, "", "")
    assert await cell.held("v") == {run.run_id, other.run_id}


async def test_a_drained_worker_does_not_count_against_the_attempts(any_client: Client, cell: Cell) -> None:
    run = await any_client.enqueue("agent", None, max_attempts=1)
    for attempt in range(1, 5):
        hold = await cell.take()
        assert hold.attempt == attempt
        assert await cell.release(hold, "drained") == "queued"
    await cell.lose(await cell.take())
    assert await cell.dead() == [run.run_id]


async def test_a_fault_is_no_lost_worker_and_counts_against_no_attempt(any_client: Client, cell: Cell) -> None:
    run = await any_client.enqueue("agent", None, max_attempts=1)
    for attempt in range(1, 8):
        hold = await cell.take()
        assert hold.attempt == attempt
        assert await cell.release(hold, "fault", "no database") == "queued"
    await cell.lose(await cell.take())
    assert await cell.dead() == [run.run_id]


async def test_the_last_fault_that_a_run_may_have_ends_it_as_lost(any_client: Client, cell: Cell) -> None:
    run = await any_client.enqueue("agent", None)
    assert await cell.release(await cell.take("v"), "fault", "no database", max_faults=2) == "queued"
    assert (await cell.claim(worker="x"))[0].left == "fault"

    last = Hold(run.run_id, 2, "x")
    assert await cell.release(last, "fault", "no database", max_faults=2) == "lost"
    assert await cell.release(last, "fault", "no database", max_faults=2) == "not held"

    info = await any_client.get(run.run_id)
    assert info.status == Status.LOST
    assert info.error is not None
    assert info.error.type == "WorkerLost"
    assert info.error.message == "no database; held by v (fault), x (fault)"
    assert [(holder.attempt, holder.worker, holder.cause) for holder in info.holders] == [
        (1, "v", "fault"),
        (2, "x", "fault"),
    ]
    assert all(holder.started_at <= holder.ended_at for holder in info.holders)
    assert await cell.ids(run.run_id) == ["1-0", "3-0"]
    assert (await cell.last_event(run.run_id))["d"]["after"] == "1-0"


async def test_the_wait_after_a_fault_doubles_up_to_its_limit(any_client: Client, cell: Cell) -> None:
    run = await any_client.enqueue("agent", None)
    for wait in (1, 2, 4, 8, 10, 10):
        assert await cell.release(await cell.take(), "fault", delay=1_000, longest_delay=10_000) == "queued"
        await cell.let_pass(wait - 0.5)
        assert await cell.claim() == []
        await cell.let_pass(0.5)
    # A drained worker waits for nothing, and changes nothing of that.
    assert await cell.release(await cell.take(), "drained") == "queued"
    assert await cell.release(await cell.take(), "fault", delay=1_000, longest_delay=3_600_000) == "queued"
    await cell.let_pass(63)
    assert await cell.claim() == []
    await cell.let_pass(1)
    assert (await cell.take()).run_id == run.run_id


async def test_a_run_may_be_given_back_for_later(any_client: Client, cell: Cell, run: Hold) -> None:
    other = await any_client.enqueue("agent", None, delay=50)
    assert await cell.release(run, "fault", delay=60_000) == "queued"
    assert await cell.queue() == [other.run_id, run.run_id]
    await cell.let_pass(59)
    assert [claimed.run_id for claimed in await cell.claim()] == [other.run_id]
    await cell.let_pass(1)
    again = await cell.take()
    assert (again.run_id, again.attempt) == (run.run_id, 2)
    # The next time it is before the others again.
    await any_client.enqueue("agent", None)
    assert await cell.release(again) == "queued"
    assert (await cell.queue())[0] == run.run_id


async def test_how_long_a_run_waits_for_a_worker_counts_from_when_it_may_be_taken(
    any_client: Client, cell: Cell
) -> None:
    run = await any_client.enqueue("agent", None, start_within=10)
    await cell.release(await cell.take(), "fault", delay=60_000)
    await cell.let_pass(59 + DAY)
    await cell.reap()
    assert await cell.reap() == ReapReply([], [], {})
    await cell.let_pass(2)
    assert (await cell.reap()).ended == [run.run_id]


async def test_who_gives_a_run_back_twice_is_told_that_he_does_not_hold_it(cell: Cell, run: Hold) -> None:
    assert await cell.release(run) == "queued"
    assert await cell.release(run) == "not held"
    again = await cell.take()
    assert await cell.release(run) == "not held"
    assert await cell.scripts.last_seq(again) == -1
    assert await cell.record(run.run_id, "failures") == ["0"]


async def test_a_run_that_was_given_back_is_written_by_nobody(cell: Cell, run: Hold) -> None:
    await cell.release(run)
    assert (await cell.append(run, 1, b"x")).outcome == "lost"
    assert (await cell.finish(run, 1)).outcome == "lost"
    assert (await cell.beat({run.run_id: 1})).lost == [run.run_id]
    assert await cell.ids(run.run_id) == ["1-0"]
    # A worker of the same name may get it again: its older attempt is fenced all the same.
    again = await cell.take()
    assert (await cell.append(run, 1, b"x")).outcome == "lost"
    assert (await cell.append(again, 0, b"y")).outcome == "ok"
    assert await cell.ids(run.run_id) == ["1-0", "2-0"]


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
@pytest.mark.parametrize("way", ["release", "reap"])
async def test_a_run_that_somebody_wants_stopped_is_not_tried_again(
    any_client: Client, cell: Cell, way: str, action: Any
) -> None:
    run = await any_client.enqueue("agent", None, max_attempts=1)
    hold = await cell.take()
    await any_client.stop(run.run_id, reason="user left", action=action)

    if way == "release":
        assert await cell.release(hold, "fault") == "stopped"
    else:
        assert await cell.lose(hold) == ReapReply([], [run.run_id], {})

    assert (await any_client.get(run.run_id)).status == Status.STOPPED
    assert await cell.ids(run.run_id) == ["1-0", "2-0"]
    end = (await cell.last_event(run.run_id))["d"]
    assert (end["status"], end["reason"], end["after"]) == ("stopped", "user left", "1-0")
    assert await cell.queue() == await cell.looked_after() == await cell.dead() == []
    assert await cell.undo(run.run_id) == ({run.run_id} if action == "rollback" else set())


# -- looked after -----------------------------------------------------------------------------------------------------


async def test_the_run_of_a_dead_worker_goes_on_in_the_next_attempt(any_client: Client, cell: Cell, run: Hold) -> None:
    await cell.append(run, 1, b"a", b"b")

    assert await cell.lose(run) == ReapReply([run.run_id], [], {})

    assert (await any_client.get(run.run_id)).status == Status.QUEUED
    assert (await cell.append(run, 3, b"c")).outcome == "lost"
    claimed = await next_attempt(cell, run.run_id, worker="v")
    assert (claimed.attempt, claimed.after, claimed.left, claimed.undo) == (2, "1-2", "lost", ())
    assert await cell.ids(run.run_id) == ["1-0", "1-1", "1-2"]  # it has to find out first what it voids
    assert (await cell.append(run, 3, b"c")).outcome == "lost"
    now = Hold(run.run_id, 2, "v")
    assert await cell.append(now, 1, b"x") == ("behind", "-1")
    assert await cell.append(now, 0, b"start", b"x") == ("ok", "")
    assert (await cell.finish(now, 2)).outcome == "ok"
    assert await cell.ids(run.run_id) == ["1-0", "1-1", "1-2", "2-0", "2-1", "2-2"]
    info = await any_client.get(run.run_id)
    assert (info.status, info.attempt, info.worker, info.last_event_id) == (Status.SUCCESS, 2, "v", "2-2")
    assert [(holder.attempt, holder.worker, holder.cause) for holder in info.holders] == [(1, "w", "lost")]


async def test_a_run_that_has_lost_as_many_workers_as_it_has_attempts_is_lost(any_client: Client, cell: Cell) -> None:
    run = await any_client.enqueue("agent", None, max_attempts=3)
    for worker in ("u", "v"):
        assert (await cell.lose(await cell.take(worker))).queued == [run.run_id]
    last = await cell.take("w")

    assert await cell.lose(last) == ReapReply([], [run.run_id], {})

    assert await cell.reap() == ReapReply([], [], {})
    info = await any_client.get(run.run_id)
    assert info.error is not None
    assert (info.status, info.error.type, info.attempt) == (Status.LOST, "WorkerLost", 4)
    assert "the lease of worker w expired" in info.error.message
    assert info.error.message.endswith("held by u (lost), v (lost), w (lost)")
    assert [(holder.attempt, holder.worker) for holder in info.holders] == [(1, "u"), (2, "v"), (3, "w")]
    events = [event async for event in any_client.tail(run.run_id)]
    assert [(event.id, event.mode) for event in events] == [("1-0", "attempt"), ("4-0", "end")]
    assert events[-1].data["error"]["message"] == info.error.message
    assert (await cell.append(last, 1, b"x")).outcome == "lost"
    assert await cell.looked_after() == await cell.queue() == await cell.line(run.run_id) == []
    assert await cell.held("w") == set()


async def test_a_run_that_no_worker_takes_in_its_time_is_lost(any_client: Client, cell: Cell) -> None:
    run = await any_client.enqueue("agent", None, delay=50, start_within=10)
    await cell.let_pass(59)
    await cell.reap()
    assert await cell.reap() == ReapReply([], [], {})
    await cell.let_pass(2)
    assert await cell.reap() == ReapReply([], [run.run_id], {})
    info = await any_client.get(run.run_id)
    assert info.error is not None
    assert (info.status, info.error.type) == (Status.LOST, "NotStarted")
    assert info.error.message == "no worker that has graph agent took it within 10 s"
    assert await cell.ids(run.run_id) == ["1-0"]
    assert "after" not in (await cell.last_event(run.run_id))["d"]
    assert await cell.claim() == []
    assert await cell.dead() == [run.run_id]


async def test_a_run_whose_turn_on_its_thread_does_not_come_in_its_time_is_lost(any_client: Client, cell: Cell) -> None:
    first = await any_client.enqueue("agent", None, thread_id="t")
    hold = await cell.take()
    run = await any_client.enqueue("agent", None, thread_id="t", start_within=10)
    for _ in range(2):
        await cell.reap()
        await cell.let_pass(6)
        await cell.beat({first.run_id: 1})
    assert await cell.reap() == ReapReply([], [run.run_id], {})
    info = await any_client.get(run.run_id)
    assert info.error is not None
    assert (info.error.type, info.error.message) == (
        "NotStarted",
        "its turn on the thread did not come within 10 s",
    )
    assert (await cell.append(hold, 1, b"x")).outcome == "ok"


@pytest.mark.parametrize("way", ["release", "reap"])
@pytest.mark.parametrize(("start_within", "waits"), [(10, DAY), (3 * DAY, 3 * DAY)])
async def test_a_run_waits_for_its_next_attempt_as_long_as_for_its_first_and_a_day_at_least(
    any_client: Client, cell: Cell, start_within: float, waits: float, way: str
) -> None:
    run = await any_client.enqueue("agent", None, start_within=start_within)
    await cell.let_pass(start_within - 5)
    hold = await cell.take()
    await (cell.release(hold) if way == "release" else cell.lose(hold))
    await cell.let_pass(waits - 5)
    await cell.reap()
    assert await cell.reap() == ReapReply([], [], {})
    await cell.let_pass(6)
    assert await cell.reap() == ReapReply([], [run.run_id], {})
    end = (await cell.last_event(run.run_id))["d"]
    assert (end["error"]["type"], end["after"]) == ("NotStarted", "1-0")
    assert end["error"]["message"] == f"no worker that has graph agent went on with it within {waits:.0f} s"


async def test_a_run_whose_only_worker_takes_long_to_start_again_goes_on(any_client: Client, cell: Cell) -> None:
    run = await any_client.enqueue("agent", None, start_within=10, retention=60, thread_id="t")
    await cell.lose(await cell.take())
    shared = (cell.keys.thread("t"), cell.keys.queue("agent"), cell.keys.leases)
    assert await outlives_nothing_that_knows_of_it(cell, run.run_id, *shared)
    await cell.let_pass(DAY / 2)
    await cell.reap()
    assert await cell.reap() == ReapReply([], [], {})
    assert (await next_attempt(cell, run.run_id)).attempt == 2


async def test_those_whose_time_passed_first_are_looked_after_first(any_client: Client, cell: Cell) -> None:
    runs = [await any_client.enqueue("agent", None) for _ in range(3)]
    await cell.claim()
    await cell.reap()
    await cell.redis.zadd(cell.keys.leases, {cell.keys.run(run.run_id): 9 - n for n, run in enumerate(runs)})
    assert (await cell.reap(2)).queued == [runs[2].run_id, runs[1].run_id]
    assert (await cell.reap(2)).queued == [runs[0].run_id]


async def test_a_worker_that_beats_again_before_anybody_looked_keeps_its_run(cell: Cell, run: Hold) -> None:
    await cell.reap()
    await cell.redis.zadd(cell.keys.leases, {cell.keys.run(run.run_id): 1})
    assert (await cell.beat({run.run_id: 1})).lost == []
    assert await cell.reap() == ReapReply([], [], {})
    assert (await cell.append(run, 1, b"x")).outcome == "ok"


@pytest.mark.parametrize("looked_before", [True, False])
async def test_after_a_time_in_which_nobody_could_beat_no_lease_is_held_to_be_expired(
    any_client: Client, cell: Cell, run: Hold, *, looked_before: bool
) -> None:
    waiting = await any_client.enqueue("agent", None, start_within=5)
    alive = await any_client.enqueue("other", None, start_within=DAY)
    if looked_before:
        await cell.reap()
    await cell.let_pass(LEASE / 1000 + 1)
    assert await cell.reap() == ReapReply([], [], {})
    assert await cell.reap() == ReapReply([], [], {})

    # Each gets one lease time more, and no more than that; whose time has not passed keeps its own.
    await cell.let_pass(LEASE / 1000 - 1)
    assert await cell.reap() == ReapReply([], [], {})
    await cell.let_pass(2)
    reply = await cell.reap()
    assert (reply.queued, reply.ended, reply.broken) == ([run.run_id], [waiting.run_id], {})
    assert (await any_client.get(alive.run_id)).status == Status.QUEUED


async def test_damaged_runs_do_not_keep_the_others_from_being_looked_after(
    any_client: Client, cell: Cell, run: Hold
) -> None:
    await any_client.enqueue("agent", None)
    other = await cell.take()
    await cell.reap()
    no_record, no_stream = cell.keys.run(new_run_id()), cell.keys.events(run.run_id)
    await cell.redis.set(no_record, "no record", ex=60)
    await cell.redis.delete(no_stream)
    await cell.redis.set(no_stream, "no stream", ex=60)
    await cell.redis.hset(cell.keys.run(run.run_id), "max_attempts", 1)
    gone = cell.keys.run(new_run_id())
    members = {gone: 1, no_record: 1, cell.keys.run(run.run_id): 1, cell.keys.run(other.run_id): 2}
    await cell.redis.zadd(cell.keys.leases, members)

    reply = await cell.reap()

    assert (reply.queued, reply.ended) == ([other.run_id], [])
    assert set(reply.broken) == {cell.keys.run_id(no_record), run.run_id}
    assert all("WRONGTYPE" in reason for reason in reply.broken.values())
    assert await cell.looked_after() == [other.run_id]


async def test_what_a_dead_worker_does_not_hold_any_more_is_not_handed_to_it_again(cell: Cell, run: Hold) -> None:
    await cell.lose(run)
    assert await cell.held() == set()
    (again,) = await cell.claim(known=[])
    assert again.attempt == 2
    assert await cell.claim(known=[]) == [again]
    assert await cell.claim(known=[run.run_id]) == []


async def test_what_another_worker_has_is_not_handed_out_again(cell: Cell, run: Hold) -> None:
    """Not even to one that had it before, and whom Redis remembers so."""
    await cell.lose(run)
    now = await cell.take("v")
    assert await cell.claim(worker="u", known=[]) == []
    await cell.redis.sadd(cell.keys.held("w"), cell.keys.run(run.run_id))
    await cell.redis.expire(cell.keys.held("w"), 60)
    assert await cell.claim(worker="w", known=[]) == []
    assert (await cell.held("u"), await cell.held("w"), await cell.held("v")) == (set(), set(), {run.run_id})
    assert (await cell.append(now, 0, b"start")).outcome == "ok"


# -- attempts that wrote nothing --------------------------------------------------------------------------------------


async def test_who_follows_an_attempt_without_events_is_told_the_last_event_before_it(
    any_client: Client, cell: Cell, run: Hold
) -> None:
    await cell.append(run, 1, b"a")
    for attempt in (2, 3):
        await cell.release(run._replace(attempt=attempt - 1))
        assert (await any_client.get(run.run_id)).last_event_id == "1-1"
        claimed = await next_attempt(cell, run.run_id)
        assert (claimed.attempt, claimed.after) == (attempt, "1-1")
        assert (await any_client.get(run.run_id)).last_event_id == "1-1"
    third = run._replace(attempt=3)
    assert (await cell.append(third, 0, b"start", b"b")).outcome == "ok"
    await cell.release(third)
    assert (await next_attempt(cell, run.run_id)).after == "3-1"
    fourth = run._replace(attempt=4)
    assert (await cell.finish(fourth, 0)).outcome == "ok"
    assert await cell.ids(run.run_id) == ["1-0", "1-1", "3-0", "3-1", "4-0"]


@pytest.mark.parametrize("who", ["stop", "reap"])
async def test_who_ends_a_run_says_behind_which_event_of_which_attempt(
    any_client: Client, cell: Cell, who: str
) -> None:
    run = await any_client.enqueue("agent", None, max_attempts=1)
    await cell.release(await cell.take())
    hold = await cell.take()
    if who == "stop":
        await cell.redis.zadd(cell.keys.leases, {cell.keys.run(run.run_id): 1})
        assert (await any_client.stop(run.run_id)).outcome == "stopped"
    else:
        assert (await cell.lose(hold)).ended == [run.run_id]
    assert await cell.ids(run.run_id) == ["1-0", "3-0"]
    assert (await cell.last_event(run.run_id))["d"]["after"] == "1-0"
    events = [event async for event in any_client.tail(run.run_id, after="1-0")]
    assert [event.mode for event in events] == ["end"]


# -- replies that were lost -------------------------------------------------------------------------------------------


async def test_a_claim_of_a_later_attempt_is_handed_out_again_with_all_it_came_with(
    any_client: Client, cell: Cell, run: Hold
) -> None:
    await cell.append(run, 1, b"a")
    await cell.lose(run)
    (lost,) = await cell.claim(worker="v")
    assert (lost.attempt, lost.after, lost.left) == (2, "1-1", "lost")
    assert await cell.claim(worker="v", known=[]) == [lost]
    await cell.append(Hold(run.run_id, 2, "v"), 0, b"start")
    assert await cell.claim(worker="v", known=[]) == [lost]
    assert await cell.claim(worker="u", known=[]) == []


async def test_a_claim_that_is_handed_out_again_has_its_lease_renewed(cell: Cell, run: Hold) -> None:
    await cell.reap()
    await cell.redis.zadd(cell.keys.leases, {cell.keys.run(run.run_id): 1})
    assert [claimed.run_id for claimed in await cell.claim(known=[])] == [run.run_id]
    assert await cell.reap() == ReapReply([], [], {})


async def test_a_stop_that_is_sent_again_changes_nothing(any_client: Client, cell: Cell, run: Hold) -> None:
    for _ in range(2):
        assert await cell.scripts.stop(run.run_id, "user left") == ("stopping", "w")
    assert await cell.finish(run, 1, "stopped") == ("ok", 0)
    waiting = await any_client.enqueue("agent", None)
    assert await cell.scripts.stop(waiting.run_id, "user left") == ("stopped", "")
    assert await cell.scripts.stop(waiting.run_id, "user left") == ("ended", "stopped")
    assert await cell.ids(waiting.run_id) == ["1-0"]


async def test_an_end_that_is_sent_again_by_a_later_attempt_is_known(cell: Cell, run: Hold) -> None:
    await cell.lose(run)
    hold = await cell.take("v")
    for _ in range(2):
        assert (await cell.finish(hold, 0)).outcome == "ok"
    assert (await cell.finish(run, 1)).outcome == "lost"
    assert await cell.ids(run.run_id) == ["1-0", "2-0"]


# -- what lives how long ----------------------------------------------------------------------------------------------


async def test_what_was_lost_is_kept_apart_and_for_a_week_at_least(any_client: Client, cell: Cell) -> None:
    run = await any_client.enqueue("agent", None, max_attempts=1, retention=30)
    ended = await any_client.enqueue("agent", None, max_attempts=1, retention=30)
    await cell.claim()
    await cell.finish(Hold(ended.run_id, 1, "w"), 1)
    await cell.lose(Hold(run.run_id, 1, "w"))

    assert await cell.dead() == [run.run_id]
    shared = [cell.keys.dead, cell.keys.runs, cell.keys.thread_runs(run.run_id)]
    for key in [cell.keys.run(run.run_id), cell.keys.events(run.run_id), *shared]:
        assert await cell.lives(key) > 6.99 * DAY * 1000, key
    assert await cell.lives(cell.keys.run(ended.run_id)) <= 30_000


async def test_what_was_lost_is_kept_longer_if_its_producer_wanted_that(any_client: Client, cell: Cell) -> None:
    run = await any_client.enqueue("agent", None, start_within=1, retention=30 * DAY)
    await cell.reap()
    await cell.let_pass(2)
    await cell.reap()
    for key in (cell.keys.run(run.run_id), cell.keys.dead):
        assert await cell.lives(key) > 29 * DAY * 1000, key


async def test_dead_letters_whose_record_has_expired_are_forgotten(any_client: Client, cell: Cell) -> None:
    await cell.redis.zadd(cell.keys.dead, {new_run_id(): n for n in range(20)})
    for _ in range(60):
        await any_client.enqueue("agent", None, start_within=1)
    await cell.reap()
    await cell.let_pass(2)
    assert len((await cell.reap(100)).ended) == 60
    assert 60 <= await cell.redis.zcard(cell.keys.dead) < 75


async def test_a_run_that_is_handed_on_and_on_tells_of_its_last_fifty_attempts(
    any_client: Client, cell: Cell, run: Hold
) -> None:
    for attempt in range(1, 56):
        await cell.release(run._replace(attempt=attempt))
        await cell.claim()
    holders = (await any_client.get(run.run_id)).holders
    assert [holder.attempt for holder in holders] == list(range(6, 56))


async def outlives_nothing_that_knows_of_it(cell: Cell, run_id: str, *others: str) -> bool:
    """Whether all that many runs share lives at least as long as this one's record; to a few ms."""
    lives = await cell.lives(cell.keys.run(run_id))
    shared = [cell.keys.runs, *others]
    return all([await cell.lives(key) > lives - 100 for key in shared])


async def test_a_run_that_waits_again_outlives_nothing_that_knows_of_it(any_client: Client, cell: Cell) -> None:
    """It was given long to wait for a worker, and has used up some of what its thread's line was given to live."""
    run = await any_client.enqueue("agent", None, start_within=30 * DAY, retention=60, thread_id="t")
    hold = await cell.take()
    for _ in range(5):
        await cell.let_pass(4 * DAY)
        assert (await cell.beat({run.run_id: 1})).lost == []
    assert await cell.release(hold) == "queued"
    assert await cell.lives(cell.keys.run(run.run_id)) > 30 * DAY * 1000
    shared = (cell.keys.thread("t"), cell.keys.thread_runs("t"), cell.keys.queue("agent"), cell.keys.leases)
    assert await outlives_nothing_that_knows_of_it(cell, run.run_id, *shared)


async def test_a_running_run_outlives_nothing_that_knows_of_it(any_client: Client, cell: Cell) -> None:
    run = await any_client.enqueue("agent", None, start_within=1, retention=1)
    await cell.take()
    shared = (cell.keys.thread(run.run_id), cell.keys.leases, cell.keys.held("w"))
    assert await outlives_nothing_that_knows_of_it(cell, run.run_id, *shared)


async def test_an_ended_run_can_be_found_as_long_as_it_is_kept(any_client: Client, cell: Cell) -> None:
    run = await any_client.enqueue("agent", None, start_within=1, retention=60 * DAY)
    hold = await cell.take()
    await cell.let_pass(6 * DAY)
    assert (await cell.finish(hold, 1)).outcome == "ok"
    assert await cell.lives(cell.keys.run(run.run_id)) > 59 * DAY * 1000
    assert await outlives_nothing_that_knows_of_it(cell, run.run_id)
