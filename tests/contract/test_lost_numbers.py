"""No number of an attempt is given out twice as far as anybody can have seen it, whatever Redis has lost.

And where a number is all the same, since nothing that Redis knows says that it has lost anything, readers notice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.support.cell import LEASE, TTL, Cell
from tests.support.forgetting import Memory
from tests.support.waiting import until

from runstream import Client, ClientSettings, Event, Fold, Status
from runstream.model import EventId, new_run_id
from runstream.scripts import Claimed, Hold

OTHER = "another-server"
FAR = 1000
"""By how much a number goes beyond the last one, at least, where another server may have given out more."""


@pytest.fixture
async def waiting(any_client: Client) -> str:
    """A run that nobody has claimed."""
    return (await any_client.enqueue("agent", {"n": 1}, stream_mode=["messages", "updates"])).run_id


async def moved(cell: Cell) -> None:
    """Let all records be another server's, as those are that a restart or a failover has left."""
    async for key in cell.redis.scan_iter(f"{cell.keys.run('')}*"):
        if await cell.redis.type(key) == b"hash" and await cell.redis.hexists(key, "server"):
            await cell.redis.hset(key, "server", OTHER)


def chunk(text: str, task: str) -> bytes:
    """A token of a task's message."""
    message = {"type": "AIMessageChunk", "id": f"message of {task}", "content": text}
    return json.dumps({"m": "messages", "k": task, "d": [message, {"langgraph_node": task}]}).encode()


async def speak(cell: Cell, hold: Hold, words: str, *, task: str, first: int = 1) -> None:
    """Publish the words of a task, one by one, and wait for nothing."""
    for seq, word in enumerate(words.split(), first):
        assert (await cell.append(hold, seq, chunk(f"{word} ", task), limit=10**6)).outcome == "ok"


async def begin(cell: Cell, claimed: Claimed, worker: str, **voids: Any) -> Hold:
    """Write the event of a later attempt."""
    hold = Hold(claimed.run_id, claimed.attempt, worker)
    told = {"attempt": hold.attempt, "worker": worker, "at": 0, "after": claimed.after, "left": claimed.left}
    more = {"after_worker": claimed.after_worker, "checkpoint": None, "voids": voids or {"count": 0}}
    assert (await cell.append(hold, 0, json.dumps({"m": "attempt", "d": told | more}).encode())).outcome == "ok"
    return hold


async def end(cell: Cell, hold: Hold, seq: int) -> None:
    """End the run as a worker does, which says in the event that it was the one."""
    event = json.dumps({"m": "end", "d": {"status": "success", "at": 0, "worker": hold.worker_id}}).encode()
    reply = await cell.scripts.finish(hold, end_seq=seq, event=event, status="success", record={"result": b"1"})
    assert reply.outcome == "ok"


class Reader:
    """Reads a run to its end, and folds what it is given."""

    def __init__(self, client: Client, run_id: str) -> None:
        self.fold = Fold()
        self.events: list[Event] = []
        self._reading = asyncio.create_task(self._read(client, run_id))

    async def _read(self, client: Client, run_id: str) -> None:
        async for event in client.tail(run_id):
            self.events.append(event)
            self.fold.apply(event)

    @property
    def texts(self) -> dict[str, str]:
        """The text of each message that stands."""
        return {message["id"]: message["content"] for message in self.fold.messages}

    async def has(self, event_id: str) -> None:
        """Wait until the reader was given this event."""
        await until(lambda: bool(self.events) and self.events[-1].id == event_id, f"the reader has {event_id}")

    async def ended(self) -> None:
        """Wait until the reader has come to the end."""
        async with asyncio.timeout(20):
            await self._reading


# --- numbers ----------------------------------------------------------------------------------------------------------


async def test_an_attempt_on_the_same_server_has_the_next_number(cell: Cell, waiting: str) -> None:
    for number in (1, 2, 3):
        hold = await cell.take()
        assert hold == Hold(waiting, number, "w")
        await cell.release(hold)


async def test_an_attempt_on_another_server_has_a_number_beyond_all_that_may_be_lost(
    any_client: Client, cell: Cell, waiting: str
) -> None:
    await cell.release(await cell.take())
    await moved(cell)

    hold = await cell.take()

    assert hold.attempt > 2 + FAR - 1
    info = await any_client.get(waiting)
    assert (info.attempt, info.attempts) == (hold.attempt, 2)
    await cell.release(hold)
    assert (await cell.take()).attempt == hold.attempt + 1


async def test_two_losses_in_a_row_do_not_lead_to_the_same_number(cell: Cell, waiting: str) -> None:
    """Redis loses what it has noted of the first loss, too."""
    await cell.take("u")
    await moved(cell)
    await cell.lose(Hold(waiting, 1, "u"))
    memory = await Memory.of(cell.redis, cell.keys)
    numbers = []
    for worker in "vwx":
        await asyncio.sleep(0.002)  # A server takes longer than that to start again.
        numbers.append((await cell.take(worker)).attempt)
        await memory.put_back()
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("ended_by", ["stop", "reaper"])
async def test_an_end_that_nobody_held_has_a_number_beyond_all_that_may_be_lost(
    any_client: Client, cell: Cell, waiting: str, ended_by: str
) -> None:
    memory = await Memory.of(cell.redis, cell.keys)
    dead = await cell.take("dead")
    await speak(cell, dead, "a b c", task="t")
    reader = Reader(any_client, waiting)
    await reader.has("1-3")
    await memory.put_back()
    await moved(cell)

    if ended_by == "stop":
        await any_client.stop(waiting)
    else:
        await cell.reap(0)
        await cell.redis.zadd(cell.keys.leases, {cell.keys.run(waiting): 1})
        assert (await cell.reap()).ended == [waiting]

    await reader.ended()
    assert reader.texts == {}
    assert EventId.of(reader.events[-1].id).attempt > FAR
    assert (await any_client.get(waiting)).attempts == 0


async def test_a_run_that_lost_its_worker_and_its_claim_begins_beyond_what_readers_have(
    any_client: Client, cell: Cell, waiting: str
) -> None:
    memory = await Memory.of(cell.redis, cell.keys)
    dead = await cell.take("dead")
    await speak(cell, dead, "never saved", task="t")
    reader = Reader(any_client, waiting)
    await reader.has("1-2")
    await memory.put_back()
    await moved(cell)

    hold = await cell.take("v")
    await speak(cell, hold, "saved at last", task="u")
    await end(cell, hold, 4)

    await reader.ended()
    assert reader.texts == {"message of u": "saved at last "}
    assert (reader.fold.status, reader.fold.complete) == (Status.SUCCESS, True)


# --- an attempt that takes its run back -------------------------------------------------------------------------------


async def claimed_by(cell: Cell, worker: str) -> Claimed:
    """One run, as it was handed to a worker."""
    (claimed,) = await cell.claim(1, worker=worker)
    return claimed


async def regain(cell: Cell, claimed: Claimed, worker: str, *, may: bool = True) -> int | None:
    """What a worker hears when it asks."""
    return await cell.scripts.regain(claimed, worker, lease=LEASE, running_ttl=TTL, may=may)


async def test_an_attempt_whose_claim_was_lost_takes_its_run_back(cell: Cell, waiting: str) -> None:
    memory = await Memory.of(cell.redis, cell.keys)
    claimed = await claimed_by(cell, "w")
    hold = Hold(waiting, 1, "w")
    await speak(cell, hold, "a b", task="t")
    await memory.put_back()

    assert await regain(cell, claimed, "w", may=False) is None
    assert await regain(cell, claimed, "w") == 0
    assert await regain(cell, claimed, "w") == 0

    assert (await cell.queue(), await cell.held()) == ([], {waiting})
    assert (await cell.append(hold, 3, b"c")).outcome == "behind"
    await speak(cell, hold, "a b c", task="t")
    await end(cell, hold, 4)
    assert await cell.ids(waiting) == [f"1-{seq}" for seq in range(5)]


async def test_a_later_attempt_takes_its_run_back_where_all_before_it_is_there(cell: Cell, waiting: str) -> None:
    first = await cell.take("u")
    await cell.append(first, 1, b"a")
    await cell.release(first)
    memory = await Memory.of(cell.redis, cell.keys)
    claimed = await claimed_by(cell, "w")
    await memory.put_back()

    assert await regain(cell, claimed, "w") == -1

    assert await cell.record(waiting, "attempt", "worker", "after", "after_worker") == ["2", "w", "1-1", "u"]


Change = Callable[[Cell, str], Awaitable[object]]


async def _ends(cell: Cell, run_id: str) -> None:
    await cell.scripts.stop(run_id, "enough")


async def _goes(cell: Cell, run_id: str) -> None:
    await cell.redis.delete(cell.keys.run(run_id))


async def _is_enqueued_again(cell: Cell, run_id: str) -> None:
    await cell.redis.hincrby(cell.keys.run(run_id), "created_at", 1)


async def _is_claimed(cell: Cell, run_id: str) -> None:
    assert (await cell.take("v")).run_id == run_id


async def _is_claimed_and_released(cell: Cell, run_id: str) -> None:
    await cell.release(await cell.take("v"))


@pytest.mark.parametrize("change", [_ends, _goes, _is_enqueued_again, _is_claimed, _is_claimed_and_released])
async def test_an_attempt_does_not_take_back_what_others_have_had(cell: Cell, waiting: str, change: Change) -> None:
    memory = await Memory.of(cell.redis, cell.keys)
    claimed = await claimed_by(cell, "w")
    await memory.put_back()
    await change(cell, waiting)
    before = await cell.redis.hgetall(cell.keys.run(waiting))

    assert await regain(cell, claimed, "w") is None

    assert await cell.redis.hgetall(cell.keys.run(waiting)) == before


async def test_an_attempt_does_not_take_a_run_back_whose_earlier_events_are_lost(cell: Cell, waiting: str) -> None:
    first = await cell.take("u")
    await cell.append(first, 1, b"a")
    memory = await Memory.of(cell.redis, cell.keys)
    await cell.append(first, 2, b"b")
    await cell.release(first)
    claimed = await claimed_by(cell, "w")
    await memory.put_back()
    await cell.release(first)

    assert await regain(cell, claimed, "w") is None

    assert await cell.scripts.disown(Hold(waiting, 2, "w"))
    assert (await cell.take("x")).attempt == 3


async def test_an_attempt_does_not_take_back_a_run_that_is_not_next_on_its_thread(
    any_client: Client, cell: Cell
) -> None:
    for _ in range(2):
        await any_client.enqueue("agent", None, thread_id="t")
    before = await cell.take("u")
    memory = await Memory.of(cell.redis, cell.keys)
    await cell.finish(before, 1)
    claimed = await claimed_by(cell, "w")
    await memory.put_back()

    assert await regain(cell, claimed, "w") is None


async def test_what_an_attempt_took_back_is_still_numbered_as_after_a_loss(cell: Cell, waiting: str) -> None:
    """That its claim was lost does not say that no later one was."""
    memory = await Memory.of(cell.redis, cell.keys)
    claimed = await claimed_by(cell, "w")
    await memory.put_back()
    await cell.redis.hset(cell.keys.run(waiting), "server", OTHER)
    assert await regain(cell, claimed, "w") == 0
    assert await cell.record(waiting, "server") == [OTHER]


# --- readers, where nothing says that Redis has lost something --------------------------------------------------------


@pytest.fixture
async def attentive(any_redis_url: str, namespace: str) -> AsyncIterator[Client]:
    """A client whose readers look often whether the run is still what they were given."""
    async with Client(any_redis_url, settings=ClientSettings(namespace=namespace, probe_interval=0.05)) as client:
        yield client


@pytest.mark.parametrize("length", [1, 3, 4, 9])
async def test_a_reader_does_not_mix_what_two_workers_have_published_under_one_number(
    attentive: Client, cell: Cell, length: int
) -> None:
    """The first one is dead, so nobody ever says that the number was used; and the second publishes less, or more."""
    run_id = (await attentive.enqueue("agent", None, stream_mode="messages")).run_id
    memory = await Memory.of(cell.redis, cell.keys)
    dead = await cell.take("dead")
    await speak(cell, dead, "never saved at all", task="t")
    reader = Reader(attentive, run_id)
    await reader.has("1-4")
    await memory.put_back()

    hold = await cell.take("v")
    assert hold.attempt == dead.attempt
    words = " ".join(f"word{n}" for n in range(length))
    await speak(cell, hold, words, task="u")
    await end(cell, hold, length + 1)

    await reader.ended()
    assert reader.texts == {"message of u": f"{words} "}
    assert (reader.fold.status, reader.fold.complete) == (Status.SUCCESS, True)
    (again,) = [event for event in reader.events if "rewinds" in event.data]
    assert (again.id, again.data["worker"]) == ("1-0", "v")


async def test_a_reader_notices_at_the_next_attempt_that_the_last_one_was_another_workers(
    attentive: Client, cell: Cell
) -> None:
    run_id = (await attentive.enqueue("agent", None, stream_mode="messages")).run_id
    memory = await Memory.of(cell.redis, cell.keys)
    dead = await cell.take("dead")
    await speak(cell, dead, "never saved at all", task="t")
    reader = Reader(attentive, run_id)
    await reader.has("1-4")
    await memory.put_back()
    second = await cell.take("v")
    await speak(cell, second, "this stays", task="u")
    await cell.release(second)

    hold = await begin(cell, await claimed_by(cell, "w"), "w")
    await speak(cell, hold, "and this", task="x")
    await end(cell, hold, 3)

    await reader.ended()
    assert reader.texts == {"message of u": "this stays ", "message of x": "and this "}


async def test_a_reader_of_a_forgotten_attempt_is_given_what_an_older_one_has_added(
    attentive: Client, cell: Cell
) -> None:
    """A worker that was taken for dead goes on, since Redis has forgotten that another one had taken over."""
    run_id = (await attentive.enqueue("agent", None, stream_mode="messages")).run_id
    zombie = await cell.take("zombie")
    await speak(cell, zombie, "one two", task="t")
    memory = await Memory.of(cell.redis, cell.keys)
    await cell.lose(zombie)
    dead = await begin(cell, await claimed_by(cell, "dead"), "dead")
    await speak(cell, dead, "never saved", task="x")
    reader = Reader(attentive, run_id)
    await reader.has("2-2")
    await memory.put_back()

    await speak(cell, zombie, "three four", task="t", first=3)
    assert await cell.scripts.disown(dead)
    hold = await begin(cell, await claimed_by(cell, "w"), "w")
    assert hold.attempt == 3
    await end(cell, hold, 1)

    await reader.ended()
    assert reader.texts == {"message of t": "one two three four "}


async def test_the_rest_of_a_message_that_redis_has_lost_is_not_there_twice(attentive: Client, cell: Cell) -> None:
    """A checkpointer elsewhere has saved the message, so the next attempt publishes what the stream lacks of it."""
    run_id = (await attentive.enqueue("agent", None, stream_mode="messages")).run_id
    dead = await cell.take("dead")
    await speak(cell, dead, "one two", task="t")
    memory = await Memory.of(cell.redis, cell.keys)
    await speak(cell, dead, "three four", task="t", first=3)
    reader = Reader(attentive, run_id)
    await reader.has("1-4")
    await memory.put_back()
    await cell.lose(dead)

    hold = await begin(cell, await claimed_by(cell, "v"), "v")
    await speak(cell, hold, "three four", task="t")
    await end(cell, hold, 3)

    await reader.ended()
    assert reader.texts == {"message of t": "one two three four "}


async def test_a_run_enqueued_again_after_its_enqueue_was_lost_is_all_that_its_reader_has(
    attentive: Client, cell: Cell
) -> None:
    run_id = new_run_id()
    memory = await Memory.of(cell.redis, cell.keys)
    await attentive.enqueue("agent", None, run_id=run_id, stream_mode="messages")
    dead = await cell.take("dead")
    await speak(cell, dead, "never saved at all", task="t")
    reader = Reader(attentive, run_id)
    await reader.has("1-4")
    await memory.put_back()
    await attentive.enqueue("agent", None, run_id=run_id, stream_mode="messages")

    hold = await cell.take("v")
    await speak(cell, hold, "saved", task="u")
    await end(cell, hold, 2)

    await reader.ended()
    assert reader.texts == {"message of u": "saved "}


@pytest.mark.parametrize("ended_by", ["stop", "reaper"])
async def test_a_reader_ahead_of_an_end_that_nobody_held_comes_to_it(
    attentive: Client, cell: Cell, ended_by: str
) -> None:
    run_id = (await attentive.enqueue("agent", None, stream_mode="messages")).run_id
    memory = await Memory.of(cell.redis, cell.keys)
    await speak(cell, await cell.take("dead"), "never saved", task="t")
    reader = Reader(attentive, run_id)
    await reader.has("1-2")
    await memory.put_back()

    if ended_by == "stop":
        await attentive.stop(run_id)
    else:
        await cell.reap(0)
        await cell.redis.zadd(cell.keys.leases, {cell.keys.run(run_id): 1})
        assert (await cell.reap()).ended == [run_id]

    await reader.ended()
    assert (reader.texts, reader.events[-1].mode) == ({}, "end")
    assert reader.fold.status.ended


async def test_text_and_messages_take_back_what_another_worker_has_published_otherwise(
    attentive: Client, cell: Cell
) -> None:
    run_id = (await attentive.enqueue("agent", None, stream_mode="messages")).run_id
    memory = await Memory.of(cell.redis, cell.keys)
    await speak(cell, await cell.take("dead"), "never saved", task="t")
    texts = attentive.text(run_id)
    lists = attentive.messages(run_id)
    assert [str(await anext(texts)), str(await anext(texts))] == ["never ", "saved "]
    assert (await anext(lists))[0]["content"] == "never saved "
    await memory.put_back()

    hold = await cell.take("v")
    await speak(cell, hold, "it stands now", task="u")
    await end(cell, hold, 4)

    shown = ""
    async for piece in texts:
        shown = piece.text if piece.replaces else shown + str(piece)
    assert shown == "it stands now "
    last = [messages async for messages in lists][-1]
    assert [message["content"] for message in last] == ["it stands now "]
