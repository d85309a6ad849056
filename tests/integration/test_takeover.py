"""A run whose worker loses it goes on elsewhere, from what was saved: nothing is lost, nothing is there twice."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt
from redis.asyncio import Redis
from tests.support.proxy import Proxy
from tests.support.stage import Play, Stage, Story, spoken, standing, texts
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, Event, RunLost, RunStopped, Status
from runstream.model import EventId, StreamMode

MODES: list[StreamMode] = ["messages", "updates", "values", "custom", "tasks", "checkpoints"]
HI: dict[str, Any] = {"messages": [{"type": "human", "content": "hi", "id": "h"}], "steps": []}


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def play(client: Client, workers: Workers, redis: Redis, namespace: str, stage: Stage) -> Play:
    return Play(client, workers, redis, namespace, stage)


def chain(stage: Stage) -> Any:
    graph = StateGraph(Story).add_sequence([(name, stage.node(name)) for name in ("one", "two", "three")])
    return graph.add_edge(START, "one")


def parallel(stage: Stage) -> Any:
    graph = StateGraph(Story).add_node("last", stage.node("last"))
    for name in ("quick", "slow"):
        graph.add_node(name, stage.node(name)).add_edge(START, name)
    return graph.add_edge(["quick", "slow"], "last")


def map_reduce(stage: Stage) -> Any:
    graph = StateGraph(Story).add_node("each", stage.node("each")).add_node("last", stage.node("last"))
    graph.add_conditional_edges(START, lambda state: [Send("each", {"item": n}) for n in range(3)], ["each"])
    return graph.add_edge("each", "last")


def nested(stage: Stage) -> Any:
    inner = StateGraph(Story).add_sequence([(name, stage.node(name)) for name in ("in1", "in2")]).add_edge(START, "in1")
    outer = StateGraph(Story).add_node("sub", inner.compile()).add_node("last", stage.node("last"))
    return outer.add_edge(START, "sub").add_edge("sub", "last")


def called(stage: Stage) -> Any:
    """A subgraph that a node calls, beside what the node says itself."""
    inner = StateGraph(Story).add_sequence([(name, stage.node(name)) for name in ("in1", "in2")]).add_edge(START, "in1")
    compiled = inner.compile()
    before = stage.node("before")

    async def sub(state: Story) -> Story:
        said: Story = await before(state)
        found = cast("Story", await compiled.ainvoke({"messages": [], "steps": []}))
        return {"messages": said["messages"] + found["messages"], "steps": said["steps"] + found["steps"]}

    return (
        StateGraph(Story)
        .add_node("sub", sub)
        .add_node("last", stage.node("last"))
        .add_edge(START, "sub")
        .add_edge("sub", "last")
    )


PLACES: list[tuple[Callable[[Stage], Any], str, list[str], list[str]]] = [
    # graph, where the worker loses the run, what runs once, what runs twice
    (chain, "one", ["two", "three"], ["one"]),
    (chain, "two", ["one", "three"], ["two"]),
    (chain, "three", ["one", "two"], ["three"]),
    (parallel, "slow", ["quick", "last"], ["slow"]),
    (map_reduce, "each1", ["last"], []),
    (nested, "in1", ["in2", "last"], ["in1"]),
    (nested, "in2", ["in1", "last"], ["in2"]),
    (called, "in2", ["in1", "last"], ["before", "in2"]),
]


@pytest.mark.parametrize("durability", ["sync", "async"])
@pytest.mark.parametrize(
    ("build", "place", "once", "twice"), PLACES, ids=lambda value: getattr(value, "__name__", None)
)
async def test_what_was_saved_stays_and_the_rest_is_done_again(  # noqa: PLR0917 - pytest passes them by name
    build: Callable[[Stage], Any],
    place: str,
    once: list[str],
    twice: list[str],
    durability: Any,
    play: Play,
) -> None:
    stage = play.stage
    stage.hold(place)
    await play.start_worker(build(stage).compile())
    run = await play.client.enqueue("play", HI, stream_mode=MODES, subgraphs=True, durability=durability)
    await until(lambda: stage.entered[place] == 1, "the run is held")
    await until(lambda: _others_are_saved(play, run.run_id, build), "what runs beside it has been saved")
    await play.start_worker(build(stage).compile())

    await play.lose(run.run_id)
    await until(lambda: stage.entered[place] == 2, "the next attempt has come to the same place")
    stage.open(place)

    events = await play.events(run.run_id)
    check(events, await play.client.result(run.run_id), at_once=build in (parallel, map_reduce))
    assert {name: stage.begun[name] for name in once} == dict.fromkeys(once, 1)
    assert {name: stage.begun[name] for name in twice} == dict.fromkeys(twice, 2)
    info = await play.client.get(run.run_id)
    assert (info.attempt, [holder.cause for holder in info.holders]) == (2, ["lost"])


@pytest.mark.parametrize(
    ("modes", "subgraphs"), [([*MODES, "events"], True), (["events"], False)], ids=["all", "alone"]
)
@pytest.mark.parametrize(
    ("build", "place", "once", "twice"), PLACES, ids=lambda value: getattr(value, "__name__", None)
)
async def test_records_stand_and_fall_with_their_tasks(  # noqa: PLR0917 - pytest passes them by name
    build: Callable[[Stage], Any],
    place: str,
    once: list[str],
    twice: list[str],
    modes: list[StreamMode],
    subgraphs: bool,
    play: Play,
) -> None:
    stage = play.stage
    stage.hold(place)
    await play.start_worker(build(stage).compile())
    run = await play.client.enqueue("play", HI, stream_mode=modes, subgraphs=subgraphs)
    await until(lambda: stage.entered[place] == 1, "the run is held")
    await until(lambda: _others_are_saved(play, run.run_id, build), "what runs beside it has been saved")
    await play.start_worker(build(stage).compile())
    await play.lose(run.run_id)
    await until(lambda: stage.entered[place] == 2, "the next attempt has come to the same place")
    stage.open(place)

    events = await play.events(run.run_id)
    result = await play.client.result(run.run_id)
    if len(modes) > 1:
        check(events, result, at_once=build in (parallel, map_reduce))
    assert {name: stage.begun[name] for name in (*once, *twice)} == {
        **dict.fromkeys(once, 1),
        **dict.fromkeys(twice, 2),
    }
    records = [event for event in standing(events) if event.mode == "events"]
    said = [event.data["data"] for event in records if event.data["event"] == "on_chat_model_end"]
    assert sorted(data["output"]["content"] for data in said) == sorted(spoken(result["messages"]).values())
    begun = Counter(event.data["run_id"] for event in records if event.task and event.data["event"].endswith("_start"))
    ended = Counter(event.data["run_id"] for event in records if event.task and event.data["event"].endswith("_end"))
    assert begun == ended
    assert set(begun.values()) == {1}
    # The graph's own: each attempt begins, and one comes to its end.
    roots = [event for event in records if event.task is None]
    assert [(EventId.of(event.id).attempt, event.data["event"]) for event in roots] == [
        (1, "on_chain_start"),
        (2, "on_chain_start"),
        (2, "on_chain_end"),
    ]


async def test_a_worker_that_leaves_hands_over_between_two_steps_with_records_too(play: Play, stage: Stage) -> None:
    stage.hold("two")
    leaver = await play.start_worker(chain(stage).compile(), shutdown_grace=20.0)
    run = await play.client.enqueue("play", HI, stream_mode=[*MODES, "events"])
    await until(lambda: stage.entered["two"] == 1, "the run is held")
    leaving = asyncio.create_task(leaver.drain(20.0))
    await until(lambda: leaver.is_leaving, "the worker has been told to leave")
    await play.start_worker(chain(stage).compile())
    stage.open("two")
    await leaving

    events = await play.events(run.run_id)
    check(events, await play.client.result(run.run_id))
    assert standing(events) == [event for event in events if event.mode != "attempt"]
    begun = [event.data["name"] for event in events if event.mode == "events" and event.data["event"].endswith("start")]
    assert [name for name in begun if name in ("one", "two", "three")] == ["one", "two", "three"]


async def test_records_of_a_run_that_asks_and_is_answered_and_stopped(play: Play, stage: Stage) -> None:
    def build() -> Any:
        async def ask(state: Story) -> Story:
            return {"steps": [f"answer {interrupt('go on?')}"]}

        graph = StateGraph(Story).add_sequence([("ask", ask), ("two", stage.node("two"))])
        return graph.add_edge(START, "ask").compile()

    await play.start_worker(build())
    asked = await play.client.enqueue("play", HI, thread_id="t", stream_mode="events")
    assert (await play.client.wait(asked.run_id)).status is Status.INTERRUPTED
    stage.hold("two")
    command: Command[Any] = Command(resume="yes")
    run = await play.client.enqueue("play", command, thread_id="t", stream_mode="events")
    await until(lambda: stage.entered["two"] == 1, "the answer was taken")
    await play.client.stop(run.run_id)
    with pytest.raises(RunStopped):
        await play.client.wait(run.run_id)
    records = [event.data for event in await play.events(run.run_id) if event.mode == "events"]
    assert records[0]["data"] == {"input": {"graph": None, "update": None, "resume": "yes", "goto": []}}
    assert ("on_chain_end", "ask") in [(record["event"], record["name"]) for record in records]
    assert ("on_chain_end", "two") not in [(record["event"], record["name"]) for record in records]


async def _others_are_saved(play: Play, run_id: str, build: Callable[[Stage], Any]) -> bool:
    """Whether the results of what runs beside the held task are among the pending writes."""
    beside: dict[Callable[[Stage], Any], int] = {parallel: 1, map_reduce: 2}
    results = beside.get(build, 0)
    names = [name.split(b"\0") for name in await play.redis.zrange(play.keys.checkpoint_index(run_id), 0, -1)]
    newest = max((name[1] for name in names if name[0] == b"c"), default=b"")
    return len({name[2] for name in names if name[:2] == [b"w", newest]}) >= results


def check(events: list[Event], result: dict[str, Any], *, ends: str = "success", at_once: bool = False) -> None:
    """What is not void is the saved state, and each thing is there once.

    But for `custom` events of tasks that ran at once: of those none is missing.
    """
    assert [event.mode for event in events].count("end") == 1
    assert (events[-1].mode, events[-1].data["status"]) == ("end", ends)
    kept = standing(events)
    assert texts(kept) == spoken(result["messages"])
    assert [message["type"] for message in result["messages"]].count("human") == 1
    assert sorted(_steps_of_updates(kept)) == sorted(result["steps"])
    assert Counter(event.task for event in kept if _is_result(event)).most_common(1)[0][1] == 1
    shown = [
        (event.ns, event.data["config"]["configurable"]["checkpoint_id"])
        for event in kept
        if event.mode == "checkpoints"
    ]
    assert len(shown) == len(set(shown))
    roots = [event.data for event in kept if event.mode == "values" and not event.ns]
    assert len(roots[-1]["messages"]) == len(result["messages"])
    assert all(len(a["messages"]) <= len(b["messages"]) for a, b in itertools.pairwise(roots))
    begins = Counter(event.data for event in kept if event.mode == "custom")
    assert begins.keys() == {f"{step} begins" for step in result["steps"]}
    if not at_once:
        assert set(begins.values()) == {1}


def _is_result(event: Event) -> bool:
    return event.mode == "tasks" and "result" in event.data


def _steps_of_updates(kept: list[Event]) -> list[str]:
    """What the nodes that speak say that they have done; a subgraph's node says it again."""
    return [
        step
        for event in kept
        if event.mode == "updates"
        for name, update in event.data.items()
        if isinstance(update, dict) and name != "sub"
        for step in update.get("steps", ())
    ] + [
        step
        for event in kept
        if event.mode == "updates" and "sub" in event.data
        for step in event.data["sub"]["steps"]
        if step == "before"
    ]


async def test_a_worker_that_was_taken_for_dead_cannot_write_anything(play: Play, stage: Stage) -> None:
    stage.hold("two")
    await play.start_worker(chain(stage).compile())
    run = await play.client.enqueue("play", HI, stream_mode=MODES)
    await until(lambda: stage.entered["two"] == 1, "the run is held")
    await play.start_worker(chain(stage).compile())
    await play.lose(run.run_id)
    await until(lambda: stage.entered["two"] == 2, "both of them are at the same place")
    stage.open("two")
    events = await play.events(run.run_id)
    check(events, await play.client.result(run.run_id))


async def test_with_exit_the_run_starts_over_and_the_input_is_there_once(play: Play, stage: Stage) -> None:
    stage.hold("three")
    await play.start_worker(chain(stage).compile())
    run = await play.client.enqueue("play", HI, stream_mode=MODES, durability="exit", thread_id="t")
    await until(lambda: stage.entered["three"] == 1, "the run is held")
    await play.start_worker(chain(stage).compile())
    await play.lose(run.run_id)
    await until(lambda: stage.entered["three"] == 2, "the next attempt has come to the same place")
    stage.open("three")
    check(await play.events(run.run_id), await play.client.result(run.run_id))
    assert stage.begun["one"] == 2


async def test_a_later_run_of_a_thread_goes_on_from_its_own_state_only(play: Play, stage: Stage) -> None:
    """The thread has a checkpoint of an older run, with tasks of the same names: it is not taken for this run's."""
    await play.start_worker(chain(stage).compile())
    first = await play.client.invoke("play", HI, thread_id="t")
    stage.hold("one")
    second = {"messages": [{"type": "human", "content": "more", "id": "h2"}], "steps": []}
    run = await play.client.enqueue("play", second, stream_mode=MODES, thread_id="t")
    await until(lambda: stage.entered["one"] == 2, "the second run is held")
    await play.lose(run.run_id)
    await until(lambda: stage.entered["one"] == 3, "the next attempt has come to the same place")
    stage.open("one")
    result = await play.client.result(run.run_id)
    kept = standing(await play.events(run.run_id))
    said = spoken(result["messages"])
    assert [message["id"] for message in result["messages"]].count("h2") == 1
    assert texts(kept) == {key: text for key, text in said.items() if key not in spoken(first["messages"])}


async def test_an_answer_is_given_once_however_often_the_worker_is_lost(play: Play, stage: Stage) -> None:
    def build() -> Any:
        async def ask(state: Story) -> Story:
            return {"steps": [f"answer {interrupt('go on?')}"]}

        graph = StateGraph(Story).add_sequence([("one", stage.node("one")), ("ask", ask), ("two", stage.node("two"))])
        return graph.add_edge(START, "one").compile()

    await play.start_worker(build())
    asked = await play.client.enqueue("play", HI, thread_id="t", stream_mode=MODES)
    assert (await play.client.wait(asked.run_id)).status is Status.INTERRUPTED
    stage.hold("two")
    run = await play.client.enqueue(
        "play", Command(resume="yes", update={"steps": ["updated"]}), thread_id="t", stream_mode=MODES
    )
    for attempt in (1, 2):
        await until(lambda attempt=attempt: stage.entered["two"] == attempt, "the run is held")  # type: ignore[misc] # bound now
        await play.lose(run.run_id)
    await until(lambda: stage.entered["two"] == 3, "the third attempt has come to the same place")
    stage.open("two")
    result = await play.client.result(run.run_id)
    assert result["steps"] == ["one", "updated", "answer yes", "two"]
    assert texts(standing(await play.events(run.run_id))).items() <= spoken(result["messages"]).items()


async def test_a_command_that_was_lost_before_its_first_step_was_saved_is_given_again(play: Play, stage: Stage) -> None:
    def build() -> Any:
        async def ask(state: Story) -> Story:
            answer = interrupt("go on?")
            await stage.wait("answered")
            return {"steps": [f"answer {answer}"]}

        return StateGraph(Story).add_node("ask", ask).add_edge(START, "ask").compile()

    await play.start_worker(build())
    asked = await play.client.enqueue("play", HI, thread_id="t")
    assert (await play.client.wait(asked.run_id)).status is Status.INTERRUPTED
    stage.hold("answered")
    run = await play.client.enqueue("play", Command(resume="yes", update={"steps": ["updated"]}), thread_id="t")
    await until(lambda: stage.entered["answered"] == 1, "the run is held")
    await play.lose(run.run_id)
    await until(lambda: stage.entered["answered"] == 2, "the next attempt has come to the same place")
    stage.open("answered")
    assert (await play.client.result(run.run_id))["steps"] == ["updated", "answer yes"]


async def test_tasks_of_the_functional_api_that_have_ended_do_not_run_again(play: Play, stage: Stage) -> None:
    def build() -> Any:
        @task
        async def speak(name: str) -> list[Any]:
            said = await stage.node(name)({})
            return cast("list[Any]", said["messages"])

        @entrypoint()
        async def workflow(given: dict[str, Any]) -> dict[str, Any]:
            messages = [message for name in ("one", "two") for message in await speak(name)]
            return {"messages": messages}

        return workflow

    stage.hold("two")
    await play.start_worker(build())
    run = await play.client.enqueue("play", HI, stream_mode=MODES)
    await until(lambda: stage.entered["two"] == 1, "the run is held")
    await play.start_worker(build())
    await play.lose(run.run_id)
    await until(lambda: stage.entered["two"] == 2, "the next attempt has come to the same place")
    stage.open("two")
    result = await play.client.result(run.run_id)
    kept = standing(await play.events(run.run_id))
    assert texts(kept) == spoken(result["messages"])
    assert (stage.begun["one"], stage.begun["two"]) == (1, 2)
    assert sorted(event.data for event in kept if event.mode == "custom") == ["one begins", "two begins"]


async def test_a_graph_without_checkpoints_is_lost_with_its_worker(play: Play, stage: Stage) -> None:
    stage.hold("two")
    await play.start_worker(chain(stage).compile(checkpointer=False))
    run = await play.client.enqueue("play", HI, stream_mode=MODES)
    await until(lambda: stage.entered["two"] == 1, "the run is held")
    await play.lose(run.run_id)
    with pytest.raises(RunLost, match="keeps no checkpoints to go on from") as lost:
        await play.client.result(run.run_id)
    assert [holder.attempt for holder in lost.value.info.holders] == [1]
    stage.open("two")


@pytest.mark.parametrize("who", ["run", "worker"])
async def test_a_graph_without_checkpoints_starts_over_if_it_may(who: str, play: Play, stage: Stage) -> None:
    stage.hold("two")
    settings = {"restartable": frozenset({"play"})} if who == "worker" else {}
    await play.start_worker(chain(stage).compile(checkpointer=False), **settings)
    run = await play.client.enqueue("play", HI, stream_mode=["messages", "updates"], restartable=who == "run")
    await until(lambda: stage.entered["two"] == 1, "the run is held")
    await play.lose(run.run_id)
    await until(lambda: stage.entered["two"] == 2, "the next attempt has come to the same place")
    stage.open("two")
    result = await play.client.result(run.run_id)
    events = await play.events(run.run_id)
    attempt = next(event for event in events if event.id == "2-0")
    assert attempt.data["voids"]["all"] is True
    assert texts(standing(events)) == spoken(result["messages"])
    assert stage.begun["one"] == 2


async def test_the_last_attempt_ends_as_lost_and_says_who_had_the_run(play: Play, stage: Stage) -> None:
    stage.hold("one")
    runner = await play.start_worker(chain(stage).compile())
    run = await play.client.enqueue("play", HI, max_attempts=2)
    for attempt in (1, 2):
        await until(lambda attempt=attempt: stage.entered["one"] == attempt, "the run is held")  # type: ignore[misc] # bound now
        await play.lose(run.run_id)
    with pytest.raises(RunLost, match=runner.worker_id) as lost:
        await play.client.result(run.run_id)
    assert [(holder.attempt, holder.cause) for holder in lost.value.info.holders] == [(1, "lost"), (2, "lost")]
    stage.open("one")


async def test_readers_that_go_on_in_the_middle_see_the_same(play: Play, stage: Stage) -> None:
    stage.hold("two")
    await play.start_worker(chain(stage).compile())
    run = await play.client.enqueue("play", HI, stream_mode=MODES)
    reader = asyncio.create_task(play.events(run.run_id))
    await until(lambda: stage.entered["two"] == 1, "the run is held")
    await play.lose(run.run_id)
    await until(lambda: stage.entered["two"] == 2, "the next attempt has come to the same place")
    stage.open("two")
    live = await reader
    assert "gap" not in {event.mode for event in live}
    assert live == await play.events(run.run_id)
    for place in range(0, len(live), 5):
        after = [event async for event in play.client.tail(run.run_id, after=live[place].id)]
        assert after == live[place + 1 :]


async def test_a_worker_that_leaves_gives_its_runs_back_at_the_end_of_their_step(play: Play, stage: Stage) -> None:
    stage.hold("one")
    leaver = await play.start_worker(chain(stage).compile(), shutdown_grace=20.0)
    run = await play.client.enqueue("play", HI, stream_mode=MODES)
    await until(lambda: stage.entered["one"] == 1, "the run is held")
    leaving = asyncio.create_task(leaver.drain(20.0))
    await play.start_worker(chain(stage).compile())
    await until(lambda: leaver.is_leaving, "the worker has been told to leave")
    stage.open("one")
    await leaving
    events = await play.events(run.run_id)
    check(events, await play.client.result(run.run_id))
    second = next(event for event in events if event.id == "2-0")
    assert (second.data["left"], second.data["voids"]["count"]) == ("drained", 0)
    assert stage.begun == {"one": 1, "two": 1, "three": 1}
    info = await play.client.get(run.run_id)
    assert [holder.cause for holder in info.holders] == ["drained"]


async def test_a_step_that_outlasts_the_grace_time_is_done_again_elsewhere(play: Play, stage: Stage) -> None:
    stage.hold("two")
    leaver = await play.start_worker(chain(stage).compile())
    run = await play.client.enqueue("play", HI, stream_mode=MODES, max_attempts=1)
    await until(lambda: stage.entered["two"] == 1, "the run is held")
    leaving = asyncio.create_task(leaver.drain(0.05))
    await until(lambda: leaver.is_leaving, "the worker has been told to leave")
    await play.start_worker(chain(stage).compile())
    await leaving
    await until(lambda: stage.entered["two"] == 2, "the next attempt has come to the same place")
    stage.open("two")
    events = await play.events(run.run_id)
    check(events, await play.client.result(run.run_id))
    second = next(event for event in events if event.id == "2-0")
    assert second.data["left"] == "drained"
    assert [voided["name"] for voided in second.data["voids"]["tasks"]] == ["two"]


async def test_events_that_redis_has_lost_are_made_up_for_from_the_saved_state(
    play: Play, stage: Stage, tmp_path: Path
) -> None:
    """Redis comes back without the end of a message, its worker is gone; a checkpointer elsewhere has the message."""
    settings: dict[str, Any] = {"checkpointer_url": f"sqlite:///{tmp_path}/threads.db", "beat_interval": 0.05}
    graph = chain(stage).compile()
    stage.hold("two")
    async with Proxy(play.workers.redis_url) as proxy, Workers(proxy.url, play.workers.namespace) as doomed:
        await doomed.start({**settings, "lease": 30.0}, play=graph)
        run = await play.client.enqueue("play", HI, stream_mode=["messages", "updates"])
        await until(lambda: stage.entered["two"] == 1, "the run is held")
        await until(lambda: _is_saved(tmp_path, 2), "the first step has been saved")
        await proxy.take_away()

        entries = await play.redis.xrange(play.keys.events(run.run_id))
        first = next(entry_id for entry_id, fields in entries if b'"t":" no"' in fields[b"1"])
        gone = [entry_id for entry_id, _ in entries if EventId.of(entry_id.decode()) >= EventId.of(first.decode())]
        await play.redis.xdel(play.keys.events(run.run_id), *gone)
        last = EventId.of(first.decode()).seq - 1
        await cast("Any", play.redis).hset(play.keys.run(run.run_id), "seq", last)
        await play.start_worker(graph, **settings)
        await play.lose(run.run_id)
        await until(lambda: stage.entered["two"] == 2, "the next attempt has come to the same place")
        stage.open("two")
        result = await play.client.result(run.run_id)
        proxy.restore()
    assert stage.begun["one"] == 1
    assert texts(standing(await play.events(run.run_id))) == spoken(result["messages"])


def _is_saved(folder: Path, checkpoints: int) -> bool:
    """Whether the root graph has got so far."""
    with closing(sqlite3.connect(f"file:{folder}/threads.db?mode=ro", uri=True)) as database:
        (steps,) = database.execute("SELECT count(*) FROM checkpoints WHERE checkpoint_ns = ''").fetchone()
    return bool(steps > checkpoints)


async def test_nothing_is_saved_of_which_events_are_still_on_their_way_when_an_attempt_is_broken_off(
    play: Play, stage: Stage
) -> None:
    """A subgraph goes on while its events wait for Redis; it has begun to save a step when its worker leaves."""

    async def say_much(state: Story) -> Story:
        await stage.wait("first")
        for number in range(50):
            get_stream_writer()(number)
        return {"steps": ["first"]}

    async def second(state: Story) -> Story:
        await stage.wait("second")
        return {"steps": ["second"]}

    inner = StateGraph(Story).add_node("first", say_much).add_node("second", second)
    inner.add_edge(START, "first").add_edge("first", "second")
    graph = StateGraph(Story).add_node("sub", inner.compile()).add_edge(START, "sub").compile()
    stage.hold("first", "second")
    async with Proxy(play.workers.redis_url) as proxy, Workers(proxy.url, play.workers.namespace) as first:
        leaver = await first.start({"buffer_events": 2, "beat_interval": 0.05, "lease": 30.0}, play=graph)
        run = await play.client.enqueue("play", HI, stream_mode="custom", subgraphs=True)
        await until(lambda: stage.entered["first"] == 1, "the subgraph has begun")
        proxy.block()
        stage.open("first")
        await until(lambda: stage.entered["second"] == 1, "the subgraph has gone on")
        leaver.hurry()
        proxy.restore()
        await play.start_worker(graph)
        await until(lambda: stage.entered["second"] == 2, "the next attempt has come to the same place")
        stage.open("second")
        assert (await play.client.result(run.run_id))["steps"] == ["first", "second"]
    kept = standing(await play.events(run.run_id))
    assert [event.data for event in kept if event.mode == "custom"] == list(range(50))


async def test_a_checkpointer_that_is_away_gives_the_run_back(play: Play, stage: Stage) -> None:
    class Away(InMemorySaver):
        is_away = True

        async def aput(self, *args: Any, **kwargs: Any) -> Any:
            if self.is_away:
                raise sqlite3.OperationalError("database is locked")
            return await super().aput(*args, **kwargs)

    saver = Away()
    await play.start_worker(chain(stage).compile(checkpointer=saver))
    run = await play.client.enqueue("play", HI, stream_mode=MODES)
    await until(lambda: _has_left(play, run.run_id), "the run has been given back")
    saver.is_away = False
    events = await play.events(run.run_id)
    check(events, await play.client.result(run.run_id))
    assert {holder.cause for holder in (await play.client.get(run.run_id)).holders} == {"fault"}


async def _has_left(play: Play, run_id: str) -> bool:
    return bool((await play.client.get(run_id)).holders)


@pytest.mark.parametrize("kind", ["redis", "sqlite", "memory"])
async def test_a_rollback_takes_the_thread_back_to_before_the_run(
    kind: str, play: Play, stage: Stage, tmp_path: Path
) -> None:
    url = {"redis": "redis", "sqlite": f"sqlite:///{tmp_path}/threads.db", "memory": "memory://"}[kind]
    await play.start_worker(chain(stage).compile(), checkpointer_url=url)
    before = await play.client.invoke("play", HI, thread_id="t")
    stage.hold("two")
    more = {"messages": [{"type": "human", "content": "more", "id": "h2"}], "steps": []}
    run = await play.client.enqueue("play", more, thread_id="t")
    await until(lambda: stage.entered["two"] == 2, "the run is held")
    assert (await play.client.stop(run.run_id, action="rollback")).outcome == "stopping"
    with pytest.raises(RunStopped):
        await play.client.result(run.run_id)
    stage.open("two")
    again = {"messages": [{"type": "human", "content": "again", "id": "h3"}], "steps": []}
    after = await play.client.invoke("play", again, thread_id="t")
    assert [message["id"] for message in after["messages"][: len(before["messages"])]] == [
        message["id"] for message in before["messages"]
    ]
    assert [message["id"] for message in after["messages"] if message["type"] == "human"] == ["h", "h3"]


async def test_a_run_that_takes_anothers_place_goes_on_from_what_that_has_saved(play: Play, stage: Stage) -> None:
    stage.hold("two")
    await play.start_worker(chain(stage).compile())
    first = await play.client.enqueue("play", HI, thread_id="t")
    await until(lambda: stage.entered["two"] == 1, "the run is held")
    more = {"messages": [{"type": "human", "content": "more", "id": "h2"}], "steps": []}
    second = await play.client.enqueue("play", more, thread_id="t", multitask_strategy="interrupt")
    with pytest.raises(RunStopped, match="took its place"):
        await play.client.result(first.run_id)
    await until(lambda: stage.entered["two"] == 2, "the second run has come to the same place")
    stage.open("two")
    result = await play.client.result(second.run_id)
    assert result["steps"] == ["one", "one", "two", "three"]
    assert [message["id"] for message in result["messages"] if message["type"] == "human"] == ["h", "h2"]


async def test_a_run_that_takes_anothers_place_and_rolls_it_back(play: Play, stage: Stage) -> None:
    stage.hold("two")
    await play.start_worker(chain(stage).compile())
    first = await play.client.enqueue("play", HI, thread_id="t")
    await until(lambda: stage.entered["two"] == 1, "the run is held")
    more = {"messages": [{"type": "human", "content": "more", "id": "h2"}], "steps": []}
    second = await play.client.enqueue("play", more, thread_id="t", multitask_strategy="rollback")
    with pytest.raises(RunStopped, match="took its place"):
        await play.client.result(first.run_id)
    await until(lambda: stage.entered["two"] == 2, "the second run has come to the same place")
    stage.open("two")
    result = await play.client.result(second.run_id)
    assert result["steps"] == ["one", "two", "three"]
    assert [message["id"] for message in result["messages"] if message["type"] == "human"] == ["h2"]


async def test_runs_of_a_thread_wait_for_each_other_and_others_do_not(play: Play, stage: Stage) -> None:
    stage.hold("one")
    await play.start_worker(chain(stage).compile())
    runs = [await play.client.enqueue("play", HI, thread_id="t") for _ in range(3)]
    await until(lambda: stage.entered["one"] == 1, "the first is held")
    alone = await play.client.enqueue("play", HI)
    await until(lambda: stage.entered["one"] == 2, "the one of another thread is held, too")
    assert [(await play.client.get(run.run_id)).status for run in runs] == ["running", "queued", "queued"]
    stage.open("one")
    await play.client.gather([run.run_id for run in [*runs, alone]])
    infos = [await play.client.get(run.run_id) for run in runs]
    for earlier, later in itertools.pairwise(infos):
        assert earlier.ended_at is not None
        assert later.started_at is not None
        assert earlier.ended_at <= later.started_at


async def test_a_run_continues_one_that_ended_early(play: Play, stage: Stage) -> None:
    stage.hold("two")
    await play.start_worker(chain(stage).compile())
    first = await play.client.enqueue("play", HI, thread_id="t")
    await until(lambda: stage.entered["two"] == 1, "the run is held")
    await play.client.stop(first.run_id)
    with pytest.raises(RunStopped):
        await play.client.wait(first.run_id)
    stage.open("two")
    result = await play.client.invoke("play", HI, thread_id="t", continues=first.run_id)
    assert result["steps"] == ["one", "two", "three"]
    assert stage.begun["one"] == 1


@pytest.mark.parametrize("modes", [MODES, ["messages"]], ids=["all", "messages"])
@pytest.mark.parametrize("where", ["before", "after", "after_all", "compiled"])
async def test_a_breakpoint_is_not_passed_by_a_run_that_was_lost_at_it(
    where: str, modes: list[StreamMode], play: Play, stage: Stage
) -> None:
    """The worker died when the graph had stopped, and the run's end had not been written."""
    compiled: dict[str, Any] = {"interrupt_before": ["two"]} if where == "compiled" else {}
    stops: dict[str, dict[str, Any]] = {
        "before": {"interrupt_before": ["two"]},
        "after": {"interrupt_after": ["one"]},
        "after_all": {"interrupt_after": "*"},
    }
    options = stops.get(where, {})
    await play.start_worker(chain(stage).compile(**compiled))
    run = await play.client.enqueue("play", HI, stream_mode=modes, thread_id="t", **options)
    stopped = await play.client.wait(run.run_id)
    assert stopped.status is Status.INTERRUPTED
    first = await play.client.result(run.run_id)

    await play.unend(run.run_id)
    info = await play.client.wait(run.run_id)

    assert (info.status, info.attempt) == (Status.INTERRUPTED, 2)
    assert await play.client.result(run.run_id) == first
    events = await play.events(run.run_id)
    kept = standing(events)
    assert texts(kept) == spoken(first["messages"])
    assert [event.data for event in kept if event.mode == "updates" and "__interrupt__" in event.data] == (
        [{"__interrupt__": []}] if "updates" in modes else []
    )
    assert stage.begun == {"one": 1}
    result = await play.client.invoke("play", None, thread_id="t")
    assert result["steps"] == ["one", "two", "three"]
