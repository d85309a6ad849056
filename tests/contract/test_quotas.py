"""Quotas: what somebody may do, counted for all processes together."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.cell import Cell
from tests.support.clock import let_pass

from runstream import Client


async def test_a_burst_is_let_through_and_then_the_rate(any_client: Client, cell: Cell) -> None:
    quotas = any_client.quotas
    spent = [await quotas.spend("s", rate=0.1, burst=3) for _ in range(4)]
    assert spent[:3] == [0, 0, 0]
    assert 9 < spent[3] <= 10
    assert await quotas.spend("other", rate=0.1, burst=3) == 0
    await _pass(cell, 10_000)
    assert await quotas.spend("s", rate=0.1, burst=3) == 0
    assert await quotas.spend("s", rate=0.1, burst=3) > 9
    await _pass(cell, 1_000_000)
    assert [await quotas.spend("s", rate=0.1, burst=3) > 0 for _ in range(4)] == [False, False, False, True]


async def test_several_at_once_are_all_taken_or_none(any_client: Client) -> None:
    quotas = any_client.quotas
    assert await quotas.spend("s", rate=0.1, burst=3, wanted=2) == 0
    assert 9 < await quotas.spend("s", rate=0.1, burst=3, wanted=2) <= 10
    assert await quotas.spend("s", rate=0.1, burst=3) == 0


async def test_a_clock_that_is_put_back_takes_nothing_away(any_client: Client, cell: Cell) -> None:
    quotas = any_client.quotas
    assert await quotas.spend("s", rate=0.1, burst=3) == 0
    await _pass(cell, -100_000)
    assert await quotas.spend("s", rate=0.1, burst=3) == 0
    assert await quotas.spend("s", rate=0.1, burst=3) == 0
    assert await quotas.spend("s", rate=0.1, burst=3) > 0


async def test_what_is_full_again_is_forgotten(any_client: Client, cell: Cell) -> None:
    assert await any_client.quotas.spend("s", rate=2.0, burst=4) == 0
    assert 500 <= await cell.redis.pttl(cell.keys.rate("s")) <= 1500


async def test_places_are_given_until_there_are_none(any_client: Client) -> None:
    quotas = any_client.quotas

    async def hold(*names: str) -> bool:
        return await quotas.hold("streams", "s", names, most=3, seconds=60)

    assert await hold("a")
    assert await hold("b", "c")
    assert not await hold("d")
    # Who has one keeps it, which is also what a call does that is made again.
    assert await hold("a")
    assert await quotas.hold("streams", "other", ["d"], most=3, seconds=60)
    await quotas.release("streams", "s", ["a"])
    assert not await hold("d", "e")
    assert await hold("d")


async def test_without_a_limit_places_are_renewed_and_never_refused(any_client: Client) -> None:
    quotas = any_client.quotas
    for name in "abcdef":
        assert await quotas.hold("streams", "s", [name], most=None, seconds=60)
    assert not await quotas.hold("streams", "s", ["g"], most=3, seconds=60)
    assert not await quotas.hold("streams", "t", ["g"], most=0, seconds=60)


async def test_a_place_that_is_not_renewed_lapses(any_client: Client, cell: Cell) -> None:
    quotas = any_client.quotas
    assert await quotas.hold("streams", "s", ["dead"], most=2, seconds=60)
    await let_pass(cell.redis, cell.keys, 40_000)
    assert await quotas.hold("streams", "s", ["alive"], most=2, seconds=60)
    assert not await quotas.hold("streams", "s", ["new"], most=2, seconds=60)
    await let_pass(cell.redis, cell.keys, 30_000)
    assert await quotas.hold("streams", "s", ["new"], most=2, seconds=60)
    await let_pass(cell.redis, cell.keys, 70_000)
    assert not await cell.redis.exists(cell.keys.places("streams", "s"))


async def test_a_run_has_its_place_until_its_end(any_client: Client, cell: Cell) -> None:
    quotas = any_client.quotas
    first, second = [(await any_client.enqueue("agent", {"n": n})).run_id for n in range(2)]
    assert await quotas.hold_runs("s", [first, second], most=2)
    assert not await quotas.hold_runs("s", ["new"], most=2)
    # However long it takes: days.
    await let_pass(cell.redis, cell.keys, 3 * 24 * 3600 * 1000)
    hold = await cell.take()
    assert hold.run_id == first
    assert not await quotas.hold_runs("s", ["new"], most=2)
    await cell.finish(hold, 1)
    assert await quotas.hold_runs("s", ["new"], most=2)
    await any_client.stop(second)
    assert await quotas.hold_runs("s", ["newer"], most=2)


async def test_a_run_that_was_never_enqueued_has_its_place_for_a_minute(any_client: Client, cell: Cell) -> None:
    quotas = any_client.quotas
    assert await quotas.hold_runs("s", ["a", "b"], most=2)
    await let_pass(cell.redis, cell.keys, 50_000)
    assert not await quotas.hold_runs("s", ["c"], most=2)
    await let_pass(cell.redis, cell.keys, 20_000)
    assert await quotas.hold_runs("s", ["c"], most=2)
    await quotas.release_runs("s", ["c"])
    assert await quotas.hold_runs("s", ["d", "e"], most=2)


async def test_a_run_that_was_enqueued_after_all_keeps_its_place(any_client: Client) -> None:
    quotas = any_client.quotas
    run = await any_client.enqueue("agent", {"n": 1})
    assert await quotas.hold_runs("s", [run.run_id, "a"], most=2)
    await quotas.release_runs("s", [run.run_id, "a"])
    assert not await quotas.hold_runs("s", ["b", "c"], most=2)
    assert await quotas.hold_runs("s", ["b"], most=2)


async def test_of_those_who_come_at_once_as_many_get_a_place_as_there_are(any_client: Client) -> None:
    quotas = any_client.quotas
    given = await asyncio.gather(*(quotas.hold("streams", "s", [str(n)], most=7, seconds=60) for n in range(50)))
    assert sum(given) == 7
    waits = await asyncio.gather(*(quotas.spend("r", rate=0.001, burst=7) for _ in range(50)))
    assert waits.count(0) == 7


async def _pass(cell: Cell, ms: int) -> None:
    """Let time pass for the rate of `s`."""
    redis: Any = cell.redis
    await redis.hincrbyfloat(cell.keys.rate("s"), "at", -ms)
