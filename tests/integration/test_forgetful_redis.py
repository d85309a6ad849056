"""Redis comes back with less than it had acknowledged, at places that the test chooses, while workers go on."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, TypedDict, cast

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from redis.asyncio import Redis
from tests.integration.test_takeover import HI, MODES, check
from tests.support.counting import read
from tests.support.forgetting import Memory
from tests.support.stage import Play, Stage, Story, spoken, standing, texts
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, ClientSettings, Event, Fold, RunNotFound, Status

NAMES = ("one", "two", "three")
LONG = "so long that it is kept apart from the checkpoint, and written once only: " * 2


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def play(client: Client, workers: Workers, redis: Redis, namespace: str, stage: Stage) -> Play:
    return Play(client, workers, redis, namespace, stage)


def chain(stage: Stage) -> Any:
    graph = StateGraph(Story).add_sequence([(name, stage.node(name)) for name in NAMES])
    return graph.add_edge(START, "one")


async def memory(play: Play) -> Memory:
    return await Memory.of(play.redis, play.keys)


async def reader_of(play: Play, run_id: str) -> asyncio.Task[list[Event]]:
    """Somebody who reads a run from now on, and holds all of it that there is."""
    seen: list[Event] = []

    info = await play.client.get(run_id)
    task = asyncio.create_task(read(play.client, run_id, seen))
    await until(lambda: bool(seen) and seen[-1].id == info.last_event_id, "the reader has all that there is")
    return task


async def is_held(play: Play, name: str, run_id: str, times: int = 1) -> None:
    """Wait until a node is held, and what came before it has been saved and published."""
    await until(lambda: play.stage.entered[name] == times, f"{name} is held")
    await until(lambda: _has_begun(play, run_id, name), f"what {name} says is there")


async def _has_begun(play: Play, run_id: str, name: str) -> bool:
    events = await cast("Any", play.redis).xrange(play.keys.events(run_id))
    return any(b'"%s begins"' % name.encode() in fields[b"1"] for _, fields in events)


# --- within an attempt ------------------------------------------------------------------------------------------------


async def test_what_was_published_is_published_again_under_the_same_ids(play: Play, stage: Stage) -> None:
    stage.hold("one", "two")
    await play.start_worker(chain(stage).compile())
    run = await play.client.enqueue("play", HI, stream_mode=MODES)
    await is_held(play, "one", run.run_id)
    before = await memory(play)
    stage.open("one")
    await is_held(play, "two", run.run_id)
    reader = await reader_of(play, run.run_id)

    await before.put_back()
    stage.open("two")

    events = await reader
    assert await play.events(run.run_id) == events
    assert [event.id for event in events] == [f"1-{seq}" for seq in range(len(events))]
    check(events, await play.client.result(run.run_id))
    assert stage.begun == Counter(NAMES)


class Parts(TypedDict, total=False):
    first: str
    second: str
    third: str


async def test_what_is_saved_afterwards_is_whole(play: Play, stage: Stage) -> None:
    """A step saves what is new with it; what was saved before it, Redis has lost."""
    stage.hold("second", "third")
    for_state: list[Parts] = []

    def part(name: str) -> Any:
        async def run(state: Parts) -> Parts:
            if name == "third":
                for_state.append(state)
            get_stream_writer()(f"{name} begins")
            await stage.wait(name)
            return cast("Parts", {name: f"{name}: {LONG}"})

        return run

    graph = StateGraph(Parts).add_sequence([(name, part(name)) for name in ("first", "second", "third")])
    compiled = graph.add_edge(START, "first").compile()
    await play.start_worker(compiled)
    before_claim = None
    run = await play.client.enqueue("play", {}, stream_mode="custom", durability="sync")
    await until(lambda: stage.entered["second"] == 1, "the first step has been saved")
    before_claim = await _without_checkpoints(play, run.run_id)
    await before_claim.put_back()
    stage.open("second")
    await until(lambda: stage.entered["third"] == 1, "the second step has been saved")
    await play.start_worker(compiled)
    await play.lose(run.run_id)
    stage.open("third")

    assert set(await play.client.result(run.run_id)) == {"first", "second", "third"}
    assert for_state == [{name: f"{name}: {LONG}" for name in ("first", "second")}] * 2


async def _without_checkpoints(play: Play, run_id: str) -> Memory:
    """What Redis would know had it lost the first step and its checkpoint, but for the claim."""
    redis = cast("Any", play.redis)
    copy = await memory(play)
    await redis.delete(play.keys.checkpoints(run_id), play.keys.checkpoint_index(run_id))
    await redis.zrem(play.keys.checkpointed, run_id)
    await redis.delete(play.keys.events(run_id))
    await redis.xadd(play.keys.events(run_id), {"1": '{"m":"attempt","d":{"attempt":1,"worker":"w","at":0}}'}, id="1-0")
    await redis.expire(play.keys.events(run_id), 60)
    await redis.hset(play.keys.run(run_id), "seq", 0)
    changed = await memory(play)
    await copy.put_back()
    return changed


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_nothing_is_saved_before_the_events_that_led_to_it_are_there_again(
    play: Play, stage: Stage, *, elsewhere: bool
) -> None:
    """Then the worker dies: what it has saved must not be more than what the stream has."""
    stage.hold("one", "two", "three")
    saver = InMemorySaver() if elsewhere else None
    graph = chain(stage)
    graph.add_node("silent", lambda state: {"steps": ["silent"]}).add_edge("three", "silent")
    await play.start_worker(graph.compile(checkpointer=saver))
    run = await play.client.enqueue("play", HI, stream_mode=["messages", "custom"], durability="sync")
    await is_held(play, "one", run.run_id)
    before = await memory(play)
    stage.open("one")
    await is_held(play, "two", run.run_id)
    reader = await reader_of(play, run.run_id)

    await before.put_back()
    stage.open("two")
    await is_held(play, "three", run.run_id)
    await play.start_worker(graph.compile(checkpointer=saver))
    await play.lose(run.run_id)
    stage.open("three")

    events = await reader
    assert await play.events(run.run_id) == events
    result = await play.client.result(run.run_id)
    assert texts(standing(events)) == spoken(result["messages"])
    assert {name: stage.begun[name] for name in NAMES} == {"one": 1, "two": 1, "three": 2}


async def test_what_is_not_kept_any_more_leaves_a_gap_that_readers_are_told_of(
    play: Play, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runstream_worker.outbox._KEPT_EVENTS", 3)
    stage.hold("one", "two")
    await play.start_worker(chain(stage).compile())
    run = await play.client.enqueue("play", HI, stream_mode=MODES)
    await is_held(play, "one", run.run_id)
    before, known = await memory(play), await play.client.get(run.run_id)
    stage.open("one")
    await is_held(play, "two", run.run_id)
    whole = await reader_of(play, run.run_id)

    await before.put_back()
    stage.open("two")

    events = await whole
    check(events, await play.client.result(run.run_id))
    late = await play.events(run.run_id)
    (gap,) = [event for event in late if event.mode == "gap"]
    assert gap.data["after"] == known.last_event_id
    at = late.index(gap)
    assert late[:at] == events[:at]
    # What refers to a message that is gone lacks what was said with it; later messages are whole.
    assert [event.id for event in late[at + 1 :]] == [event.id for event in events[at - len(late) + 1 :]]
    third = stage_text(events, "three")
    assert third
    assert stage_text(late, "three") == third


def stage_text(events: list[Event], node: str) -> dict[str, str]:
    """What a node has said, by message."""
    return texts([event for event in events if event.mode == "messages" and _node(event) == node])


def _node(event: Event) -> str | None:
    node: str | None = event.data[1].get("langgraph_node")
    return node


# --- claims -----------------------------------------------------------------------------------------------------------


async def test_a_worker_that_gets_its_own_attempt_again_goes_on_with_it(play: Play, stage: Stage) -> None:
    stage.hold("two")
    run = await play.client.enqueue("play", HI, stream_mode=MODES)
    before = await memory(play)
    await play.start_worker(chain(stage).compile())
    await is_held(play, "two", run.run_id)
    reader = await reader_of(play, run.run_id)

    await before.put_back()
    await until(lambda: _is_running(play, run.run_id), "the run has been claimed again")
    stage.open("two")

    events = await reader
    check(events, await play.client.result(run.run_id))
    assert stage.begun == Counter(NAMES)
    # But for the attempt's own event, which says when it was claimed.
    assert (await play.events(run.run_id))[1:] == events[1:]
    assert (await play.client.get(run.run_id)).holders == []


@pytest.mark.parametrize("first", ["heartbeat", "event", "checkpoint", "end"])
async def test_whoever_notices_first_that_the_claim_was_lost_the_attempt_goes_on(
    play: Play, stage: Stage, first: str
) -> None:
    """Nobody finds the run in its queue: the attempt takes it back by itself, and no order of events decides."""
    speaks = first in ("heartbeat", "event")

    async def waiting(state: Story) -> Story:
        stage.begun["held"] += 1
        get_stream_writer()("held begins")
        await stage.wait("held")
        return {"steps": ["held"]}

    graph = StateGraph(Story).add_node("held", stage.node("held") if speaks else waiting).add_edge(START, "held")
    modes: Any = MODES if speaks else "custom"
    stage.hold("held")
    run = await play.client.enqueue("play", HI, stream_mode=modes, durability="sync")
    before = (await memory(play)).without(play.keys.queue("play"), play.keys.bell("play"))
    interval = 0.05 if first == "heartbeat" else 20.0
    compiled = graph.compile(checkpointer=False if first == "end" else None)
    await play.start_worker(compiled, beat_interval=interval, lease=60.0)
    await is_held(play, "held", run.run_id)
    reader = await reader_of(play, run.run_id)

    await before.put_back()
    if first == "heartbeat":
        await until(lambda: _is_running(play, run.run_id), "the attempt has taken its run back")
    stage.open("held")

    events = await reader
    if speaks:
        check(events, await play.client.result(run.run_id))
    assert stage.begun == {"held": 1}
    assert (await play.events(run.run_id))[1:] == events[1:]
    info = await play.client.get(run.run_id)
    assert (info.attempt, info.status, info.holders) == (1, Status.SUCCESS, [])


async def test_a_worker_executes_nothing_under_a_number_that_it_has_used(
    play: Play, stage: Stage, redis_url: str, namespace: str
) -> None:
    """Redis has forgotten a whole attempt, end included, of which a slow reader has the beginning."""
    run = await play.client.enqueue("play", HI, stream_mode=MODES)
    before = await memory(play)
    stage.hold("one")
    await play.start_worker(chain(stage).compile())
    fold = Fold()
    async with Client(redis_url, settings=ClientSettings(namespace=namespace, read_buffer=1)) as client:
        slow = client.tail(run.run_id)
        await is_held(play, "one", run.run_id)
        while not fold.messages:
            fold.apply(await anext(slow))
        stage.open("one")
        await play.events(run.run_id)

        await before.put_back()
        await until(lambda: _is_attempt(play, run.run_id, 2), "the run is executed under another number")

        result = await play.client.result(run.run_id)
        async for event in slow:
            fold.apply(event)
    assert {message["id"]: message["content"] for message in fold.messages} == spoken(result["messages"])
    assert stage.begun == dict.fromkeys(NAMES, 2)
    info = await play.client.get(run.run_id)
    assert (info.attempt, info.failures) == (2, 0)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_run_whose_claim_was_lost_is_executed_again_under_another_number(
    play: Play, stage: Stage, *, elsewhere: bool
) -> None:
    """Another worker has claimed it, as the same attempt; readers have some of what the first has said."""
    saver = InMemorySaver() if elsewhere else None
    stage.hold("two")
    run = await play.client.enqueue("play", HI, stream_mode=MODES)
    before = await memory(play)
    await play.start_worker(chain(stage).compile(checkpointer=saver), concurrency=1)
    await is_held(play, "two", run.run_id)
    reader = await reader_of(play, run.run_id)

    # It waits already: the first one says soon that it has the run, and then the run goes on from what it has saved.
    await play.start_worker(chain(stage).compile(checkpointer=saver))
    await before.put_back()
    await until(lambda: _is_attempt(play, run.run_id, 2), "the run is executed under another number")
    stage.open("two")

    result = await play.client.result(run.run_id)
    check(await play.events(run.run_id), result)
    fold = Fold()
    for event in await reader:
        fold.apply(event)
    assert {message["id"]: message["content"] for message in fold.messages} == spoken(result["messages"])
    assert (fold.status, fold.complete, fold.values["steps"]) == (Status.SUCCESS, True, list(NAMES))
    info = await play.client.get(run.run_id)
    assert all(holder.cause == "lost" for holder in info.holders)


async def test_what_a_checkpointer_elsewhere_has_outlived_is_gone_on_from(play: Play, stage: Stage) -> None:
    """Redis has lost claim and events, and nobody else has claimed the run: its own worker is the one that does."""
    stage.hold("two")
    run = await play.client.enqueue("play", HI, stream_mode=MODES)
    before = await memory(play)
    await play.start_worker(chain(stage).compile(checkpointer=InMemorySaver()), concurrency=1)
    await is_held(play, "two", run.run_id)
    reader = await reader_of(play, run.run_id)

    await before.put_back()
    await until(lambda: _is_attempt(play, run.run_id, 2), "the run is executed under another number")
    stage.open("two")

    result = await play.client.result(run.run_id)
    # What was saved does not run again; of what it had published, the messages are published again.
    assert stage.begun == Counter({"one": 1, "two": 2, "three": 1})
    assert [message["type"] for message in result["messages"]].count("human") == 1
    for events in (await reader, await play.events(run.run_id)):
        fold = Fold()
        for event in events:
            fold.apply(event)
        assert {message["id"]: message["content"] for message in fold.messages} == spoken(result["messages"])
        assert fold.complete


async def _is_running(play: Play, run_id: str) -> bool:
    return (await play.client.get(run_id)).status is Status.RUNNING


async def _is_attempt(play: Play, run_id: str, number: int) -> bool:
    return (await play.client.get(run_id)).attempt >= number


# --- ends and beginnings ----------------------------------------------------------------------------------------------


async def test_a_run_whose_end_was_lost_ends_again(play: Play, stage: Stage) -> None:
    stage.hold("three")
    await play.start_worker(chain(stage).compile())
    run = await play.client.enqueue("play", HI, stream_mode=MODES)
    await is_held(play, "three", run.run_id)
    before = await memory(play)
    stage.open("three")
    first = await play.events(run.run_id)

    await before.put_back()
    await play.lose(run.run_id)

    check(await play.events(run.run_id), await play.client.result(run.run_id))
    assert {name: stage.begun[name] for name in NAMES} == {"one": 1, "two": 1, "three": 2}
    # Who has seen the first end goes on behind it, and sees what has become of the run.
    later = [event async for event in play.client.tail(run.run_id, after=first[-2].id)]
    assert (later[0].id, later[-1].data["status"]) == ("2-0", "success")
    fold = Fold()
    for event in [*first[:-1], *later]:
        fold.apply(event)
    result = await play.client.result(run.run_id)
    assert {message["id"]: message["content"] for message in fold.messages} == spoken(result["messages"])


@pytest.mark.parametrize("all_of_it", [False, True])
async def test_a_run_that_was_lost_with_its_enqueue_is_gone_for_all(
    play: Play, stage: Stage, redis_url: str, namespace: str, *, all_of_it: bool
) -> None:
    before = await memory(play)
    stage.hold("two")
    await play.start_worker(chain(stage).compile(), concurrency=1)
    settings = ClientSettings(namespace=namespace, probe_interval=0.05)
    async with Client(redis_url, settings=settings) as client:
        run = await client.enqueue("play", HI, stream_mode=MODES, idempotency_key="k")
        await is_held(play, "two", run.run_id)
        seen: list[Event] = []
        reader = asyncio.create_task(read(client, run.run_id, seen))
        await until(lambda: client.tails_watching == 1, "the reader waits for news")
        if all_of_it:
            keys = [key async for key in play.redis.scan_iter(f"*{play.keys.tag}*")]
            await cast("Any", play.redis).delete(*keys)
        else:
            await before.put_back()
        with pytest.raises(RunNotFound):
            await reader
        assert seen
        # Its worker lets go of it, and takes the next: here the same, enqueued again by who has had no answer.
        stage.open("two")
        again = await client.enqueue("play", HI, stream_mode=MODES, idempotency_key="k")
        assert again.is_new
        check([event async for event in client.tail(again.run_id)], await client.result(again.run_id))
