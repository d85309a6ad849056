"""One reader: what it is sent, whatever interrupts it."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest
from tests.support.attempts import HandAttempt
from tests.support.waiting import until

from runstream import Client, Event, Status
from runstream_gateway.frames import Frame
from runstream_gateway.reader import Beginning, Reader
from runstream_gateway.translate import FrameCache, Translator


async def test_a_heartbeat_while_the_state_is_restored_costs_no_frame(client: Client, hand: HandAttempt) -> None:
    # The state is in another database perhaps, which is slow. The heartbeat cancels the wait for the next frames.
    await hand.say("one ")
    await hand.lose()
    await hand.claim("another")
    await hand.open(checkpoint="saved", voids={"tasks": [{"id": "a", "name": "a"}], "events": [], "count": 1})
    await hand.say("two ")
    await hand.end()
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def restore(checkpoint_id: str) -> Any:
        asked.set()
        await may_answer.wait()
        return {"restored": checkpoint_id}

    translator = Translator(hand.run_id, ["values", "messages-tuple"], FrameCache())
    async with Reader(client, hand.run_id, Beginning(), translator, restore=restore) as reader:
        waiting = asyncio.create_task(reader.batch())
        await until(asked.is_set, "the state is asked for")
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        may_answer.set()
        frames: list[Frame] = []
        while batch := await reader.batch():
            frames += batch

    assert [(frame.event, frame.id) for frame in frames] == [
        ("metadata", "1-0"),
        ("messages", "1-1"),
        ("values", None),
        ("metadata", "2-0"),
        ("messages", "2-1"),
        ("end", "2-2"),
    ]
    assert json.loads(frames[2].data) == {"restored": "saved"}


@pytest.mark.parametrize("fails", [True, False])
async def test_a_reader_that_fails_has_not_left(client: Client, hand: HandAttempt, fails: bool) -> None:
    # The state is in a database that is away. Its client comes back, so the run goes on; one that leaves stops it.
    await hand.lose()
    await hand.claim("another")
    await hand.open(checkpoint="saved", voids={"tasks": [], "events": [], "count": 0})
    may_fail = asyncio.Event()

    async def restore(checkpoint_id: str) -> Any:
        await may_fail.wait()
        raise OSError(checkpoint_id)

    async def read() -> None:
        translator = Translator(hand.run_id, ["values"], FrameCache())
        async with Reader(
            client, hand.run_id, Beginning(), translator, restore=restore, on_disconnect="stop"
        ) as reader:
            while await reader.batch():
                pass

    reading = asyncio.create_task(read())
    if fails:
        may_fail.set()
    else:
        await until(lambda: client.tails_watching == 1, "it reads")
        reading.cancel()
    with pytest.raises(OSError if fails else asyncio.CancelledError):
        await reading
    assert ((await client.get(hand.run_id)).stop_reason is None) is fails
    assert (await client.get(hand.run_id)).status is Status.RUNNING


def test_readers_share_frames_and_what_is_kept_of_them_has_its_limits() -> None:
    cache = FrameCache(size=10, size_bytes=1000)
    small, large = (Event(f"1-{size}", "custom", (), "x" * size) for size in (10, 2000))
    kept = cache.of("run", small)
    assert cache.of("run", small) is kept
    assert cache.of("run", large) is cache.of("run", large)
    assert cache.of("run", small) is not kept
