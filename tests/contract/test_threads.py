"""The runs of a thread stand in line: one at a time, in the order in which they are due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.cell import Cell

from runstream import Client, Status, ThreadBusy
from runstream.client import Run
from runstream.model import Strategy, new_run_id
from runstream.scripts import Hold


async def enqueue(client: Client, graph: str = "agent", **options: Any) -> str:
    """A run on thread `t`."""
    run: Run = await client.enqueue(graph, None, **{"thread_id": "t", **options})
    return run.run_id


async def statuses(client: Client, *run_ids: str) -> list[Status]:
    return [(await client.get(run_id)).status for run_id in run_ids]


# -- the line ---------------------------------------------------------------------------------------------------------


async def test_only_the_head_of_a_line_is_in_a_queue(any_client: Client, cell: Cell) -> None:
    first, second, third = [await enqueue(any_client) for _ in range(3)]
    elsewhere = await enqueue(any_client, thread_id="u")

    assert await cell.line("t") == [first, second, third]
    assert await cell.queue() == [first, elsewhere]
    assert await cell.redis.llen(cell.keys.bell("agent")) == 2
    assert {claimed.run_id for claimed in await cell.claim()} == {first, elsewhere}
    assert await cell.queue() == []
    assert await cell.line("t") == [first, second, third]
    assert await cell.looked_after() == sorted([first, second, third, elsewhere])


async def test_a_run_without_a_thread_has_one_of_its_own(any_client: Client, cell: Cell) -> None:
    runs = [await any_client.enqueue("agent", None) for _ in range(2)]
    assert [await cell.line(run.run_id) for run in runs] == [[run.run_id] for run in runs]
    assert len(await cell.claim()) == 2


async def test_a_line_is_in_the_order_in_which_its_runs_are_due(any_client: Client, cell: Cell) -> None:
    at = datetime.now(UTC) + timedelta(seconds=150)
    late = await enqueue(any_client, delay=200)
    assert await cell.queue() == [late]
    soon = await enqueue(any_client, "other", delay=100)
    between = await enqueue(any_client, start_at=at)
    assert await cell.line("t") == [soon, between, late]
    # Who was in a queue stands back in the line, wherever its queue is.
    assert (await cell.queue(), await cell.queue("other")) == ([], [soon])
    now = await enqueue(any_client)
    assert await cell.line("t") == [now, soon, between, late]
    assert (await cell.queue(), await cell.queue("other")) == ([now], [])


async def test_who_has_begun_stays_at_the_head_whatever_becomes_of_its_workers(any_client: Client, cell: Cell) -> None:
    first = await enqueue(any_client, delay=100)
    await cell.let_pass(100)
    hold = await cell.take()
    second = await enqueue(any_client, start_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert await cell.line("t") == [first, second]

    assert await cell.release(hold) == "queued"
    third = await enqueue(any_client, start_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert await cell.line("t") == [first, second, third]
    assert await cell.queue() == [first]
    hold = await cell.take("v")
    assert hold.run_id == first
    assert (await cell.lose(hold)).queued == [first]
    assert await cell.queue() == [first]


async def test_a_delayed_head_waits_for_its_time_and_the_others_behind_it(any_client: Client, cell: Cell) -> None:
    first, second = await enqueue(any_client, delay=100), await enqueue(any_client, delay=101)
    await cell.let_pass(99)
    assert await cell.claim() == []
    await cell.let_pass(10)
    hold = await cell.take()
    assert hold.run_id == first
    assert await cell.claim() == []
    await cell.finish(hold, 1)
    assert (await cell.take()).run_id == second


async def test_a_claim_starts_no_second_run_of_a_thread_whatever_is_in_the_queue(
    any_client: Client, cell: Cell
) -> None:
    await enqueue(any_client)
    second = await enqueue(any_client)
    hold = await cell.take()
    await cell.redis.zadd(cell.keys.queue("agent"), {cell.keys.run(second): 1})

    reply = await cell.scripts.claim("v", ["agent"], limit=5, lease=1000, running_ttl=1000)

    assert (reply.claimed, reply.dropped) == ([], [])
    assert await statuses(any_client, second) == [Status.QUEUED]
    await cell.finish(hold, 1)
    assert (await cell.take()).run_id == second


@pytest.mark.parametrize("thread_id", ["a:b}{c", "100%.-[x]", "Fäden 東京", ":undo:", "x" * 255])
async def test_any_text_names_a_thread(any_client: Client, cell: Cell, thread_id: str) -> None:
    first = await enqueue(any_client, thread_id=thread_id)
    await cell.release(await cell.take())
    second = await enqueue(any_client, thread_id=thread_id, multitask_strategy="rollback")
    assert await cell.line(thread_id) == [second]
    assert await cell.undo(thread_id) == {first}
    assert (await cell.claim())[0].undo == (first,)


# -- the hand-over ----------------------------------------------------------------------------------------------------


async def end_by_finish(cell: Cell, run_id: str) -> None:
    await cell.finish(await cell.take(), 1)


async def end_by_stop_of_a_waiting_run(cell: Cell, run_id: str) -> None:
    await cell.scripts.stop(run_id, "")


async def end_by_stop_of_an_orphan(cell: Cell, run_id: str) -> None:
    await cell.take()
    await cell.redis.zadd(cell.keys.leases, {cell.keys.run(run_id): 1})
    await cell.scripts.stop(run_id, "")


async def end_by_the_last_attempt(cell: Cell, run_id: str) -> None:
    await cell.lose(await cell.take())


async def end_by_the_last_fault(cell: Cell, run_id: str) -> None:
    await cell.release(await cell.take(), "fault", max_faults=1)


async def end_by_a_drain_of_what_is_to_be_stopped(cell: Cell, run_id: str) -> None:
    hold = await cell.take()
    await cell.scripts.stop(run_id, "")
    await cell.release(hold)


async def end_by_the_death_of_the_worker_of_what_is_to_be_stopped(cell: Cell, run_id: str) -> None:
    hold = await cell.take()
    await cell.scripts.stop(run_id, "")
    await cell.lose(hold)


async def end_by_waiting_too_long(cell: Cell, run_id: str) -> None:
    await cell.reap()
    await cell.let_pass(11)
    await cell.reap()


ENDS = [value for name, value in list(globals().items()) if name.startswith("end_by_")]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("graph", ["agent", "other"])
async def test_every_end_calls_up_the_next(any_client: Client, cell: Cell, end: Any, graph: str) -> None:
    first = await enqueue(any_client, max_attempts=1, start_within=10)
    second, third = await enqueue(any_client, graph), await enqueue(any_client)
    assert await cell.queue("other") == []

    await end(cell, first)

    assert (await any_client.get(first)).status.ended
    assert await cell.line("t") == [second, third]
    assert await cell.queue(graph) == [second]
    assert await cell.redis.llen(cell.keys.bell(graph)) >= 1
    assert await cell.lives(cell.keys.queue(graph)) > await cell.lives(cell.keys.run(second)) - 100
    assert (await cell.take("v", graph)).run_id == second
    assert await cell.queue() == []


async def test_a_run_that_ends_in_the_middle_of_the_line_leaves_the_others_as_they_are(
    any_client: Client, cell: Cell
) -> None:
    first, second, third = [await enqueue(any_client) for _ in range(3)]
    await cell.scripts.stop(second, "")
    assert await cell.line("t") == [first, third]
    assert await cell.queue() == [first]
    hold = await cell.take()
    await cell.scripts.stop(third, "")
    assert await cell.line("t") == [first]
    assert await cell.queue() == []
    assert (await cell.append(hold, 1, b"x")).outcome == "ok"


async def test_a_head_that_was_told_to_wait_does_so_whatever_happens_behind_it(any_client: Client, cell: Cell) -> None:
    first, second, third = [await enqueue(any_client) for _ in range(3)]
    assert await cell.release(await cell.take(), "fault", delay=60_000) == "queued"
    await cell.scripts.stop(second, "")
    assert await cell.claim() == []
    assert await cell.queue() == [first]
    await cell.let_pass(60)
    hold = await cell.take()
    assert hold.run_id == first
    await cell.finish(hold, 0)
    assert (await cell.take()).run_id == third


async def test_a_clock_that_goes_back_puts_nobody_before_who_has_begun(any_client: Client, cell: Cell) -> None:
    """Another Redis has taken over: all that was enqueued before is due later there than what comes now."""
    first = await enqueue(any_client)
    hold = await cell.take()
    waiting = await enqueue(any_client)
    await cell.let_pass(-1000)
    sooner = await enqueue(any_client)
    assert await cell.line("t") == [first, sooner, waiting]
    assert await cell.claim(worker="v") == []
    assert await cell.queue() == []

    assert await cell.release(hold) == "queued"

    assert await cell.line("t") == [first, sooner, waiting]
    assert await cell.queue() == [first]
    await cell.let_pass(1000)
    for run_id in (first, sooner, waiting):
        hold = await cell.take("v")
        assert hold.run_id == run_id
        await cell.finish(hold, 0)


async def test_a_clock_that_goes_back_leaves_one_run_of_a_line_in_a_queue(any_client: Client, cell: Cell) -> None:
    first = await enqueue(any_client)
    await cell.let_pass(-1000)
    second = await enqueue(any_client, "other")
    assert await cell.line("t") == [second, first]
    assert (await cell.queue(), await cell.queue("other")) == ([], [second])
    await cell.finish(await cell.take(graph="other"), 1)
    assert await cell.queue() == [first]
    await cell.let_pass(1000)
    assert (await cell.take()).run_id == first


async def test_a_line_whose_head_has_vanished_goes_on_with_the_next_enqueue(any_client: Client, cell: Cell) -> None:
    first, second = await enqueue(any_client), await enqueue(any_client, "other")
    await cell.claim()
    await cell.redis.delete(cell.keys.run(first), cell.keys.events(first))
    third = await enqueue(any_client)
    assert await cell.line("t") == [second, third]
    assert (await cell.queue(), await cell.queue("other")) == ([], [second])


# -- the strategies ---------------------------------------------------------------------------------------------------


async def test_a_run_that_is_not_to_wait_is_refused_and_nothing_of_it_is_written(
    any_client: Client, cell: Cell, namespace: str
) -> None:
    first = await enqueue(any_client)
    run_id = new_run_id()
    with pytest.raises(ThreadBusy) as waiting:
        await enqueue(any_client, run_id=run_id, multitask_strategy="reject", idempotency_key="k")
    hold = await cell.take()
    with pytest.raises(ThreadBusy) as running:
        await enqueue(any_client, run_id=run_id, multitask_strategy="reject", idempotency_key="k")
    assert waiting.value.run_id == running.value.run_id == first
    assert await cell.redis.keys(f"*{run_id}*") == await cell.redis.keys(f"*{namespace}*:idempotency:*") == []
    assert await cell.line("t") == [first]

    await cell.finish(hold, 1)
    for is_new in (True, False):  # who sends it again has not taken his own place
        again = await any_client.enqueue("agent", None, thread_id="t", run_id=run_id, multitask_strategy="reject")
        assert (again.run_id, again.is_new) == (run_id, is_new)


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_whoever_takes_anothers_place_stops_all_that_are_on_the_thread(
    any_client: Client, cell: Cell, strategy: Strategy
) -> None:
    running = await enqueue(any_client)
    hold = await cell.take()
    waiting = [await enqueue(any_client) for _ in range(2)]
    elsewhere = await enqueue(any_client, thread_id="u")

    last = await enqueue(any_client, multitask_strategy=strategy)

    reason = f"run {last} took its place on the thread"
    assert await statuses(any_client, running, *waiting, last, elsewhere) == [
        Status.RUNNING, Status.STOPPED, Status.STOPPED, Status.QUEUED, Status.QUEUED,
    ]  # fmt: skip
    assert (await any_client.get(waiting[0])).stop_reason == reason
    assert (await cell.beat({running: 1})).stop == {running: (reason, strategy)}
    assert await cell.redis.lrange(cell.keys.worker_bell("w"), 0, -1) == [cell.keys.run(running).encode()]
    assert await cell.line("t") == [running, last]
    assert await cell.queue() == [elsewhere]
    # What has begun is undone by its own worker; what has not begun has saved nothing.
    assert await cell.undo("t") == set()
    await cell.finish(hold, 1, "stopped")
    assert await cell.queue() == [last, elsewhere] or await cell.queue() == [elsewhere, last]


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
@pytest.mark.parametrize("how", ["given back", "orphan"])
async def test_whoever_takes_the_place_of_a_run_that_nobody_executes_is_next_at_once(
    any_client: Client, cell: Cell, strategy: Strategy, how: str
) -> None:
    first = await enqueue(any_client)
    hold = await cell.take()
    if how == "given back":
        await cell.release(hold)
    else:
        await cell.redis.zadd(cell.keys.leases, {cell.keys.run(first): 1})

    last = await enqueue(any_client, multitask_strategy=strategy)

    assert await statuses(any_client, first, last) == [Status.STOPPED, Status.QUEUED]
    assert await cell.line("t") == await cell.queue() == [last]
    undo = {first} if strategy == "rollback" else set()
    assert await cell.undo("t") == undo
    (claimed,) = await cell.claim()
    assert set(claimed.undo) == undo
    # Until that has been done it is asked of everyone who gets the run.
    assert await cell.claim(known=[]) == [claimed]
    await cell.release(Hold(last, 1, "w"))
    assert set((await cell.claim())[0].undo) == undo
    await cell.scripts.undone("t", [first])
    assert await cell.undo("t") == set()


async def test_whoever_takes_anothers_place_may_be_due_later(any_client: Client, cell: Cell) -> None:
    first, second = await enqueue(any_client), await enqueue(any_client, delay=500)
    last = await enqueue(any_client, delay=1000, multitask_strategy="interrupt")
    assert await statuses(any_client, first, second, last) == [Status.STOPPED, Status.STOPPED, Status.QUEUED]
    assert await cell.line("t") == await cell.queue() == [last]
    assert await cell.claim() == []


async def test_who_is_already_to_be_stopped_is_undone_if_the_next_wants_that(any_client: Client, cell: Cell) -> None:
    first = await enqueue(any_client)
    hold = await cell.take()
    await cell.scripts.stop(first, "user left")
    await enqueue(any_client, multitask_strategy="rollback")
    assert (await cell.beat({first: 1})).stop == {first: ("user left", "rollback")}
    await cell.release(hold)
    assert await cell.undo("t") == {first}


async def test_who_was_to_be_undone_is_though_somebody_else_ends_it_with_less(any_client: Client, cell: Cell) -> None:
    first = await enqueue(any_client)
    await cell.take()
    await cell.scripts.stop(first, "undo this", "rollback")
    await cell.redis.zadd(cell.keys.leases, {cell.keys.run(first): 1})
    assert (await cell.scripts.stop(first, "user left", "interrupt")).outcome == "stopped"
    assert await cell.undo("t") == {first}
    assert await cell.record(first, "stop", "stop_action") == ["undo this", "rollback"]


@pytest.mark.parametrize("status", ["success", "stopped", "error"])
async def test_who_was_to_be_undone_is_however_its_worker_ends_it(any_client: Client, cell: Cell, status: str) -> None:
    """It may hear of it too late, have been told to stop for less before, or be unable to remove anything."""
    first = await enqueue(any_client)
    hold = await cell.take()
    second = await enqueue(any_client, multitask_strategy="rollback")
    for _ in range(2):
        assert (await cell.finish(hold, 1, status)).outcome == "ok"
    (claimed,) = await cell.claim()
    assert (claimed.run_id, claimed.undo) == (second, (first,))
    await cell.scripts.undone("t", [first])
    assert (await cell.finish(hold, 1, status)).outcome == "ok"
    assert await cell.undo("t") == set()


async def test_a_strategy_means_nothing_on_a_thread_that_is_free(any_client: Client, cell: Cell) -> None:
    strategies: list[Strategy] = ["enqueue", "reject", "interrupt", "rollback"]
    for strategy in strategies:
        run_id = await enqueue(any_client, multitask_strategy=strategy)
        hold = await cell.take()
        assert hold.run_id == run_id
        await cell.finish(hold, 1)
    assert await cell.undo("t") == set()


async def test_a_run_that_is_sent_again_takes_nobodys_place_twice(any_client: Client, cell: Cell) -> None:
    run_id = new_run_id()
    await enqueue(any_client)
    assert await enqueue(any_client, run_id=run_id, multitask_strategy="interrupt") == run_id
    behind = await enqueue(any_client)
    assert await enqueue(any_client, run_id=run_id, multitask_strategy="interrupt") == run_id
    assert await cell.line("t") == [run_id, behind]
