"""Settled reading: what is handed out is never void, each event once and in order, wherever a worker loses the run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from redis.asyncio import Redis
from tests.integration.test_takeover import HI, MODES, PLACES, chain, parallel
from tests.support.counting import read
from tests.support.history import standing
from tests.support.stage import Play, Stage
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, ClientSettings, Event
from runstream.model import EventId


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def play(client: Client, workers: Workers, redis: Redis, namespace: str, stage: Stage) -> Play:
    return Play(client, workers, redis, namespace, stage)


async def read_settled(client: Client, run_id: str, seen: list[Event] | None = None, **options: Any) -> list[Event]:
    return await read(client, run_id, seen, settled=True, **options)


def chunks(events: list[Event]) -> list[Event]:
    return [event for event in events if event.is_chunk]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize(
    ("build", "place"),
    [(build, place) for build, place, *_ in PLACES],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_a_settled_reader_gets_what_stands_once_and_in_order(
    build: Callable[[Stage], Any], place: str, durability: Any, play: Play, *, elsewhere: bool
) -> None:
    stage, saver = play.stage, InMemorySaver() if elsewhere else None
    stage.hold(place)
    await play.start_worker(build(stage).compile(checkpointer=saver))
    run = await play.client.enqueue("play", HI, stream_mode=MODES, subgraphs=True, durability=durability)
    seen: list[Event] = []
    reader = asyncio.create_task(read_settled(play.client, run.run_id, seen))
    await until(lambda: stage.entered[place] == 1, "the run is held")
    await play.start_worker(build(stage).compile(checkpointer=saver))

    await play.lose(run.run_id)
    before = list(seen)
    await until(lambda: stage.entered[place] == 2, "the next attempt has come to the same place")
    stage.open(place)

    await reader
    events = await play.events(run.run_id)
    kept = standing(events)
    assert chunks(seen) == kept
    assert chunks(before) == kept[: len(chunks(before))]
    assert [event.id for event in seen] == sorted({event.id for event in seen}, key=EventId.parse)
    assert [event.mode for event in seen if not event.is_chunk] == ["attempt", "attempt", "end"]
    # The same behind each event, and after the run.
    for at in range(0, len(seen), 7):
        assert await read_settled(play.client, run.run_id, after=seen[at].id) == seen[at + 1 :]


async def test_what_a_finished_task_has_published_comes_while_the_next_one_runs(play: Play) -> None:
    play.stage.hold("two")
    await play.start_worker(chain(play.stage).compile())
    run = await play.client.enqueue("play", HI, stream_mode=["messages"])
    seen: list[Event] = []
    reader = asyncio.create_task(read_settled(play.client, run.run_id, seen))
    await until(lambda: play.stage.entered["two"] == 1, "two is held")
    await until(lambda: "no more" in text_of(seen, "one"), "all that one has said is settled")
    late: list[Event] = []
    second = asyncio.create_task(read_settled(play.client, run.run_id, late))
    await until(lambda: late == seen, "a reader that joins late has the same")
    assert text_of(seen, "two") == ""
    play.stage.open("two")
    assert await reader == await second


async def test_a_parallel_task_is_held_behind_one_that_began_before_it(play: Play) -> None:
    play.stage.hold("quick", "slow")
    await play.start_worker(parallel(play.stage).compile())
    run = await play.client.enqueue("play", HI, stream_mode=["messages"])
    seen: list[Event] = []
    reader = asyncio.create_task(read_settled(play.client, run.run_id, seen))
    await until(lambda: play.stage.entered.total() == 2, "both are held")
    play.stage.open("quick", "slow")
    assert chunks(await reader) == chunks(await play.events(run.run_id))


async def test_more_than_may_be_held_is_read_again(play: Play, redis_url: str, namespace: str) -> None:
    play.stage.hold("two")
    await play.start_worker(chain(play.stage).compile())
    run = await play.client.enqueue("play", HI, stream_mode=MODES)
    async with Client(redis_url, settings=ClientSettings(namespace=namespace, read_buffer=3)) as client:
        seen: list[Event] = []
        reader = asyncio.create_task(read_settled(client, run.run_id, seen))
        await until(lambda: play.stage.entered["two"] == 1, "two is held")
        await play.start_worker(chain(play.stage).compile())
        await play.lose(run.run_id)
        await until(lambda: play.stage.entered["two"] == 2, "the next attempt has come to the same place")
        play.stage.open("two")
        assert chunks(await reader) == standing(await play.events(run.run_id))
        assert await read_settled(client, run.run_id) == seen


async def test_without_checkpoints_everything_is_settled_at_the_end(play: Play) -> None:
    play.stage.hold("two")
    graph = chain(play.stage).compile(checkpointer=False)
    await play.start_worker(graph)
    run = await play.client.enqueue("play", HI, stream_mode=["messages"], restartable=True)
    seen: list[Event] = []
    reader = asyncio.create_task(read_settled(play.client, run.run_id, seen))
    await until(lambda: play.stage.entered["two"] == 1, "two is held")
    await play.start_worker(graph)
    await play.lose(run.run_id)
    await until(lambda: play.stage.entered["two"] == 2, "the next attempt has come to the same place")
    assert chunks(seen) == []
    play.stage.open("two")
    assert chunks(await reader) == standing(await play.events(run.run_id))


def text_of(events: list[Event], node: str) -> str:
    return "".join(
        event.data[0]["content"]
        for event in events
        if event.mode == "messages" and event.data[1]["langgraph_node"] == node
    )
