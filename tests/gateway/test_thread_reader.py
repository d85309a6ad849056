"""One reader of a thread: whatever becomes of the runs, it is told each event of each once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from redis.asyncio import Redis
from tests.support.attempts import HandAttempt
from tests.support.waiting import until

from runstream import Client, ClientSettings
from runstream.keys import Keys
from runstream_gateway.core import Gateway, open_gateway
from runstream_gateway.errors import ApiError
from runstream_gateway.frames import Frame
from runstream_gateway.ids import new_id
from runstream_gateway.runs import Runs as ApiRuns
from runstream_gateway.settings import GatewaySettings
from runstream_gateway.thread_reader import ThreadPlace, ThreadReader
from runstream_worker.graphs import graph_source

Make = Callable[..., Awaitable[HandAttempt]]


class Count(TypedDict):
    count: int


@pytest.fixture
async def gateway(redis_url: str, namespace: str) -> AsyncIterator[Gateway]:
    graph = StateGraph(Count).add_node("same", lambda state: state).add_edge(START, "same").compile()
    settings = GatewaySettings(redis_url=redis_url, namespace=namespace)
    async with open_gateway({"agent": graph_source("agent", graph)}, settings) as gateway:
        yield gateway


class Runs:
    """The runs of one thread, executed by hand, and readers of it."""

    def __init__(self, client: Client, shown: ApiRuns, make: Make) -> None:
        self._client = client
        self._shown = shown
        self._make = make
        self.thread_id = new_id()
        self.names: dict[str, str] = {}
        self.has_gone = False

    async def create(self, name: str, *, claim: bool = True, **options: Any) -> HandAttempt:
        hand = await self._make(claim=claim, thread_id=self.thread_id, stream_mode=["custom"], **options)
        self.names[hand.run_id] = name
        return hand

    async def whole(self, name: str) -> HandAttempt:
        """A run from its beginning to its end."""
        hand = await self.create(name)
        await hand.emit(1)
        await hand.end()
        return hand

    def reader(self, last_event_id: str | None = None) -> ThreadReader:
        return ThreadReader(
            self._client,
            self._shown,
            self.thread_id,
            last_event_id=last_event_id,
            modes=[],
            is_there=self._is_there,
        )

    async def _is_there(self) -> bool:
        return not self.has_gone

    async def read(self, reader: ThreadReader, up_to: str) -> list[Frame]:
        """The next frames, up to and with the one that is told so: `run event id`."""
        frames: list[Frame] = []
        while not frames or self.told(frames)[-1] != up_to:
            async with asyncio.timeout(20):
                frames += await reader.batch() or ()
        return frames

    async def read_from(self, last_event_id: str | None, up_to: str) -> list[Frame]:
        async with self.reader(last_event_id) as reader:
            return await self.read(reader, up_to)

    def told(self, frames: list[Frame]) -> list[str]:
        """Which events the frames are of."""
        found = [str(frame.id).split("/") for frame in frames]
        return [f"{self.names[run_id]} {event_id}" for run_id, event_id, _ in found]


@pytest.fixture
def runs(client: Client, gateway: Gateway, make_hand: Make) -> Runs:
    return Runs(client, gateway.runs, make_hand)


async def test_who_joins_is_told_what_is_new_of_the_run_that_goes_on_and_all_of_those_that_begin(runs: Runs) -> None:
    await runs.whole("before")
    now = await runs.create("now")
    await now.emit(2)
    async with runs.reader() as reader:
        await now.emit(1)
        await now.end()
        # It has begun, and gone on, before the reader comes to it.
        later = await runs.create("later")
        await later.emit(2)
        frames = await runs.read(reader, "later 1-2")
    assert runs.told(frames) == ["now 1-3", "now 1-4", "later 1-0", "later 1-1", "later 1-2"]
    await later.end()


async def test_runs_are_told_in_the_order_in_which_they_begin(runs: Runs, client: Client) -> None:
    late = await runs.create("late", claim=False, delay=0.5)
    await runs.whole("early")
    first = await runs.read_from("-", "early 1-2")
    due = (await client.get(late.run_id)).due_at
    await until(lambda: datetime.now(UTC) > due, "the other one is due")
    await late.claim()
    await late.emit(1)
    await late.end()
    await runs.whole("last")

    whole = await runs.read_from("-", "last 1-2")
    order = [f"{name} 1-{seq}" for name in ("early", "late", "last") for seq in range(3)]
    assert runs.told(first) == order[:3]
    assert runs.told(whole) == order
    # From wherever it was left.
    for at in range(len(whole) - 1):
        assert runs.told(await runs.read_from(whole[at].id, "last 1-2")) == order[at + 1 :]


async def test_a_place_whose_run_has_gone_is_still_one(runs: Runs, client: Client) -> None:
    for name in ("one", "two", "three"):
        await runs.whole(name)
    seen = await runs.read_from("-", "two 1-2")
    (two,) = (run_id for run_id, name in runs.names.items() if name == "two")
    await client.delete(two)
    assert runs.told(await runs.read_from(seen[-1].id, "three 1-2")) == ["three 1-0", "three 1-1", "three 1-2"]


async def test_a_run_that_goes_while_it_is_read_ends_quietly(
    make_hand: Make, redis_url: str, redis: Redis, namespace: str, gateway: Gateway
) -> None:
    settings = ClientSettings(namespace=namespace, probe_interval=0.05)
    async with Client(redis_url, settings=settings) as client:
        shown = ApiRuns(client, client.documents("thread", ttl=60), gateway.states, _forget, show_errors=True)
        runs = Runs(client, shown, make_hand)
        gone = await runs.create("gone")
        async with runs.reader("-") as reader:
            assert runs.told(await runs.read(reader, "gone 1-0")) == ["gone 1-0"]
            keys = Keys(namespace)
            await redis.delete(keys.run(gone.run_id), keys.events(gone.run_id))
            reading = asyncio.create_task(runs.read(reader, "next 1-2"))
            await until(lambda: client.tails_watching == 0, "it has noticed")
            await runs.whole("next")
            assert runs.told(await reading) == ["next 1-0", "next 1-1", "next 1-2"]


async def _forget(run_id: str) -> None:
    raise AssertionError(run_id)


@pytest.mark.parametrize("wrong", ["1-1", "x/1-1/5", "RUN/1-1", "RUN/1-1/", "RUN/x/5"])
def test_what_is_no_place(wrong: str) -> None:
    with pytest.raises(ApiError) as refused:
        ThreadPlace.of(wrong.replace("RUN", new_id()))
    assert refused.value.status == 422


async def test_the_stream_of_a_thread_that_has_been_deleted_ends(runs: Runs) -> None:
    await runs.whole("only")
    async with runs.reader("-") as reader:
        await runs.read(reader, "only 1-2")
        runs.has_gone = True
        assert await reader.batch() is None
