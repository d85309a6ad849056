"""The runs of a thread are found, also those that have ended, for as long as they are kept."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.cell import Cell

from runstream import Client, InvalidRequest, Status
from runstream.model import new_run_id
from runstream.scripts import Hold

DAY = 24 * 3600


async def enqueue(client: Client, thread_id: str | None = "t", **options: Any) -> str:
    return (await client.enqueue("agent", None, thread_id=thread_id, **options)).run_id


async def end(cell: Cell, run_id: str, attempt: int = 1) -> None:
    """Let the run that is next on its thread be executed."""
    assert run_id in [claimed.run_id for claimed in await cell.claim()]
    await cell.finish(Hold(run_id, attempt, "w"), 1)


async def found(client: Client, thread_id: str = "t") -> list[str]:
    return [info.run_id async for info in client.thread_runs(thread_id)]


# -- the index --------------------------------------------------------------------------------------------------------


async def test_the_runs_of_a_thread_are_found_the_newest_first_whatever_became_of_them(
    any_client: Client, cell: Cell
) -> None:
    ended, running, waiting = [await enqueue(any_client) for _ in range(3)]
    elsewhere, own = await enqueue(any_client, "u"), await enqueue(any_client, None)
    await end(cell, ended)
    await cell.claim()

    infos = [info async for info in any_client.thread_runs("t")]

    assert [info.run_id for info in infos] == [waiting, running, ended]
    assert [info.status for info in infos] == [Status.QUEUED, Status.RUNNING, Status.SUCCESS]
    assert {info.thread_id for info in infos} == {"t"}
    assert await found(any_client, "u") == [elsewhere]
    assert await found(any_client, own) == [own]
    assert await found(any_client, "nobody's") == []


async def test_a_run_that_is_sent_again_is_there_once(any_client: Client, cell: Cell) -> None:
    run_id = await enqueue(any_client, run_id=new_run_id(), idempotency_key="k")
    await enqueue(any_client, run_id=run_id)
    await enqueue(any_client, idempotency_key="k")
    assert await cell.thread_runs("t") == [run_id]


async def test_a_run_that_was_refused_is_not_there(any_client: Client, cell: Cell) -> None:
    first = await enqueue(any_client)
    with pytest.raises(Exception, match="is on thread"):
        await enqueue(any_client, multitask_strategy="reject")
    assert await cell.thread_runs("t") == [first]


@pytest.mark.parametrize("thread_id", ["a:b}{c", "100%.-[x]", "Fäden 東京", ":thread-runs:", ":thread:", "x" * 255])
async def test_any_text_names_a_thread(any_client: Client, cell: Cell, thread_id: str) -> None:
    run_id = await enqueue(any_client, thread_id)
    assert await cell.thread_runs(thread_id) == await found(any_client, thread_id) == [run_id]
    await end(cell, run_id)
    assert await found(any_client, thread_id) == [run_id]
    assert await any_client.active([thread_id]) == [0]


async def test_an_index_of_many_runs_is_read_page_by_page(any_client: Client, cell: Cell) -> None:
    gone = [new_run_id() for _ in range(130)]
    kept = [await enqueue(any_client) for _ in range(120)]
    before, between = gone[:65], gone[65:]
    await cell.redis.zadd(cell.keys.thread_runs("t"), dict.fromkeys(before, 1.0))
    middle = (await cell.redis.zscore(cell.keys.thread_runs("t"), kept[60])) or 0
    await cell.redis.zadd(cell.keys.thread_runs("t"), dict.fromkeys(between, middle))

    assert set(await found(any_client)) == set(kept)
    assert set(await cell.thread_runs("t")) == set(kept)


async def test_runs_that_are_deleted_during_a_scan_hide_no_others(any_client: Client, cell: Cell) -> None:
    made = [await enqueue(any_client) for _ in range(220)]
    for run_id in made:
        await any_client.stop(run_id)
    await cell.redis.zadd(cell.keys.thread_runs("t"), dict.fromkeys(made[:150], 1234.0))
    seen: list[str] = []
    async for info in any_client.thread_runs("t"):
        seen.append(info.run_id)
        await any_client.delete(info.run_id)
    assert sorted(seen) == sorted(made)
    assert await found(any_client) == []


async def test_what_has_expired_is_forgotten_by_those_who_come(any_client: Client, cell: Cell) -> None:
    await cell.redis.zadd(cell.keys.thread_runs("t"), {new_run_id(): n for n in range(50)})
    for _ in range(100):
        await enqueue(any_client)
    assert await cell.redis.zcard(cell.keys.thread_runs("t")) < 140


async def test_an_id_that_is_used_again_on_another_thread_is_found_there_only(any_client: Client, cell: Cell) -> None:
    older, run_id = await enqueue(any_client), await enqueue(any_client, run_id=new_run_id())
    await cell.redis.delete(cell.keys.run(run_id))
    await enqueue(any_client, "u", run_id=run_id)
    assert await cell.thread_runs("t") == [older, run_id]

    assert [info and info.run_id for info in await any_client.last_runs(["t", "u"])] == [older, run_id]
    assert await any_client.active(["t", "u"]) == [1, 1]
    assert await found(any_client) == [older]
    assert await found(any_client, "u") == [run_id]


async def test_what_is_deleted_is_not_there(any_client: Client, cell: Cell) -> None:
    older, run_id = await enqueue(any_client), await enqueue(any_client)
    for one in (older, run_id):
        await end(cell, one)
    await any_client.delete(run_id)
    assert await cell.thread_runs("t") == await found(any_client) == [older]
    assert [info and info.run_id for info in await any_client.last_runs(["t"])] == [older]


# -- how long it lives ------------------------------------------------------------------------------------------------


async def test_the_index_lives_as_the_longest_lived_of_its_runs(any_client: Client, cell: Cell) -> None:
    long, short = await enqueue(any_client, retention=30 * DAY), await enqueue(any_client, retention=60)
    for run_id in (long, short):
        await end(cell, run_id)
    assert await cell.lives(cell.keys.run(short)) <= 60_000
    assert await cell.lives(cell.keys.thread_runs("t")) > 30 * DAY * 1000 - 1000

    await cell.let_pass(61)

    assert await found(any_client) == [long]
    assert await cell.thread_runs("t") == [long]
    await cell.let_pass(40 * DAY)
    assert await cell.redis.keys(f"{cell.keys.tag}:*") == []


@pytest.mark.parametrize("how", ["finished", "lost", "stopped"])
async def test_the_index_outlives_the_retention_that_begins_with_the_end(
    any_client: Client, cell: Cell, how: str
) -> None:
    run_id = await enqueue(any_client, retention=20 * DAY, max_attempts=1)
    hold = await cell.take()
    await cell.redis.pexpire(cell.keys.thread_runs("t"), 1000)
    match how:
        case "finished":
            await cell.finish(hold, 1)
        case "lost":
            await cell.lose(hold)
        case "stopped":
            await cell.redis.zadd(cell.keys.leases, {cell.keys.run(run_id): 1})
            await any_client.stop(run_id)
    assert (await any_client.get(run_id)).status.ended
    assert await cell.lives(cell.keys.thread_runs("t")) > 20 * DAY * 1000 - 1000


@pytest.mark.parametrize("how", ["claimed", "beaten", "given back", "lost"])
async def test_the_index_outlives_a_record_that_is_given_longer(any_client: Client, cell: Cell, how: str) -> None:
    run_id = await enqueue(any_client, start_within=10 * DAY, retention=1)
    hold = await cell.take() if how != "claimed" else None
    for key in (cell.keys.thread_runs("t"), cell.keys.run(run_id)):
        await cell.redis.pexpire(key, 5000)
    match how:
        case "claimed":
            await cell.take()
        case "beaten":
            await cell.beat({run_id: 1})
        case "given back":
            assert hold is not None
            await cell.release(hold)
        case "lost":
            assert hold is not None
            await cell.lose(hold)
    lives = await cell.lives(cell.keys.run(run_id))
    assert lives > 6 * DAY * 1000
    assert await cell.lives(cell.keys.thread_runs("t")) > lives - 1000


# -- the newest of each, and how many are at work ---------------------------------------------------------------------


async def test_the_newest_run_of_each_thread(any_client: Client, cell: Cell) -> None:
    await end(cell, await enqueue(any_client, "a"))
    newest = await enqueue(any_client, "a")
    ended = await enqueue(any_client, "b")
    await cell.claim()
    await cell.finish(Hold(ended, 1, "w"), 1)

    infos = await any_client.last_runs(["b", "none", "a", "b"])

    assert [info and (info.run_id, info.status) for info in infos] == [
        (ended, Status.SUCCESS), None, (newest, Status.RUNNING), (ended, Status.SUCCESS),
    ]  # fmt: skip
    assert await any_client.last_runs([]) == []


async def test_the_newest_that_still_exists(any_client: Client, cell: Cell) -> None:
    kept = await enqueue(any_client, "a")
    gone = [await enqueue(any_client, thread_id) for thread_id in ("a", "a", "b")]
    await cell.redis.delete(*map(cell.keys.run, gone))
    await cell.redis.zadd(cell.keys.thread_runs("a"), {new_run_id(): 3e12 + n for n in range(250)})
    other = await enqueue(any_client, "c")

    infos = await any_client.last_runs(["a", "b", "c"])

    assert [info and info.run_id for info in infos] == [kept, None, other]
    # Only what stands in the way is dropped.
    assert len(await cell.thread_runs("a")) < 100
    assert await cell.thread_runs("b") == []


async def test_how_many_runs_of_each_thread_have_not_ended(any_client: Client, cell: Cell) -> None:
    first, *_ = [await enqueue(any_client, "a") for _ in range(3)]
    await enqueue(any_client, "b", delay=1000)
    await end(cell, await enqueue(any_client, "c"))
    assert await any_client.active(["c", "a", "none", "b", "a"]) == [0, 3, 0, 1, 3]
    await cell.finish(Hold(first, 1, "w"), 1)
    assert await any_client.active(["a"]) == [2]
    assert await any_client.active([]) == []


async def test_who_stands_in_line_without_a_record_or_after_its_end_is_not_at_work(
    any_client: Client, cell: Cell
) -> None:
    vanished, kept = await enqueue(any_client), await enqueue(any_client)
    ended = await enqueue(any_client, "u")
    await cell.claim()
    await cell.finish(Hold(ended, 1, "w"), 1)
    await cell.redis.delete(cell.keys.run(vanished))
    await cell.redis.zadd(cell.keys.thread("t"), {cell.keys.run(ended): 5})
    assert await cell.line("t") == [vanished, ended, kept]
    assert await any_client.active(["t"]) == [1]


@pytest.mark.parametrize("thread_id", ["", "a\nb", "x" * 256, "\ud800", None, 7])
async def test_what_is_no_thread_id_is_refused(any_client: Client, thread_id: Any) -> None:
    for ask in (lambda: any_client.last_runs(["t", thread_id]), lambda: any_client.active(["t", thread_id])):
        with pytest.raises(InvalidRequest, match=r"^thread_id: .* must be 1 to 255 characters of text"):
            await ask()
    with pytest.raises(InvalidRequest, match=r"^thread_id: "):
        any_client.thread_runs(thread_id)
