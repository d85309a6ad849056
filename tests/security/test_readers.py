"""Readers that do not read: what each of them costs is bounded in bytes, however large a run's values are."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import pytest
from tests.gateway.served import NAMESPACE, Served, served
from tests.security.prober import Schedule
from tests.security.probing import MEGABYTE, probed
from tests.support.attempts import HandAttempt
from tests.support.raw_http import RawStream
from tests.support.waiting import until
from websockets.asyncio.client import connect as connect_websocket

from runstream import Client, ClientSettings
from runstream.codec import Decoder
from runstream.connection import connect
from runstream.keys import Keys
from runstream.model import StreamMode
from runstream.scripts import Scripts
from runstream_gateway.marks import MARKS

_READERS: Final = 20
_EACH: Final = 2 * MEGABYTE
"""What a reader may take: a page, a buffer and its frames, as JSON and as objects."""
_SHARED: Final = 48 * MEGABYTE
"""What they take together: the cache of frames, a shared read, and what the process takes for its first stream."""
_VALUES: Final = 300
_VALUE: Final = 100_000


def _values(at: int) -> bytes:
    return json.dumps({"m": "values", "d": {"at": at, "text": f"{at:06d}" * (_VALUE // 6)}}).encode()


async def _publish(hand: HandAttempt, count: int = _VALUES) -> None:
    """Publish large values, some MB at a time as a worker does."""
    for start in range(0, count, 20):
        await hand.append(*(_values(at) for at in range(start, min(start + 20, count))))


@asynccontextmanager
async def _run_by_hand(gateway: Served, *modes: StreamMode) -> AsyncIterator[HandAttempt]:
    redis = connect(gateway.redis_url, connections=1)
    async with Client(gateway.redis_url, settings=ClientSettings(namespace=NAMESPACE)) as client:
        run = await client.enqueue("hand", None, stream_mode=list(modes) or ["values"])
        hand = HandAttempt(client, Scripts(redis, Keys(NAMESPACE)), run.run_id, "hand")
        await hand.claim()
        yield hand
    await redis.aclose()


async def _settled(gateway: Served) -> None:
    """Wait until the gateway has nothing to do: its readers have got as much as they take."""
    schedule, quiet = Schedule.of_process(gateway.process.pid), 0
    while quiet < 5:
        await asyncio.sleep(0.1)
        spent = schedule.since_last()
        # What the prober and the heartbeats cost is not work on a backlog.
        quiet = quiet + 1 if spent.running + spent.waiting < 0.06 else 0


_PATHS: Final = {
    "sse": "/threads/{run}/runs/{run}/stream",
    "by the run's id": "/runs/{run}/stream",
    "settled": "/threads/{run}/runs/{run}/stream?settled=true",
    "console": "/console/runs/{run}/events",
}


@pytest.mark.parametrize("kind", _PATHS)
async def test_twenty_readers_that_do_not_read_a_run_of_large_values(kind: str) -> None:
    async with served(worker=False) as gateway, _run_by_hand(gateway) as hand, AsyncExitStack() as readers:
        await _publish(hand)
        path = _PATHS[kind].format(run=hand.run_id)
        async with probed(gateway) as probe:
            opened = [
                await readers.enter_async_context(
                    RawStream(gateway.url, "GET", path, headers={"last-event-id": "-1"}, receive_buffer=1 << 16)
                )
                for _ in range(_READERS)
            ]
            for reader in opened:
                await reader.read_until(b"event: attempt" if kind == "console" else b"event: metadata")
            await _settled(gateway)
        probe.figures.check(grew=_SHARED + _READERS * _EACH)
        # A reader that begins to read misses nothing.
        await hand.end()
        await opened[0].read_to_the_end()
        assert opened[0].body.count(b"event: values") == _VALUES


async def test_twenty_readers_that_stop_reading_while_large_values_come() -> None:
    async with served(worker=False) as gateway, _run_by_hand(gateway) as hand, AsyncExitStack() as readers:
        path = _PATHS["sse"].format(run=hand.run_id)
        opened = [
            await readers.enter_async_context(
                RawStream(gateway.url, "GET", path, headers={"last-event-id": "-1"}, receive_buffer=1 << 16)
            )
            for _ in range(_READERS)
        ]
        for reader in opened:
            await reader.read_until(b"event: metadata")
        async with probed(gateway) as probe:
            await _publish(hand)
            await _settled(gateway)
        probe.figures.check(grew=_SHARED + _READERS * _EACH)
        await hand.end()
        await opened[0].read_to_the_end()
        assert opened[0].body.count(b"event: values") == _VALUES


async def test_twenty_websockets_that_do_not_read() -> None:
    async with served(worker=False) as gateway, _run_by_hand(gateway) as hand, AsyncExitStack() as readers:
        await _publish(hand)
        place = f"ws{gateway.url.removeprefix('http')}/threads/{hand.run_id}/runs/{hand.run_id}/stream"
        async with probed(gateway) as probe:
            for _ in range(_READERS):
                websocket = await readers.enter_async_context(
                    connect_websocket(f"{place}?last_event_id=-1", max_queue=1, close_timeout=0.1)
                )
                assert json.loads(await websocket.recv())["event"] == "metadata"
            await _settled(gateway)
        probe.figures.check(grew=_SHARED + _READERS * _EACH)


async def test_sums_of_a_long_message_are_made_as_they_are_read() -> None:
    async with served(worker=False) as gateway, _run_by_hand(gateway, "messages") as hand, AsyncExitStack() as readers:
        for _ in range(1_000):
            await hand.say("a" * 1_000)
        async with _enqueued_for_sums(hand), probed(gateway) as probe:
            for _ in range(_READERS):
                reader = await readers.enter_async_context(
                    RawStream(gateway.url, "GET", f"/runs/{hand.run_id}/stream", receive_buffer=1 << 16)
                )
                await reader.read_until(b"200 OK")
            await _settled(gateway)
        # Each has the sum itself beside that.
        probe.figures.check(grew=_SHARED + _READERS * (_EACH + MEGABYTE))


@asynccontextmanager
async def _enqueued_for_sums(hand: HandAttempt) -> AsyncIterator[None]:
    """Have the run be one that was asked for with the mode `messages` of the API, which sends sums."""
    scripts = hand._scripts
    marks = {MARKS: {"stream_mode": ["messages"]}}
    await scripts._redis.hset(scripts._keys.run(hand.run_id), "metadata", json.dumps(marks))
    yield


async def test_tails_that_are_not_read_keep_a_page_each(
    client: Client, make_hand: Callable[..., Awaitable[HandAttempt]]
) -> None:
    hand = await make_hand(stream_mode=["values"])
    await _publish(hand)
    tails = [client.tail(hand.run_id) for _ in range(_READERS)]
    tracemalloc.start()
    try:
        for tail in tails:
            assert (await anext(tail)).id == "1-0"
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept < _READERS * MEGABYTE, kept
    await hand.end()
    found = [event async for event in tails[0]]
    assert [event.data["at"] for event in found if event.mode == "values"] == list(range(_VALUES))
    for tail in tails:
        await tail.aclose()


async def test_tails_that_wait_keep_a_buffer_each_and_miss_nothing(
    client: Client, make_hand: Callable[..., Awaitable[HandAttempt]]
) -> None:
    hands = [await make_hand(stream_mode=["values"]) for _ in range(4)]
    tails = [client.tail(hand.run_id) for hand in hands]
    for count, tail in enumerate(tails, 1):
        assert (await anext(tail)).id == "1-0"
        waiting = asyncio.ensure_future(anext(tail))
        await until(partial(_watching, client, count), "the reader waits")
        waiting.cancel()
        await asyncio.wait([waiting])
    tracemalloc.start()
    try:
        await asyncio.gather(*(_publish(hand) for hand in hands))
        other = client.tail(hands[0].run_id, after=f"1-{_VALUES - 1}")
        assert (await anext(other)).id == f"1-{_VALUES}"
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept < 16 * MEGABYTE, kept
    await other.aclose()
    for hand, tail in zip(hands, tails, strict=True):
        await hand.end()
        found = [event.data["at"] async for event in tail if event.mode == "values"]
        assert found == list(range(_VALUES))


def _watching(client: Client, count: int) -> bool:
    return client.tails_watching == count


async def test_a_page_is_measured_in_bytes(make_hand: Callable[..., Awaitable[HandAttempt]]) -> None:
    hand = await make_hand(stream_mode=["values"])
    await hand.emit(40)
    await hand.append(*(_values(at) for at in range(5)))
    scripts = hand._scripts

    async def page(start: str, most: int = 500, most_bytes: int = 128 * 1024) -> tuple[bool, list[str]]:
        more, entries = await scripts.page(hand.run_id, start, "+", most=most, most_bytes=most_bytes)
        return more, [entry[0].decode() for entry in entries]

    small = [f"1-{at}" for at in range(41)]
    assert await page("-") == (True, [*small, "1-41"])
    assert await page("(1-41") == (True, ["1-42"])
    assert await page("(1-44") == (False, ["1-45"])
    assert await page("(1-45") == (False, [])
    assert await page("-", most=3) == (True, small[:3])
    assert await page("(1-41", most_bytes=1) == (True, ["1-42"])
    assert await page("(1-41", most_bytes=1 << 30) == (False, [f"1-{at}" for at in range(42, 46)])


def test_a_decoder_keeps_few_bytes_of_bases() -> None:
    decoder = Decoder()
    for at in range(100):
        message = {"type": "AIMessageChunk", "content": "a" * _VALUE, "id": str(at)}
        decoder.decode(f"1-{at}", {b"1": json.dumps({"m": "messages", "d": [message, {}]}).encode()})
    assert sum(base.size for base in decoder._bases.values()) <= 3 * _VALUE
    other = Decoder()
    other.adopt(decoder)
    assert len(other._bases) == len(decoder._bases)
