"""Deliveries: who looks after them, for how long, and what becomes of them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.cell import Cell

from runstream import Client
from runstream.deliveries import Deliveries, Delivery, share_of

ABOUT = {"url": "https://hooks.example.com/", "tries": "0"}


@pytest.fixture
def mine(any_client: Client) -> Deliveries:
    return any_client.deliveries("me")


@pytest.fixture
def other(any_client: Client) -> Deliveries:
    return any_client.deliveries("another")


async def attended(deliveries: Deliveries, *held: str, more: int = 10) -> tuple[set[str], list[str]]:
    lost, taken = await deliveries.attend(held, more)
    return set(lost), [delivery.id for delivery in taken]


async def test_who_adds_one_looks_after_it_until_its_time_is_over(
    mine: Deliveries, other: Deliveries, cell: Cell
) -> None:
    await mine.add(Delivery("a", ABOUT))
    assert await attended(other) == (set(), [])
    await cell.let_pass(8)
    assert await attended(mine, "a") == (set(), [])
    await cell.let_pass(8)
    assert await attended(other) == (set(), [])
    await cell.let_pass(3)

    assert await other.attend((), 10) == (frozenset(), [Delivery("a", {**ABOUT, "holder": "another"})])

    assert await attended(mine, "a") == ({"a"}, [])
    assert not await mine.change("a", {"tries": "1"})
    assert not await mine.give_up("a", {})
    await mine.remove("a")
    assert (await other.get("a") or Delivery("", {})).fields["tries"] == "0"


async def test_no_more_are_taken_than_asked_for_and_the_longest_due_first(mine: Deliveries, cell: Cell) -> None:
    for name in "abc":
        await mine.add(Delivery(name, ABOUT))
    for name, after in (("a", 3), ("b", 1), ("c", 60)):
        await mine.change(name, {}, after=after)
    await cell.let_pass(5)
    assert await attended(mine, more=1) == (set(), ["b"])
    assert await attended(mine, "b", more=0) == (set(), [])
    assert await attended(mine, "b") == (set(), ["a"])


async def test_one_that_is_left_is_looked_after_when_its_time_has_come(
    mine: Deliveries, other: Deliveries, cell: Cell
) -> None:
    await mine.add(Delivery("a", ABOUT))
    assert await mine.change("a", {"tries": "1", "told": "HTTP 500"}, after=20)
    await cell.let_pass(15)
    assert await attended(other) == (set(), [])
    await cell.let_pass(6)
    (delivery,) = (await other.attend((), 10)).taken
    assert delivery.fields == {**ABOUT, "holder": "another", "tries": "1", "told": "HTTP 500"}


async def test_what_was_done_is_gone(mine: Deliveries, cell: Cell) -> None:
    await mine.add(Delivery("a", ABOUT))
    await mine.remove("a")
    await mine.remove("a")
    assert await mine.get("a") is None
    assert await cell.redis.exists(cell.keys.deliveries) == 0
    assert await attended(mine, "a") == ({"a"}, [])
    await mine.supply("a", {"payload": "{}"})
    assert await mine.get("a") is None


async def test_what_was_given_up_can_be_read_for_a_day_and_nobody_looks_after_it(mine: Deliveries, cell: Cell) -> None:
    await mine.add(Delivery("a", ABOUT))
    assert await mine.give_up("a", {"told": "HTTP 404"})
    assert await attended(mine, "a") == (set(), [])
    assert await cell.redis.zcard(cell.keys.deliveries) == 0
    await cell.let_pass(20)
    assert await attended(mine) == (set(), [])
    assert await mine.get("a") == Delivery("a", {**ABOUT, "holder": "me", "told": "HTTP 404"})


async def test_what_was_given_up_lives_no_longer_for_what_comes_late(mine: Deliveries, cell: Cell) -> None:
    await mine.add(Delivery("a", ABOUT))
    await mine.add(Delivery("b", ABOUT))
    await mine.give_up("a", {"told": "HTTP 404"})
    await mine.supply("a", {"payload": "{}"})
    assert await attended(mine, "a", "b") == (set(), [])
    assert (await mine.get("a") or Delivery("", {})).fields["payload"] == "{}"
    assert (
        0 < await cell.redis.ttl(cell.keys.delivery("a")) <= 24 * 3600 < await cell.redis.ttl(cell.keys.delivery("b"))
    )


async def test_what_is_supplied_takes_nothing_s_place(mine: Deliveries, other: Deliveries) -> None:
    await mine.add(Delivery("a", ABOUT))
    await other.supply("a", {"payload": "first"})
    await other.supply("a", {"payload": "second", "tries": "9"})
    assert await mine.get("a") == Delivery("a", {**ABOUT, "holder": "me", "payload": "first"})
    assert await mine.change("a", {"payload": "third"})


async def test_one_that_has_expired_leaves_the_index(mine: Deliveries, cell: Cell) -> None:
    redis: Any = cell.redis
    await mine.add(Delivery("a", ABOUT))
    await redis.delete(cell.keys.delivery("a"))
    await cell.let_pass(11)
    assert await attended(mine) == (set(), [])
    assert await redis.exists(cell.keys.deliveries) == 0


async def test_what_is_due_is_handed_out_by_shares_in_turn(mine: Deliveries, other: Deliveries, cell: Cell) -> None:
    """A hundred overdue deliveries of one owner stand before the only one of another."""
    for number in range(100):
        share = share_of("anna", f"host{number}")
        await mine.add(Delivery(f"a{number}", {**ABOUT, "share": share}))
    await mine.add(Delivery("b", {**ABOUT, "share": share_of("bert", "hooks")}))
    await cell.let_pass(20)

    lost, taken = await other.attend((), 50, room=60)

    names = [delivery.id for delivery in taken]
    assert not lost
    assert "b" in names
    assert 10 <= len(names) - 1 <= 15
    # Who has its share gets no more of them, and what comes of others is still handed out.
    await mine.add(Delivery("c", {**ABOUT, "share": share_of("carl", "hooks")}))
    await cell.let_pass(11)
    assert {"c"} == {one for one in (await attended(other, *names, more=50))[1] if not one.startswith("a")}
    again = (await other.attend(names, 50, room=60)).taken
    assert len(again) <= 3


async def test_a_share_that_is_empty_or_has_expired_leaves_the_index(mine: Deliveries, cell: Cell) -> None:
    redis: Any = cell.redis
    share = share_of("anna", "hooks")
    await mine.add(Delivery("a", {**ABOUT, "share": share}))
    assert await redis.zrange(cell.keys.deliveries, 0, -1) == [share.encode()]
    await redis.delete(cell.keys.deliveries_of(share))
    await cell.let_pass(11)
    assert await attended(mine) == (set(), [])
    assert await redis.exists(cell.keys.deliveries) == 0


async def test_a_payload_is_not_handed_out_with_its_delivery(mine: Deliveries, other: Deliveries, cell: Cell) -> None:
    await mine.add(Delivery("a", ABOUT))
    await mine.change("a", {"payload": "{}", "payload_bytes": "2"})
    await cell.let_pass(11)
    (delivery,) = (await other.attend((), 10)).taken
    assert delivery.fields == {**ABOUT, "holder": "another", "payload_bytes": "2"}
    assert await other.payload("a") == b"{}"
    assert await other.payload("b") is None
