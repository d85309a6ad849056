"""A worker is killed, falls asleep, or leaves: its runs go on elsewhere, nothing is lost and nothing is twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.support.history import check_history, standing, texts
from tests.support.processes import Processes, RunningWorker
from tests.support.waiting import until

from runstream import Client, Event, RunLost, Status
from runstream.keys import Keys
from runstream.model import EventId

GRAPHS = """
import asyncio
from pathlib import Path
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langgraph.graph import START, MessagesState, StateGraph

class Model(BaseChatModel):
    topic: str

    @property
    def _llm_type(self):
        return "counting"

    def _generate(self, *args, **kwargs):
        raise NotImplementedError

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        for number in range(20):
            while self.topic == "write" and number == 10 and not Path("go").exists():
                await asyncio.sleep(0.01)
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"{self.topic}{number} "))

def node(topic):
    async def speak(state):
        return {"messages": [await Model(topic=topic).ainvoke(state["messages"])]}
    return speak

def graph_of(**options):
    topics = ("plan", "write", "check")
    steps = [(topic, node(topic)) for topic in topics]
    return StateGraph(MessagesState).add_sequence(steps).add_edge(START, "plan").compile(**options)

kept = graph_of()
unkept = graph_of(checkpointer=False)
"""
TOPICS = ("plan", "write", "check")
TOKENS = {topic: [f"{topic}{number} " for number in range(20)] for topic in TOPICS}
HI = {"messages": [{"role": "user", "content": "hi", "id": "human-1"}]}


@pytest.fixture
async def cli(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        processes.write("graphs.py", GRAPHS)
        yield processes


async def start(cli: Processes, *options: str) -> RunningWorker:
    """A worker that has both graphs."""
    return await cli.worker("kept=graphs.py:kept", "unkept=graphs.py:unkept", *options)


async def bystander(cli: Processes) -> RunningWorker:
    """A worker that has neither, and so only looks after what others leave."""
    return await cli.worker("other=graphs.py:kept")


@dataclass
class Watched:
    """A run, and what a reader has seen of it so far."""

    client: Client
    run_id: str
    events: list[Event] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    async def read(self) -> None:
        async for event in self.client.tail(self.run_id):
            self.events.append(event)

    async def ended(self) -> list[Event]:
        """All events, once there are no more; a reader that comes now gets the same."""
        assert self.task is not None
        await self.task
        assert [event async for event in self.client.tail(self.run_id)] == self.events
        check_history(self.events)
        return self.events

    @property
    def attempts(self) -> list[dict[str, Any]]:
        return [event.data for event in self.events if event.mode == "attempt"]

    def is_writing(self, attempt: int = 1) -> bool:
        """Whether an attempt is in the middle of the second step."""
        return any(
            EventId.of(event.id).attempt == attempt
            and event.mode == "messages"
            and event.data[0]["content"] == "write9 "
            for event in self.events
        )


@pytest.fixture
async def watch(client: Client) -> AsyncIterator[Callable[..., Any]]:
    """Enqueues a run and reads it."""
    tasks: list[asyncio.Task[None]] = []

    async def enqueue(graph: str, **options: Any) -> Watched:
        run = await client.enqueue(graph, HI, **{"stream_mode": "messages", **options})
        watched = Watched(client, run.run_id)
        watched.task = asyncio.create_task(watched.read())
        tasks.append(watched.task)
        return watched

    yield enqueue
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def check_text(watched: Watched) -> list[Event]:
    """What a reader holds in the end is what the run has saved, each token once; gives what stands of the stream."""
    held = standing(await watched.ended())
    question, *answers = (await watched.client.result(watched.run_id))["messages"]
    assert question["id"] == "human-1"
    assert texts(held) == {answer["id"]: answer["content"] for answer in answers}
    assert [event.data[0]["content"] for event in held] == [token for topic in TOPICS for token in (*TOKENS[topic], "")]
    return held


def attempts_of(events: list[Event]) -> dict[str, set[int]]:
    """Which attempts have published what each node has said."""
    return {
        topic: {EventId.of(event.id).attempt for event in events if event.data[1]["langgraph_node"] == topic}
        for topic in TOPICS
    }


# --- killed -----------------------------------------------------------------------------------------------------------


async def test_the_runs_of_a_killed_worker_go_on_elsewhere(
    cli: Processes, client: Client, watch: Callable[..., Any]
) -> None:
    victim = await start(cli)
    runs = [await watch("kept") for _ in range(5)]
    await until(lambda: all(run.is_writing() for run in runs), "all runs are in the middle of their second step")
    heir = await start(cli)

    victim.command.kill()
    await until(lambda: all(run.is_writing(2) for run in runs), "all runs are in that step again")
    cli.write("go", "")

    for run in runs:
        held = await check_text(run)
        # The step that had ended stays; the one that had not is said again, in whole.
        assert attempts_of(held) == {"plan": {1}, "write": {2}, "check": {2}}
        first, second = run.attempts
        assert (first["worker"], second["worker"]) == (victim.worker_id, heir.worker_id)
        assert (second["left"], bool(second["checkpoint"])) == ("lost", True)
        assert [task["name"] for task in second["voids"]["tasks"]] == ["write"]
        info = await client.get(run.run_id)
        assert (info.status, info.attempt) == (Status.SUCCESS, 2)
        assert [(each.attempt, each.worker, each.cause) for each in info.holders] == [(1, victim.worker_id, "lost")]


async def test_records_of_a_killed_workers_task_are_void(
    cli: Processes, client: Client, watch: Callable[..., Any]
) -> None:
    victim = await start(cli)
    run = await watch("kept", stream_mode=["messages", "events"])
    await until(run.is_writing, "the run is in the middle of its second step")
    await start(cli)

    victim.command.kill()
    await until(lambda: run.is_writing(2), "it is in that step again")
    cli.write("go", "")

    held = standing(await run.ended())
    answers = (await client.result(run.run_id))["messages"][1:]
    assert texts([event for event in held if event.mode == "messages"]) == {
        answer["id"]: answer["content"] for answer in answers
    }
    records = [event for event in held if event.mode == "events"]
    tokens = [event.data["data"]["chunk"]["content"] for event in records if _is_token(event)]
    assert tokens == [token for topic in TOPICS for token in (*TOKENS[topic], "")]
    said = [event.data["data"]["output"] for event in records if event.data["event"] == "on_chat_model_end"]
    assert [message["id"] for message in said] == [answer["id"] for answer in answers]
    (void,) = [task["id"] for attempt in run.attempts for task in (attempt.get("voids") or {}).get("tasks", ())]
    gone = [event for event in run.events if event.task == void and EventId.of(event.id).attempt == 1]
    assert {event.mode for event in gone} == {"messages", "events"}
    assert not {event.id for event in gone} & {event.id for event in held}


def _is_token(event: Event) -> bool:
    return bool(event.data["event"] == "on_chat_model_stream")


async def test_the_next_run_of_a_thread_waits_for_the_one_that_goes_on(
    cli: Processes, client: Client, watch: Callable[..., Any]
) -> None:
    victim = await start(cli)
    first = await watch("kept", thread_id="thread")
    await until(first.is_writing, "the first run is in its second step")
    second = await client.enqueue("kept", {"messages": ["and?"]}, stream_mode="messages", thread_id="thread")
    await start(cli)

    victim.command.kill()
    await until(lambda: first.is_writing(2), "it is there again")
    assert (await client.get(second.run_id)).status is Status.QUEUED
    cli.write("go", "")

    await check_text(first)
    messages = (await client.result(second.run_id))["messages"]
    assert [message["type"] for message in messages] == ["human", "ai", "ai", "ai"] * 2
    before, after = await client.get(first.run_id), await client.get(second.run_id)
    assert before.ended_at is not None
    assert after.started_at is not None
    assert after.started_at >= before.ended_at


async def test_a_run_that_has_killed_all_its_workers_is_lost(
    cli: Processes, client: Client, watch: Callable[..., Any], redis: Redis, namespace: str
) -> None:
    await bystander(cli)
    run = await watch("kept", max_attempts=2)
    victims = []
    for attempt in (1, 2):
        victim = await start(cli)
        await until(lambda attempt=attempt: run.is_writing(attempt), "the run is in its second step")  # type: ignore[misc]
        victim.command.kill()
        victims.append(victim.worker_id)

    told = (
        rf"lost: WorkerLost: the lease of worker {victims[1]} expired.*; held by {victims[0]} \(lost\), {victims[1]} "
    )
    with pytest.raises(RunLost, match=told) as lost:
        await client.result(run.run_id)
    assert [(each.attempt, each.worker, each.cause) for each in lost.value.info.holders] == [
        (1, victims[0], "lost"),
        (2, victims[1], "lost"),
    ]
    events = await run.ended()
    assert (events[-1].id, events[-1].data["after"]) == ("3-0", events[-2].id)
    assert await redis.zrange(Keys(namespace).dead, 0, -1) == [run.run_id.encode()]


async def test_without_checkpoints_the_run_of_a_killed_worker_is_lost(
    cli: Processes, client: Client, watch: Callable[..., Any]
) -> None:
    victim = await start(cli)
    run = await watch("unkept")
    await until(run.is_writing, "the run is in its second step")
    await start(cli)

    victim.command.kill()

    with pytest.raises(RunLost, match="NothingToGoOnFrom: graph 'unkept' keeps no checkpoints to go on from"):
        await client.result(run.run_id)
    events = await run.ended()
    assert (events[-1].id, events[-1].data["after"]) == ("2-0", events[-2].id)


@pytest.mark.parametrize("says", ["the run", "the worker"])
async def test_without_checkpoints_a_restartable_run_starts_over(
    cli: Processes, client: Client, watch: Callable[..., Any], says: str
) -> None:
    options = ["--restartable=unkept"] if says == "the worker" else []
    victim = await start(cli, *options)
    run = await watch("unkept", restartable=says == "the run")
    await until(run.is_writing, "the run is in its second step")
    await start(cli, *options)

    victim.command.kill()
    await until(lambda: run.is_writing(2), "it is there again")
    cli.write("go", "")

    held = await check_text(run)
    assert attempts_of(held) == {"plan": {2}, "write": {2}, "check": {2}}
    _, second = run.attempts
    assert (second["left"], second["checkpoint"], second["voids"]["all"]) == ("lost", None, True)


# --- asleep -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wakes", ["while another goes on", "when the run has ended"])
async def test_a_worker_that_wakes_up_too_late_adds_nothing(
    cli: Processes, client: Client, watch: Callable[..., Any], wakes: str
) -> None:
    sleeper = await start(cli)
    run = await watch("kept")
    await until(run.is_writing, "the run is in its second step")
    heir = await start(cli)

    sleeper.command.send(signal.SIGSTOP)
    await until(lambda: run.is_writing(2), "another is in that step again")
    # Both go on with it from here: who was asleep, too, has tokens to publish and results to save.
    cli.write("go", "")
    if wakes == "when the run has ended":
        await run.ended()
    sleeper.command.send(signal.SIGCONT)

    await until(lambda: "taken from this worker" in sleeper.command.err, "the sleeper has let go of the run")
    held = await check_text(run)
    assert attempts_of(held) == {"plan": {1}, "write": {2}, "check": {2}}
    assert [attempt["worker"] for attempt in run.attempts] == [sleeper.worker_id, heir.worker_id]
    # It takes runs again.
    heir.command.terminate()
    assert (await heir.command.ended()).code == 0
    again = await watch("kept")
    await check_text(again)
    assert [attempt["worker"] for attempt in again.attempts] == [sleeper.worker_id]


# --- told to leave ----------------------------------------------------------------------------------------------------


async def test_a_worker_that_leaves_gives_its_runs_back_between_two_steps(
    cli: Processes, client: Client, watch: Callable[..., Any]
) -> None:
    leaver = await start(cli)
    # A planned hand-over costs no attempt: these have but one.
    runs = [await watch("kept", max_attempts=1) for _ in range(5)]
    await until(lambda: all(run.is_writing() for run in runs), "all runs are in their second step")
    heir = await start(cli)

    leaver.command.terminate()
    await until(lambda: "for 5 running runs" in leaver.command.err, "the worker drains")
    cli.write("go", "")

    for run in runs:
        held = await check_text(run)
        assert attempts_of(held) == {"plan": {1}, "write": {1}, "check": {2}}
        _, second = run.attempts
        assert (second["worker"], second["left"]) == (heir.worker_id, "drained")
        assert second["voids"] == {"tasks": [], "events": [], "count": 0}
        info = await client.get(run.run_id)
        assert [(each.worker, each.cause) for each in info.holders] == [(leaver.worker_id, "drained")]
        assert info.started_at is not None
        assert (info.started_at - info.holders[0].ended_at).total_seconds() < 1
    assert (await leaver.command.ended()).code == 0


async def test_a_worker_that_is_told_again_to_leave_cuts_its_runs_off(
    cli: Processes, client: Client, watch: Callable[..., Any]
) -> None:
    leaver = await start(cli)
    runs = [await watch("kept", max_attempts=1) for _ in range(5)]
    await until(lambda: all(run.is_writing() for run in runs), "all runs are in their second step")
    heir = await start(cli)

    leaver.command.terminate()
    await until(lambda: "for 5 running runs" in leaver.command.err, "the worker drains")
    leaver.command.terminate()
    assert (await leaver.command.ended()).code == 0
    await until(lambda: all(run.is_writing(2) for run in runs), "all runs are in that step again")
    cli.write("go", "")

    for run in runs:
        held = await check_text(run)
        assert attempts_of(held) == {"plan": {1}, "write": {2}, "check": {2}}
        _, second = run.attempts
        assert (second["worker"], second["left"]) == (heir.worker_id, "drained")
        assert [task["name"] for task in second["voids"]["tasks"]] == ["write"]
        info = await client.get(run.run_id)
        assert info.started_at is not None
        assert (info.started_at - info.holders[0].ended_at).total_seconds() < 1
