"""Redis comes back with less than it had acknowledged: who notices is told, and no attempt's number is used again."""

from __future__ import annotations

import pytest
from tests.support.cell import Cell
from tests.support.forgetting import Memory

from runstream import Client, Retraction, RunFailedError, Status
from runstream.scripts import Hold, ReapReply
from runstream.spoken import Part
from runstream.voids import Voids


@pytest.fixture
async def waiting(any_client: Client) -> str:
    """A run that nobody has claimed."""
    return (await any_client.enqueue("agent", {"n": 1})).run_id


async def test_a_batch_of_which_redis_has_lost_the_beginning_is_refused_until_it_comes_whole(
    cell: Cell, run: Hold
) -> None:
    await cell.append(run, 1, b"a", b"b")
    memory = await Memory.of(cell.redis, cell.keys)
    await cell.append(run, 3, b"c", b"d")
    await memory.put_back()

    assert await cell.append(run, 5, b"e") == ("behind", "2")
    assert (await cell.finish(run, 5)) == ("behind", 2)
    assert await cell.append(run, 3, b"c", b"d", b"e") == ("ok", "")
    assert (await cell.finish(run, 6)).outcome == "ok"
    assert await cell.ids(run.run_id) == [f"1-{seq}" for seq in range(7)]


async def test_a_claim_that_was_lost_is_known_again_once_its_worker_says_so(
    any_client: Client, cell: Cell, waiting: str
) -> None:
    memory = await Memory.of(cell.redis, cell.keys)
    first = await cell.take("v")
    await cell.append(first, 1, b'{"m":"custom","d":1}')
    await memory.put_back()
    assert (await cell.append(first, 2, b"x")).outcome == "lost"

    assert await cell.scripts.disown(first)

    assert not await cell.scripts.disown(first)
    assert await cell.queue() == [waiting]
    (claimed,) = await cell.claim(worker="w")
    assert (claimed.attempt, claimed.after, claimed.left) == (2, "", "lost")
    assert await cell.ids(waiting) == ["2-0"]
    assert (await cell.append(Hold(waiting, 2, "w"), 1, b'{"m":"custom","d":2}')).outcome == "ok"
    assert (await cell.finish(Hold(waiting, 2, "w"), 2)).outcome == "ok"
    events = [event async for event in any_client.tail(waiting)]
    assert [event.id for event in events] == ["2-0", "2-1", "2-2"]
    assert events[0].data["voids"] == {"all": True, "count": 0}
    assert (await any_client.get(waiting)).last_event_id == "2-2"
    # Who had read further than Redis knows is told that all of it is void, and not that something is missing.
    late = [event async for event in any_client.tail(waiting, after="1-1")]
    assert late == events
    assert (voids := Voids.of(events[0])) is not None
    assert voids.everything


async def test_a_claim_that_was_lost_and_given_to_another_under_the_same_number_is_given_up_by_both(
    any_client: Client, cell: Cell, waiting: str
) -> None:
    memory = await Memory.of(cell.redis, cell.keys)
    first = await cell.take("v")
    await memory.put_back()
    second = await cell.take("w")
    assert second.attempt == first.attempt
    await cell.append(second, 1, b"x")

    assert await cell.scripts.disown(first)

    assert (await cell.append(second, 2, b"y")).outcome == "lost"
    assert not await cell.scripts.disown(second)
    (claimed,) = await cell.claim(worker="v")
    # Two have used the ids of the first attempt, so nothing of it stands.
    assert (claimed.attempt, claimed.after, claimed.left, claimed.undo) == (2, "", "lost", (waiting,))
    assert await cell.ids(waiting) == ["2-0"]
    assert (await cell.last_event(waiting))["d"]["voids"] == {"all": True, "count": 0}
    info = await any_client.get(waiting)
    assert [(holder.attempt, holder.worker, holder.cause) for holder in info.holders] == [(1, "w", "lost")]
    assert await cell.record(waiting, "failures") == ["0"]


async def test_a_later_claim_that_was_lost_does_not_leave_its_number_to_another(cell: Cell, waiting: str) -> None:
    first = await cell.take("u")
    await cell.append(first, 1, b"a")
    memory = await Memory.of(cell.redis, cell.keys)
    await cell.release(first)
    second = await cell.take("v")
    assert second.attempt == 2
    await memory.put_back()
    # The worker that had given the run back has it again, as far as Redis knows.
    assert (await cell.append(second, 0, b"x")).outcome == "lost"

    assert await cell.scripts.disown(second)

    assert (await cell.append(first, 2, b"b")).outcome == "lost"
    (claimed,) = await cell.claim(worker="w")
    assert (claimed.attempt, claimed.after) == (3, "1-1")


async def test_a_run_whose_claim_was_lost_has_begun_and_waits_as_long_as_such_a_run(
    any_client: Client, cell: Cell
) -> None:
    run = await any_client.enqueue("agent", None, start_within=10)
    memory = await Memory.of(cell.redis, cell.keys)
    hold = await cell.take("v")
    await memory.put_back()
    assert await cell.scripts.disown(hold)
    await cell.reap()
    await cell.let_pass(11)
    assert await cell.reap() == ReapReply([], [], {})
    lives = await cell.lives(cell.keys.run(run.run_id))
    for key in (cell.keys.queue("agent"), cell.keys.leases, cell.keys.thread(run.run_id)):
        assert await cell.lives(key) > lives - 100, key
    assert (await cell.take("w")).attempt == 2


async def test_whose_turn_it_is_not_any_more_waits_in_line(any_client: Client, cell: Cell) -> None:
    one = await any_client.enqueue("agent", None, thread_id="t")
    two = await any_client.enqueue("agent", None, thread_id="t")
    before = await cell.take("u")
    memory = await Memory.of(cell.redis, cell.keys)
    await cell.finish(before, 1)
    behind = await cell.take("v")
    assert (before.run_id, behind.run_id) == (one.run_id, two.run_id)
    await memory.put_back()

    assert await cell.scripts.disown(behind)

    assert await cell.line("t") == [one.run_id, two.run_id]
    assert await cell.queue() == []
    await cell.finish(before, 1)
    (claimed,) = await cell.claim(worker="v")
    assert (claimed.run_id, claimed.attempt) == (two.run_id, 2)


async def test_a_run_that_was_to_be_stopped_stops_when_its_attempt_was_forgotten(
    any_client: Client, cell: Cell, waiting: str
) -> None:
    memory = await Memory.of(cell.redis, cell.keys)
    first = await cell.take("v")
    await memory.put_back()
    await cell.take("w")
    await any_client.stop(waiting, reason="enough")

    assert await cell.scripts.disown(first)

    info = await any_client.get(waiting)
    assert (info.status, info.attempt, info.stop_reason) == (Status.STOPPED, 2, "enough")


@pytest.mark.parametrize("fate", ["held", "released", "lost", "ended", "next", "gone"])
async def test_an_attempt_that_redis_knows_of_changes_nothing_by_saying_that_it_is_over(
    cell: Cell, run: Hold, fate: str
) -> None:
    match fate:
        case "released":
            await cell.release(run)
        case "lost":
            await cell.lose(run)
        case "ended":
            await cell.finish(run, 1)
        case "next":
            await cell.release(run)
            await cell.take("x")
        case "gone":
            await cell.redis.delete(cell.keys.run(run.run_id))
    before = await cell.redis.hgetall(cell.keys.run(run.run_id))

    assert not await cell.scripts.disown(run)

    assert await cell.redis.hgetall(cell.keys.run(run.run_id)) == before


async def test_readers_leave_out_what_redis_has_come_back_without(any_client: Client, cell: Cell, run: Hold) -> None:
    token = b'{"m":"messages","k":"t%d","d":[{"type":"AIMessageChunk","id":"m%d","content":"%d"},{}]}'
    await cell.redis.hset(cell.keys.run(run.run_id), "modes", "messages")
    await cell.append(run, 1, token % (1, 1, 1))
    memory = await Memory.of(cell.redis, cell.keys)
    await cell.append(run, 2, token % (2, 2, 2))

    shown = any_client.text(run.run_id)
    resumed = any_client.text(run.run_id, after="1-2")
    assert [await anext(shown), await anext(shown)] == ["1", "2"]
    await memory.put_back()
    await cell.lose(run)
    (claimed,) = await cell.claim(worker="x")
    begins = b'{"m":"attempt","d":{"attempt":2,"worker":"x","at":0,"after":"1-1","left":"lost","voids":{"count":0}}}'
    assert claimed.after == "1-1"
    again = Hold(run.run_id, 2, "x")
    await cell.append(again, 0, begins, token % (3, 3, 3))
    assert (await cell.finish(again, 2, "stopped")).outcome == "ok"

    assert [await anext(shown), await anext(shown)] == [Retraction([Part("m1", "1")], "2-0"), "3"]
    assert [(await anext(resumed)).replaces, await anext(resumed)] == [True, "3"]
    for pieces in (shown, resumed):
        with pytest.raises(RunFailedError):
            await anext(pieces)
