"""Text and messages of a run that is taken over; and readers without whom a run is not to go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from tests.support.attempts import HandAttempt
from tests.support.proxy import Proxy
from tests.support.waiting import until

from runstream import (
    Client,
    ClientSettings,
    InvalidRequest,
    Retraction,
    RunLost,
    RunNotFound,
    RunStopped,
    Status,
    Text,
)
from runstream.keys import Keys

MakeHand: TypeAlias = Callable[..., Awaitable[HandAttempt]]


@pytest.fixture
async def talk(make_hand: MakeHand) -> HandAttempt:
    """A run that streams messages, in the middle of an answer of two tasks."""
    hand = await make_hand(stream_mode=["messages", "values"])
    await hand.say("done, ", "a")
    await hand.say("half", "b")
    return hand


def task(name: str) -> dict[str, Any]:
    return {"id": name, "name": name, "ns": []}


async def pieces(texts: AsyncIterator[Text | Retraction]) -> list[tuple[str, bool]]:
    return [(str(piece) if isinstance(piece, Text) else piece.text, piece.replaces) async for piece in texts]


async def test_text_that_became_void_is_replaced(client: Client, talk: HandAttempt) -> None:
    reading = asyncio.create_task(pieces(client.text(talk.run_id)))
    await until(lambda: client.tails_watching == 1, "the reader has what there is")
    await talk.take_over(tasks=[task("b")], events=[], count=1)
    await talk.say("whole", "b", "another message")
    await talk.end()

    expected = [("done, ", False), ("half", False), ("done, ", True), ("whole", False)]
    assert await reading == expected
    assert await pieces(client.text(talk.run_id)) == expected


async def test_text_is_as_ever_where_nothing_that_was_said_is_void(client: Client, talk: HandAttempt) -> None:
    await talk.take_over(tasks=[task("c")], events=["1-9"], count=2)
    await talk.say(" and on", "b")
    await talk.end()
    assert await pieces(client.text(talk.run_id)) == [("done, ", False), ("half", False), (" and on", False)]
    assert await pieces(client.text(talk.run_id, node="a")) == [("done, ", False)]


async def test_text_of_one_node_is_not_replaced_for_anothers_sake(client: Client, talk: HandAttempt) -> None:
    await talk.take_over(tasks=[task("b")])
    await talk.end()
    assert await pieces(client.text(talk.run_id, node="a")) == [("done, ", False)]
    assert await pieces(client.text(talk.run_id, node="b")) == [("half", False), ("", True)]


async def test_who_goes_on_behind_an_event_is_told_what_became_void_before_it(
    client: Client, talk: HandAttempt
) -> None:
    await talk.take_over(tasks=[task("b")])
    await talk.say("whole", "b", "another message")
    await talk.end()

    whole = [piece async for piece in client.text(talk.run_id)]
    assert [piece.event_id for piece in whole] == ["1-1", "1-2", "2-0", "2-1"]
    for at, seen in enumerate(whole):
        rest = [piece async for piece in client.text(talk.run_id, after=seen.event_id)]
        assert rest == whole[at + 1 :]
        assert [piece.replaces for piece in rest] == [piece.replaces for piece in whole[at + 1 :]]


async def test_the_text_of_a_run_that_is_lost_comes_before_the_error(client: Client, make_hand: MakeHand) -> None:
    hand = await make_hand(stream_mode="messages", max_attempts=1)
    await hand.say("half")
    await hand.lose()
    said: list[Text | Retraction] = []
    with pytest.raises(RunLost, match=r"the lease of worker hand expired.*held by hand \(lost\)"):
        await read_into(said, client.text(hand.run_id))
    assert said == ["half"]


async def read_into(seen: list[Any], reader: AsyncIterator[Any]) -> None:
    async for one in reader:
        seen.append(one)  # noqa: PERF401 - what came before an error stays


async def test_messages_come_as_they_stand_whenever_they_change(client: Client, talk: HandAttempt) -> None:
    async with aclosing(client.messages(talk.run_id)) as lists:  # type: ignore[type-var] # an async generator, typed as what users see
        assert contents(await anext(lists)) == ["done, ", "half"]
        step = asyncio.ensure_future(anext(lists))
        await until(lambda: client.tails_watching == 1, "the reader waits")
        await talk.append(b'{"m":"values","d":{}}')
        await talk.say("done", "a", chunk_position="last")
        assert contents(await step) == ["done, done", "half"]
        await talk.take_over(tasks=[task("b")])
        assert contents(await anext(lists)) == ["done, done"]
        await talk.say("whole", "b", "another message")
        await talk.say("!", "b", "another message")
        await talk.end()
        while (last := await anext(lists, None)) is not None:
            stands = last
    assert contents(stands) == ["done, done", "whole!"]
    assert [message["type"] for message in stands] == ["ai", "ai"]
    assert [contents(one) async for one in client.messages(talk.run_id)] == [["done, done", "whole!"]]
    assert [contents(one) async for one in client.messages(talk.run_id, node="b")] == [["whole!"]]


def contents(messages: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in messages]


async def test_messages_that_are_there_at_once_come_as_one_list(client: Client, make_hand: MakeHand) -> None:
    hand = await make_hand(stream_mode="messages")
    async with aclosing(client.messages(hand.run_id)) as lists:  # type: ignore[type-var] # an async generator, typed as what users see
        step = asyncio.ensure_future(anext(lists))
        await until(lambda: client.tails_watching == 1, "the reader waits")
        await hand.say("0")
        assert contents(await step) == ["0"]
        for number in range(1, 50):
            await hand.say(f" {number}")
        await hand.end()
        came = [contents(one) async for one in lists]
    assert came[-1] == [" ".join(map(str, range(50)))]
    assert len(came) < 10


async def test_messages_of_a_run_that_fails_or_has_none(client: Client, make_hand: MakeHand, talk: HandAttempt) -> None:
    async with aclosing(client.messages((await make_hand()).run_id)) as lists:  # type: ignore[type-var] # an async generator, typed as what users see
        with pytest.raises(InvalidRequest, match="streams values"):
            await anext(lists)
    await client.stop(talk.run_id, reason="enough")
    await talk.end("stopped", stop="enough")
    seen: list[list[dict[str, Any]]] = []
    with pytest.raises(RunStopped, match="enough"):
        await read_into(seen, client.messages(talk.run_id))
    assert [contents(one) for one in seen] == [["done, ", "half"]]


async def test_a_batch_is_what_is_there(client: Client, hand: HandAttempt) -> None:
    async with client.tail(hand.run_id) as events:
        assert [event.id for event in await events.batch()] == ["1-0"]
        step = asyncio.ensure_future(events.batch())
        await until(lambda: client.tails_watching == 1, "the reader waits")
        await hand.emit(3)
        assert [event.id for event in await step] == ["1-1", "1-2", "1-3"]
        assert events.cursor == "1-3"
        await hand.end()
        assert [event.id for event in await events.batch()] == ["1-4"]
        assert await events.batch() == []


async def test_a_reader_that_leaves_stops_the_run_only_if_that_was_asked_for(
    client: Client, make_hand: MakeHand
) -> None:
    hands = {name: await make_hand() for name in ("continue", "stop")}
    for on_disconnect, hand in hands.items():
        async with client.tail(hand.run_id, on_disconnect=on_disconnect) as events:  # type: ignore[arg-type] # one of the two
            await anext(events)
    assert (await client.get(hands["continue"].run_id)).stop_reason is None
    assert (await client.get(hands["stop"].run_id)).stop_reason == "its reader left"


async def test_a_waiting_run_whose_reader_leaves_ends(client: Client, make_hand: MakeHand) -> None:
    hand = await make_hand(claim=False)
    events = client.tail(hand.run_id, on_disconnect="stop")
    await events.aclose()
    await events.aclose()
    assert (await client.get(hand.run_id)).status is Status.STOPPED


@pytest.mark.parametrize("where", ["from the start", "behind the end"])
async def test_a_reader_that_has_seen_the_end_stops_nothing(
    redis_url: str, namespace: str, hand: HandAttempt, where: str
) -> None:
    await hand.end()
    async with Client(redis_url, settings=ClientSettings(namespace=namespace)) as client:
        after = "1-1" if where == "behind the end" else None
        async with client.tail(hand.run_id, after=after, on_disconnect="stop") as events:
            assert len([event async for event in events]) == (0 if after else 2)
            await client.aclose()  # a stop would raise now


async def test_a_run_that_has_expired_needs_no_stop(
    client: Client, hand: HandAttempt, redis: Redis, namespace: str
) -> None:
    async with client.tail(hand.run_id, on_disconnect="stop") as events:
        await anext(events)
        await redis.delete(Keys(namespace).run(hand.run_id), Keys(namespace).events(hand.run_id))
    with pytest.raises(RunNotFound):
        await client.get(hand.run_id)


async def test_a_reader_that_is_cancelled_again_and_again_stops_the_run_all_the_same(
    client: Client, hand: HandAttempt
) -> None:
    """As web frameworks do, whose cancellation is repeated at every await."""
    leaving = asyncio.Event()

    async def read() -> None:
        async with client.tail(hand.run_id, on_disconnect="stop") as events:
            async for _ in events:
                leaving.set()

    reader = asyncio.create_task(read())
    await leaving.wait()
    while not reader.done():
        reader.cancel()
        await asyncio.sleep(0)
    assert reader.cancelled()
    await until(lambda: _is_told_to_stop(client, hand.run_id), "the run is told to stop")


async def _is_told_to_stop(client: Client, run_id: str) -> bool:
    return (await client.get(run_id)).stop_reason == "its reader left"


async def test_a_client_is_not_closed_before_its_readers_have_stopped_their_runs(
    redis_url: str, namespace: str, client: Client, hand: HandAttempt
) -> None:
    async with Client(redis_url, settings=ClientSettings(namespace=namespace)) as other:
        leaving = asyncio.create_task(other.tail(hand.run_id, on_disconnect="stop").aclose())
        await asyncio.sleep(0)
        leaving.cancel()
    assert await _is_told_to_stop(client, hand.run_id)


async def test_a_stop_that_cannot_be_asked_for_is_an_error(redis_url: str, namespace: str, hand: HandAttempt) -> None:
    settings = ClientSettings(namespace=namespace, call_timeout=0.05)
    async with Proxy(redis_url) as proxy, Client(proxy.url, settings=settings) as client:
        events = client.tail(hand.run_id, on_disconnect="stop")
        await anext(events)
        await proxy.take_away()
        with pytest.raises(RedisConnectionError):
            await events.aclose()


async def test_what_may_become_of_a_run_without_its_reader_is_one_of_two(client: Client, hand: HandAttempt) -> None:
    with pytest.raises(InvalidRequest, match="on_disconnect: 'cancel' must be 'continue' or 'stop'"):
        client.tail(hand.run_id, on_disconnect="cancel")  # type: ignore[arg-type] # that is what is refused
