"""A run that has ended can be deleted, with all that was there of it; and what is asked of many runs at once."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.cell import Cell

from runstream import Client, Command, InvalidRequest, ProtocolError, RunActive, RunExists, RunNotFound, Status
from runstream.model import new_run_id
from runstream.scripts import Hold


async def finished(cell: Cell, run: Hold) -> None:
    await cell.append(run, 1, b'{"m":"custom","d":1}')
    await cell.finish(run, 2)


async def lost(cell: Cell, run: Hold) -> None:
    await cell.redis.hset(cell.keys.run(run.run_id), "max_attempts", 1)
    await cell.lose(run)


async def stopped(cell: Cell, run: Hold) -> None:
    await cell.release(run)
    await cell.scripts.stop(run.run_id, "")


ENDS = [finished, lost, stopped]


# -- deleting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_nothing_is_left_of_a_run_that_is_deleted(any_client: Client, cell: Cell, run: Hold, end: Any) -> None:
    await end(cell, run)
    assert (await any_client.get(run.run_id)).status.ended

    await any_client.delete(run.run_id)

    assert await cell.redis.keys(f"*{run.run_id}*") == []
    indexes = (cell.keys.runs, cell.keys.dead, cell.keys.leases)
    assert [await cell.redis.zrange(index, 0, -1) for index in indexes] == [[], [], []]
    assert await any_client.runs() == await any_client.dead() == []
    for ask in (any_client.get, any_client.result, any_client.request, any_client.stop, any_client.delete):
        with pytest.raises(RunNotFound):
            await ask(run.run_id)
    with pytest.raises(RunNotFound):
        await anext(any_client.tail(run.run_id))


@pytest.mark.parametrize("how", ["waiting", "running", "given back", "to be stopped"])
async def test_a_run_that_has_not_ended_is_not_deleted(any_client: Client, cell: Cell, how: str) -> None:
    run = await any_client.enqueue("agent", None, thread_id="t")
    hold = await cell.take() if how != "waiting" else None
    if hold is not None and how == "given back":
        await cell.release(hold)
    if how == "to be stopped":
        await any_client.stop(run.run_id)
    names = sorted(await cell.redis.keys(f"{cell.keys.tag}:*"))

    with pytest.raises(RunActive, match=rf"^run_id: run {run.run_id} has not ended; stop it first"):
        await any_client.delete(run.run_id)

    assert sorted(await cell.redis.keys(f"{cell.keys.tag}:*")) == names
    assert await cell.line("t") == await cell.thread_runs("t") == [run.run_id]
    assert await cell.looked_after() == [run.run_id]


async def test_what_was_never_there_cannot_be_deleted(any_client: Client) -> None:
    with pytest.raises(RunNotFound):
        await any_client.delete(new_run_id())
    with pytest.raises(InvalidRequest):
        await any_client.delete("x")


async def test_other_runs_stay_and_so_does_the_threads_turn(any_client: Client, cell: Cell) -> None:
    first, second, third = [(await any_client.enqueue("agent", None, thread_id="t")).run_id for _ in range(3)]
    await cell.finish(await cell.take(), 1)
    await cell.take()

    await any_client.delete(first)

    assert [info.run_id async for info in any_client.thread_runs("t")] == [third, second]
    assert await cell.line("t") == [second, third]
    assert (await any_client.get(second)).status == Status.RUNNING
    await cell.finish(Hold(second, 1, "w"), 1)
    assert (await cell.take()).run_id == third


async def test_whoever_still_has_a_run_that_is_deleted_writes_nothing(
    any_client: Client, cell: Cell, run: Hold
) -> None:
    """Its lease had expired when somebody stopped it; its worker lives and has not noticed."""
    await cell.redis.zadd(cell.keys.leases, {cell.keys.run(run.run_id): 1})
    await any_client.stop(run.run_id)
    await any_client.delete(run.run_id)

    assert (await cell.append(run, 1, b"x")).outcome == "lost"
    assert (await cell.finish(run, 1)).outcome == "lost"
    assert await cell.release(run) == "not held"
    assert not await cell.scripts.disown(run)
    assert (await cell.beat({run.run_id: 1})).lost == [run.run_id]
    assert await cell.claim(known=[]) == []
    assert await cell.reap() == ([], [], {})
    assert await cell.redis.keys(f"*{run.run_id}*") == []


async def test_what_it_has_saved_is_removed_if_that_was_wished_before(any_client: Client, cell: Cell) -> None:
    run = await any_client.enqueue("agent", None, thread_id="t")
    await cell.release(await cell.take())
    await any_client.stop(run.run_id, action="rollback")
    await any_client.delete(run.run_id)
    await any_client.enqueue("agent", None, thread_id="t")
    assert (await cell.claim())[0].undo == (run.run_id,)


async def test_its_id_and_its_key_are_free_again(any_client: Client, cell: Cell) -> None:
    run = await any_client.enqueue("agent", {"n": 1}, idempotency_key="k", retention=3600)
    await finished(cell, await cell.take())
    with pytest.raises(RunExists):
        await any_client.enqueue("agent", {"n": 2}, idempotency_key="k")
    await any_client.delete(run.run_id)

    by_key = await any_client.enqueue("agent", {"n": 2}, idempotency_key="k")
    by_id = await any_client.enqueue("agent", {"n": 3}, run_id=run.run_id)

    assert by_key.is_new
    assert by_id.is_new
    assert by_key.run_id != run.run_id
    assert not (await any_client.enqueue("agent", {"n": 2}, idempotency_key="k")).is_new
    assert {hold.run_id for hold in await cell.claim()} == {by_key.run_id, by_id.run_id}
    assert await cell.ids(run.run_id) == ["1-0"]


async def test_a_run_is_requeued_again_when_its_follower_has_been_deleted(any_client: Client, cell: Cell) -> None:
    run = await any_client.enqueue("agent", None)
    await any_client.stop(run.run_id)
    first = await any_client.requeue(run.run_id)
    await any_client.stop(first.run_id)
    await any_client.delete(first.run_id)
    second = await any_client.requeue(run.run_id)
    assert second.is_new
    assert second.run_id != first.run_id


async def test_every_key_that_deleting_leaves_expires(any_client: Client, cell: Cell) -> None:
    for n in range(3):
        await any_client.enqueue("agent", None, thread_id="t", idempotency_key=f"k{n}")
        hold = await cell.take()
        await finished(cell, hold)
        if n != 1:
            await any_client.delete(hold.run_id)
    names = await cell.redis.keys(f"*{cell.keys.tag}*")
    assert names
    assert [name for name in names if await cell.lives(name) < 0] == []


# -- many at once, and what was asked for -----------------------------------------------------------------------------


async def test_many_records_at_once(any_client: Client, cell: Cell, run: Hold) -> None:
    other, none = (await any_client.enqueue("agent", None)).run_id, new_run_id()
    infos = await any_client.get_many([other, none, run.run_id, other])
    assert infos == [await any_client.get(other), None, await any_client.get(run.run_id), await any_client.get(other)]
    assert await any_client.get_many([]) == []
    with pytest.raises(InvalidRequest, match="is no run id"):
        await any_client.get_many([other, "x"])


async def test_what_was_asked_for(any_client: Client, cell: Cell) -> None:
    run = await any_client.enqueue(
        "agent", {"n": 1}, stream_mode=["updates"], thread_id="t", config={"tags": ["a"]}, interrupt_before="*"
    )
    answer = await any_client.enqueue("agent", Command(resume=True), thread_id="t")

    request = await any_client.request(run.run_id)

    assert (request.graph, request.thread_id, request.input, request.command) == ("agent", "t", {"n": 1}, None)
    assert (request.stream_mode, request.config, request.interrupt_before) == (["updates"], {"tags": ["a"]}, "*")
    assert (await any_client.request(answer.run_id)).command == {"resume": True}
    await finished(cell, await cell.take())
    assert await any_client.request(run.run_id) == request


@pytest.mark.parametrize(
    "written", ['{"v": 2}', "", "{", '{"v":1,"graph":"g","thread_id":"t","stream_mode":[],"new":1}']
)
async def test_a_request_of_another_version_is_not_guessed(any_client: Client, cell: Cell, written: str) -> None:
    run = await any_client.enqueue("agent", None)
    await cell.redis.hset(cell.keys.run(run.run_id), "request", written)
    with pytest.raises(ProtocolError, match=f"^the request of run {run.run_id} cannot be read: "):
        await any_client.request(run.run_id)
    with pytest.raises(RunNotFound):
        await any_client.request(new_run_id())
