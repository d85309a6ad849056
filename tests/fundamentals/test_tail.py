"""Reading: from the start, from where one left off, from now on; many readers, slow ones, late ones, impatient ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from tests.support.attempts import HandAttempt
from tests.support.waiting import until

from runstream import (
    Client,
    ClientSettings,
    Event,
    EventStream,
    InvalidRequest,
    ProtocolError,
    RunNotFound,
    RunstreamError,
)
from runstream.keys import Keys
from runstream.model import new_run_id


async def collect(stream: EventStream) -> list[Event]:
    return [event async for event in stream]


def ids(events: list[Event]) -> list[str]:
    return [event.id for event in events]


async def test_every_reader_gets_everything_wherever_it_joins(client: Client, hand: HandAttempt) -> None:
    first = asyncio.create_task(collect(client.tail(hand.run_id)))
    await hand.emit(3)
    second = asyncio.create_task(collect(client.tail(hand.run_id)))
    await hand.emit(3)
    await hand.end()
    late = await collect(client.tail(hand.run_id))
    assert ids(late) == ["1-0", *(f"1-{n}" for n in range(1, 8))]
    assert await first == await second == late


async def test_a_reader_goes_on_behind_the_id_that_it_names(client: Client, hand: HandAttempt) -> None:
    await hand.emit(5)
    await hand.end()
    assert ids(await collect(client.tail(hand.run_id, after="1-3"))) == ["1-4", "1-5", "1-6"]
    assert await collect(client.tail(hand.run_id, after="1-6")) == []
    assert await collect(client.tail(hand.run_id, after="9-9")) == []


async def test_the_cursor_of_a_reader_is_where_another_can_go_on(client: Client, hand: HandAttempt) -> None:
    await hand.emit(4)
    await hand.end()
    stream = client.tail(hand.run_id)
    async for event in stream:
        if event.id == "1-2":
            break
    assert stream.cursor == "1-2"
    assert ids(await collect(client.tail(hand.run_id, after=stream.cursor))) == ["1-3", "1-4", "1-5"]


async def test_live_begins_with_what_comes_now(client: Client, hand: HandAttempt) -> None:
    await hand.emit(3)
    stream = client.tail(hand.run_id, live=True)
    step = asyncio.ensure_future(anext(stream))
    await until(lambda: client.tails_watching == 1, "the reader has joined")
    await hand.emit(1)
    assert (await step).id == "1-4"
    await hand.end()
    assert ids(await collect(stream)) == ["1-5"]
    assert await collect(client.tail(hand.run_id, live=True)) == []


async def test_a_reader_may_come_before_the_worker(client: Client, make_hand: Callable[..., Any]) -> None:
    hand: HandAttempt = await make_hand(claim=False)
    reading = asyncio.create_task(collect(client.tail(hand.run_id)))
    await until(lambda: client.tails_watching == 1, "the reader waits")
    await hand.claim()
    await hand.emit(1)
    await hand.end()
    assert ids(await reading) == ["1-0", "1-1", "1-2"]


async def test_leaving_early_frees_everything(client: Client, hand: HandAttempt) -> None:
    await hand.emit(1)
    async for event in client.tail(hand.run_id):
        if event.id == "1-1":
            break
    assert client.tails_watching == 0
    async with client.tail(hand.run_id) as stream:
        await anext(stream)
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await until(lambda: client.tails_watching == 1, "the reader waits")
        waiting.cancel()
    assert client.tails_watching == 0
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    await hand.end()


async def test_a_wait_that_is_given_up_leaves_the_reader_where_it_was(client: Client, hand: HandAttempt) -> None:
    stream = client.tail(hand.run_id)
    assert (await anext(stream)).id == "1-0"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.01)
    await hand.emit(2)
    await hand.end()
    assert ids(await collect(stream)) == ["1-1", "1-2", "1-3"]


async def test_a_slow_reader_loses_nothing_and_slows_nobody(
    redis_url: str, namespace: str, make_hand: Callable[..., Any]
) -> None:
    settings = ClientSettings(namespace=namespace, read_buffer=10)
    async with Client(redis_url, settings=settings) as client:
        hand: HandAttempt = await make_hand()
        slow, quick = client.tail(hand.run_id), client.tail(hand.run_id)
        assert (await anext(slow)).id == (await anext(quick)).id == "1-0"
        waiting = [asyncio.ensure_future(anext(stream)) for stream in (slow, quick)]
        await until(lambda: client.tails_watching == 2, "both wait")
        await hand.emit(1)
        assert {(await step).id for step in waiting} == {"1-1"}
        for n in range(2, 40):
            await hand.emit(1)
            assert (await anext(quick)).id == f"1-{n}"
        await hand.end()
        assert ids(await collect(slow)) == [f"1-{n}" for n in range(2, 41)]
        assert ids(await collect(quick)) == ["1-40"]


async def test_readers_that_join_a_fast_stream_at_any_moment_miss_nothing(client: Client, hand: HandAttempt) -> None:
    readers = []
    for _ in range(50):
        await hand.emit(20)
        readers.append(asyncio.create_task(collect(client.tail(hand.run_id))))
        await asyncio.sleep(0)
    await hand.end()
    expected = [f"1-{n}" for n in range(1002)]
    for reader in readers:
        assert ids(await reader) == expected


@pytest.mark.real_redis  # looks at CLIENT LIST
async def test_many_runs_and_readers_share_one_connection(
    redis_url: str, redis: Redis, namespace: str, make_hand: Callable[..., Any]
) -> None:
    before = len(await redis.client_list())
    async with Client(redis_url, settings=ClientSettings(namespace=namespace)) as client:
        hands = [await make_hand() for _ in range(20)]
        opened = len(await redis.client_list())
        readers = [asyncio.create_task(collect(client.tail(hand.run_id))) for hand in hands for _ in range(5)]
        await until(lambda: client.tails_watching == 100, "all wait")
        assert len(await redis.client_list()) - opened <= 3
        assert opened - before <= 2  # those of `make_hand`
        for hand in hands:
            await hand.emit(2)
            await hand.end()
        for reader in readers:
            assert len(await reader) == 4


async def test_a_run_that_does_not_exist_is_an_error(client: Client) -> None:
    with pytest.raises(RunNotFound, match="it was never enqueued"):
        await anext(client.tail(new_run_id()))


async def test_a_run_that_expires_under_a_reader_is_an_error(
    redis_url: str, hand: HandAttempt, redis: Redis, namespace: str
) -> None:
    keys = Keys(namespace)
    async with Client(redis_url, settings=ClientSettings(namespace=namespace, probe_interval=0.05)) as client:
        stream = client.tail(hand.run_id)
        await anext(stream)
        step = asyncio.ensure_future(anext(stream))
        await until(lambda: client.tails_watching == 1, "the reader waits")
        await redis.delete(keys.run(hand.run_id), keys.events(hand.run_id))
        with pytest.raises(RunNotFound):
            await step


async def test_a_run_that_is_deleted_under_a_reader_is_an_error(
    redis_url: str, hand: HandAttempt, namespace: str
) -> None:
    await hand.emit(600)  # more than a page
    async with Client(redis_url, settings=ClientSettings(namespace=namespace, probe_interval=0.05)) as client:
        behind, ahead, at_the_end = (client.tail(hand.run_id) for _ in range(3))
        await anext(behind)
        assert len([await anext(at_the_end) for _ in range(601)]) == 601
        await hand.end()
        assert (await anext(at_the_end)).mode == "end"
        await client.delete(hand.run_id)
        assert await anext(at_the_end, None) is None
        with pytest.raises(RunNotFound):
            async for _ in behind:
                pass
        with pytest.raises(RunNotFound):
            await anext(ahead)


@pytest.mark.parametrize("after", ["1", "x", "1-", "1-2-3", "-1", "$", ""])
async def test_what_is_no_event_id_is_refused(client: Client, after: str) -> None:
    with pytest.raises(InvalidRequest, match="is no event id"):
        client.tail(new_run_id(), after=after)


async def test_an_id_and_live_together_are_refused(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="not both"):
        client.tail(new_run_id(), after="1-1", live=True)


async def test_a_removed_stretch_is_a_gap_event(
    client: Client, hand: HandAttempt, redis: Redis, namespace: str
) -> None:
    await hand.emit(6)
    await hand.end()
    await redis.xdel(Keys(namespace).events(hand.run_id), "1-3", "1-4")
    events = await collect(client.tail(hand.run_id))
    assert [(event.id, event.mode) for event in events if event.mode in ("gap", "end")] == [
        ("1-5", "gap"),
        ("1-7", "end"),
    ]
    assert next(event.data for event in events if event.mode == "gap") == {"after": "1-2", "before": "1-5"}
    (gap, *_) = await collect(client.tail(hand.run_id, after="1-3"))
    assert gap.data == {"after": "1-3", "before": "1-5"}


async def test_a_stream_that_was_removed_whole_is_a_gap_to_its_end(
    client: Client, hand: HandAttempt, redis: Redis, namespace: str
) -> None:
    await hand.emit(2)
    await hand.end()
    await redis.delete(Keys(namespace).events(hand.run_id))
    events = await collect(client.tail(hand.run_id))
    assert [(event.mode, event.data) for event in events] == [("gap", {"after": "0-0", "before": None})]


async def test_an_event_of_another_format_is_an_error_for_this_run_only(
    client: Client, make_hand: Callable[..., Any], redis: Redis, namespace: str
) -> None:
    odd, even = await make_hand(), await make_hand()
    readers = [asyncio.create_task(collect(client.tail(hand.run_id))) for hand in (odd, even)]
    await until(lambda: client.tails_watching == 2, "both wait")
    await redis.xadd(Keys(namespace).events(odd.run_id), {"2": "x"}, "1-1")
    await even.emit(1)
    await even.end()
    with pytest.raises(ProtocolError, match="another version of runstream"):
        await readers[0]
    assert len(await readers[1]) == 3


async def test_a_message_chunk_is_complete_for_a_reader_that_begins_behind_its_base(
    client: Client, hand: HandAttempt
) -> None:
    base = b'{"m":"messages","n":["a:1"],"d":[{"content":"A","type":"AIMessageChunk","id":"m"},{"langgraph_node":"a"}]}'
    await hand.append(
        base, b'{"b":"1-1","t":"B"}', b'{"b":"1-1","d":{"content":"","usage_metadata":{"total_tokens":3}}}'
    )
    await hand.end()
    whole = await collect(client.tail(hand.run_id, after="1-0"))
    assert whole[1].data == [{"content": "B", "type": "AIMessageChunk", "id": "m"}, {"langgraph_node": "a"}]
    assert whole[2].data[0] == {
        "content": "",
        "type": "AIMessageChunk",
        "id": "m",
        "usage_metadata": {"total_tokens": 3},
    }
    assert [event.ns for event in whole[:3]] == [("a:1",)] * 3
    assert await collect(client.tail(hand.run_id, after="1-1")) == whole[1:]
    assert await collect(client.tail(hand.run_id, after="1-2")) == whole[2:]


async def test_a_live_reader_is_given_complete_chunks_too(client: Client, hand: HandAttempt) -> None:
    await hand.append(b'{"m":"messages","d":[{"content":"A","type":"AIMessageChunk"},{"langgraph_node":"a"}]}')
    stream = client.tail(hand.run_id, live=True)
    step = asyncio.ensure_future(anext(stream))
    await until(lambda: client.tails_watching == 1, "the reader has joined")
    await hand.append(b'{"b":"1-1","t":"B"}')
    assert (await step).data == [{"content": "B", "type": "AIMessageChunk"}, {"langgraph_node": "a"}]
    await hand.end()
    await collect(stream)


async def test_text_is_the_tokens_of_one_node(client: Client, make_hand: Callable[..., Any]) -> None:
    hand = await make_hand(stream_mode=["messages", "values"])
    await hand.append(
        b'{"m":"messages","d":[{"content":"A","type":"AIMessageChunk"},{"langgraph_node":"agent"}]}',
        b'{"m":"messages","d":[{"content":"tool says","type":"tool"},{"langgraph_node":"tools"}]}',
        b'{"m":"messages","d":[{"content":"x","type":"AIMessageChunk"},{"langgraph_node":"other"}]}',
        b'{"m":"values","d":{}}',
        b'{"b":"1-1","d":{"content":[{"type":"text","text":"B"},{"type":"image"}]}}',
    )
    await hand.end()
    assert [text async for text in client.text(hand.run_id)] == ["A", "x", "B"]
    assert [text async for text in client.text(hand.run_id, node="agent")] == ["A", "B"]
    assert [text async for text in client.text(hand.run_id, node=["other"])] == ["x"]


async def test_text_of_a_run_without_messages_is_refused(client: Client, hand: HandAttempt) -> None:
    async with aclosing(client.text(hand.run_id)) as texts:  # type: ignore[type-var] # an async generator, typed as what users see
        with pytest.raises(InvalidRequest, match="streams values"):
            await anext(texts)


async def test_readers_are_told_when_the_client_is_closed(redis_url: str, namespace: str, hand: HandAttempt) -> None:
    client = Client(redis_url, settings=ClientSettings(namespace=namespace))
    reading = asyncio.create_task(collect(client.tail(hand.run_id)))
    await until(lambda: client.tails_watching == 1, "the reader waits")
    await client.aclose()
    with pytest.raises(RunstreamError, match="the client is closed"):
        await reading


async def test_a_cursor_ahead_of_the_stream_holds_up_nobody_and_ends_with_the_run(
    client: Client, hand: HandAttempt
) -> None:
    await hand.emit(2)
    ahead = asyncio.create_task(collect(client.tail(hand.run_id, after="9-9")))
    little_ahead = asyncio.create_task(collect(client.tail(hand.run_id, after="1-4")))
    await until(lambda: client.tails_watching == 2, "both wait")
    other = asyncio.create_task(collect(client.tail(hand.run_id)))
    await until(lambda: client.tails_watching == 3, "all wait")
    await hand.emit(4)
    await hand.end()
    assert ids(await other) == ["1-0", *(f"1-{n}" for n in range(1, 8))]
    assert ids(await little_ahead) == ["1-5", "1-6", "1-7"]
    assert await ahead == []


async def test_readers_that_leave_and_come_back_see_no_gap(client: Client, hand: HandAttempt) -> None:
    """A read that was under way for a reader that left is not for one that joined meanwhile at another place."""

    async def come_and_go() -> None:
        seen: list[str] = []
        while not seen or seen[-1] != "end":
            stream = client.tail(hand.run_id, after=seen[-1] if seen else None)
            for _ in range(3):
                event = await anext(stream, None)
                if event is None or event.mode == "end":
                    seen.append("end")
                    break
                assert event.mode != "gap", (event, seen[-3:])
                seen.append(event.id)
            del stream
        assert seen == [*(f"1-{n}" for n in range(401)), "end"]

    readers = [asyncio.create_task(come_and_go()) for _ in range(8)]
    for _ in range(400):
        await hand.emit(1)
    await hand.end()
    await asyncio.gather(*readers)


@pytest.mark.real_redis  # the stand-in takes half a minute for it
async def test_a_catch_up_that_is_cancelled_again_and_again_loses_nothing(client: Client, hand: HandAttempt) -> None:
    await hand.emit(300)
    # Another reader keeps the shared read ahead of this one.
    other = asyncio.create_task(collect(client.tail(hand.run_id)))
    await until(lambda: client.tails_watching == 1, "the other waits")
    stream = client.tail(hand.run_id)
    seen: list[str] = []
    ending = asyncio.create_task(emit_and_end(hand))
    patience = 0
    while not seen or seen[-1] != "1-601":
        step = asyncio.ensure_future(anext(stream))
        for _ in range(patience):
            await asyncio.sleep(0)
        if not step.done():
            step.cancel()
        try:
            seen.append((await step).id)
            patience = 0
        except asyncio.CancelledError:
            patience += 1
    assert seen == [f"1-{n}" for n in range(602)]
    await asyncio.gather(other, ending)


async def emit_and_end(hand: HandAttempt) -> None:
    for _ in range(300):
        await hand.emit(1)
    await hand.end()


async def test_what_comes_before_an_event_of_another_format_is_given_first(
    client: Client, hand: HandAttempt, redis: Redis, namespace: str
) -> None:
    await hand.emit(3)
    await redis.xadd(Keys(namespace).events(hand.run_id), {"2": "x"}, "1-4")
    stream = client.tail(hand.run_id)
    assert [(await anext(stream)).id for _ in range(4)] == ["1-0", "1-1", "1-2", "1-3"]
    with pytest.raises(ProtocolError):
        await anext(stream)


async def test_a_damaged_stream_is_an_error_for_its_own_readers_only(
    client: Client, make_hand: Callable[..., Any], redis: Redis, namespace: str
) -> None:
    broken, odd, well = await make_hand(), await make_hand(), await make_hand()
    readers = [asyncio.create_task(collect(client.tail(hand.run_id))) for hand in (broken, odd, well)]
    await until(lambda: client.tails_watching == 3, "all wait")
    await odd.append(b'{"m":"custom","d":1}', b'{"b":"1-1","t":"no message"}')
    events = Keys(namespace).events(broken.run_id)
    await redis.delete(events)
    await redis.set(events, "no stream", ex=60)
    await well.emit(1)
    await well.end()
    assert len(await readers[2]) == 3
    with pytest.raises(ProtocolError, match="refers to 1-1, which is no message"):
        await readers[1]
    with pytest.raises((RunNotFound, ResponseError)):
        await asyncio.wait_for(readers[0], 10)


async def test_an_attempt_that_came_and_went_without_an_event_is_no_gap(client: Client, hand: HandAttempt) -> None:
    reading = asyncio.create_task(collect(client.tail(hand.run_id)))
    await hand.emit(2)
    await hand.leave()
    for _ in range(2):
        await hand.claim()  # the second attempt, and the third, which write nothing
        await hand.leave()
    await hand.claim()
    await hand.open()
    await hand.emit(1)
    await hand.end()
    expected = [(id_, "custom") for id_ in ("1-1", "1-2")] + [("4-0", "attempt"), ("4-1", "custom"), ("4-2", "end")]
    assert [(event.id, event.mode) for event in await reading] == [("1-0", "attempt"), *expected]
    again = await collect(client.tail(hand.run_id))
    assert again == await reading
    told = {"attempt": 4, "worker": "hand", "at": 0, "after": "1-2", "left": "drained", "checkpoint": None}
    assert again[3].data == told
    assert ids(await collect(client.tail(hand.run_id, after="1-2"))) == ["4-0", "4-1", "4-2"]


async def test_an_end_of_an_attempt_without_events_is_no_gap(client: Client, hand: HandAttempt) -> None:
    await hand.emit(1)
    await hand.leave()
    await hand.claim()
    await hand.end()
    events = await collect(client.tail(hand.run_id))
    assert [(event.id, event.mode) for event in events][2:] == [("2-0", "end")]
    assert events[-1].data["after"] == "1-1"


async def test_a_run_that_is_stopped_before_it_began_has_its_end_alone_and_no_gap(
    client: Client, make_hand: Callable[..., Any]
) -> None:
    hand: HandAttempt = await make_hand(claim=False)
    await client.stop(hand.run_id)
    assert [(event.id, event.mode) for event in await collect(client.tail(hand.run_id))] == [("1-0", "end")]


async def test_what_is_missing_before_an_attempt_is_a_gap(
    client: Client, hand: HandAttempt, redis: Redis, namespace: str
) -> None:
    await hand.emit(3)
    await hand.leave()
    await hand.claim()
    await hand.open()
    await hand.end()
    await redis.xdel(Keys(namespace).events(hand.run_id), "1-2", "1-3")
    events = await collect(client.tail(hand.run_id))
    assert [(event.id, event.mode) for event in events][2:] == [("2-0", "gap"), ("2-0", "attempt"), ("2-1", "end")]
    assert events[2].data == {"after": "1-1", "before": "2-0"}
    (gap, *_) = await collect(client.tail(hand.run_id, after="1-2"))
    assert gap.data == {"after": "1-2", "before": "2-0"}
    # Who has seen all that was before it misses nothing, though it has gone since.
    assert ids(await collect(client.tail(hand.run_id, after="1-3"))) == ["2-0", "2-1"]


async def test_what_is_missing_before_the_first_event_that_is_left_is_a_gap(
    client: Client, hand: HandAttempt, redis: Redis, namespace: str
) -> None:
    await hand.leave()
    await hand.claim()
    await hand.end()
    await redis.xdel(Keys(namespace).events(hand.run_id), "1-0")
    (gap, end) = await collect(client.tail(hand.run_id))
    assert (gap.mode, gap.data, end.id) == ("gap", {"after": "0-0", "before": "2-0"}, "2-0")


async def test_live_begins_behind_the_last_event_while_an_attempt_has_written_nothing(
    client: Client, hand: HandAttempt
) -> None:
    await hand.emit(2)
    await hand.leave()
    await hand.claim()
    stream = client.tail(hand.run_id, live=True)
    step = asyncio.ensure_future(anext(stream))
    await until(lambda: client.tails_watching == 1, "the reader has joined")
    assert stream.cursor == "1-2"
    await hand.open()
    assert (await step).id == "2-0"
    await hand.end()
    assert ids(await collect(stream)) == ["2-1"]


async def test_a_reader_may_come_between_two_attempts(client: Client, hand: HandAttempt) -> None:
    await hand.emit(2)
    await hand.leave()
    readers = [asyncio.create_task(collect(client.tail(hand.run_id, after=after))) for after in (None, "1-2", "7-7")]
    await until(lambda: client.tails_watching == 3, "all wait")
    await hand.claim()
    late = asyncio.create_task(collect(client.tail(hand.run_id)))
    await until(lambda: client.tails_watching == 4, "one more waits")
    await hand.open()
    await hand.end()
    whole = ["1-0", "1-1", "1-2", "2-0", "2-1"]
    assert [ids(await reader) for reader in readers] == [whole, whole[3:], []]
    assert ids(await late) == whole
