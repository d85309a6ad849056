"""Gateways and workers are killed in the middle of many streams: clients end with everything, and everything once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.schema import StreamPart
from tests.support.gateways import (
    LONG,
    MODES,
    Fleet,
    Reading,
    all_go_on,
    answers,
    attempt_of,
    check_ids,
    folded,
    saved,
    with_ids,
)
from tests.support.history import check_history
from tests.support.processes import Processes
from tests.support.sdk_parts import first, human
from tests.support.waiting import until

from runstream import Client, Event, Status
from runstream.model import EventId

pytestmark = [
    pytest.mark.real_redis,
    pytest.mark.ours("its processes are started and killed here"),
    # The client says so when an answer that it waits for breaks off.
    pytest.mark.filterwarnings("ignore:Request failed, attempting reconnect:UserWarning"),
]
RUNS: Final = int(os.environ.get("RUNSTREAM_TEST_KILLED_RUNS", "25"))
"""Each is streamed by who created it and by one more reader; 50 and more for the whole proof."""
WAITING: Final = 5


@pytest.fixture
async def processes(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        yield processes


class Crowd:
    """Runs that go on until they are told to end, and all sorts of clients that follow them."""

    def __init__(self, fleet: Fleet, group: asyncio.TaskGroup) -> None:
        self._fleet = fleet
        self._group = group
        self._threads: dict[str, str] = {}  # by run
        self._read: list[tuple[str, Reading]] = []  # with the run
        self._awaited: list[tuple[str, asyncio.Task[Any]]] = []  # with the thread

    @property
    def run_ids(self) -> set[str]:
        return set(self._threads)

    @property
    def readings(self) -> list[Reading]:
        return [reading for _, reading in self._read]

    async def gather(self, runs: int) -> None:
        """Create the runs, and come back when all clients are in the middle of them."""
        created = await asyncio.gather(*(self._create() for _ in range(runs)))
        await self.all_are(lambda reading: bool(reading.parts), "all runs have begun", [each for _, each in created])
        for thread_id, reading in created:
            self._threads[reading.run_id] = thread_id
            self._read.append((reading.run_id, reading))
        for run_id, thread_id in self._threads.items():
            client = await self._fleet.client()
            joined = client.runs.join_stream(thread_id, run_id, last_event_id="-1")
            self._read.append((run_id, self._start(joined)))
        for run_id, thread_id in list(self._threads.items())[:WAITING]:
            await self._await(thread_id, partial(_join, run_id=run_id))
            await self._await((await client.threads.create())["thread_id"], self._wait)
        await self.all_are(lambda reading: reading.is_saying("write"), "all are in the middle")

    async def all_are(self, fact: Callable[[Reading], bool], what: str, readings: list[Reading] | None = None) -> None:
        """Wait until something is so for all readers."""
        await until(lambda: all(fact(reading) for reading in (readings or self.readings)), what, LONG)

    async def end(self) -> None:
        """Let the runs end, and wait until all readers are through."""
        self._fleet.file("go").touch()
        await self.all_are(lambda reading: reading.ended, "all streams have ended")

    async def _create(self) -> tuple[str, Reading]:
        client = await self._fleet.client()
        thread_id = (await client.threads.create())["thread_id"]
        stream = client.runs.stream(thread_id, "talk", input=self._input, stream_mode=MODES)  # type: ignore[arg-type]
        return thread_id, self._start(stream)

    @property
    def _input(self) -> dict[str, Any]:
        return {**human("hi"), "tokens": 20, "delay": 0.1, "gate": str(self._fleet.file("go"))}

    def _start(self, stream: AsyncIterator[StreamPart]) -> Reading:
        reading = Reading()
        self._group.create_task(reading.read(stream))
        return reading

    async def _await(self, thread_id: str, call: Callable[[LangGraphClient, str], Coroutine[Any, Any, Any]]) -> None:
        """Begin to wait for a run's result; come back when the answer has begun."""
        client, begun = await self._fleet.client(alone=True), asyncio.Event()

        async def begins(_: httpx.Response) -> None:
            begun.set()

        client.http.client.event_hooks = {"response": [begins]}
        self._awaited.append((thread_id, self._group.create_task(call(client, thread_id))))
        await begun.wait()

    async def _wait(self, client: LangGraphClient, thread_id: str) -> Any:
        return await client.runs.wait(thread_id, "talk", input=self._input)

    # -- and in the end ------------------------------------------------------------------------------------------------

    async def check(self, client: Client) -> None:
        """Every reader has the run's whole stream, and has every event once; every answer is the thread's state."""
        api = await self._fleet.client()
        for run_id, thread_id in self._threads.items():
            events = [event async for event in client.tail(run_id)]
            check_history(events)
            state = await api.threads.get_state(thread_id)
            for reading in (each for of, each in self._read if of == run_id):
                _check_stream(reading, events, state)
        for thread_id, task in self._awaited:
            assert await task == (await api.threads.get_state(thread_id))["values"]
            assert task.result()["messages"][-1]["content"].startswith("check0 ")


async def _join(client: LangGraphClient, thread_id: str, *, run_id: str) -> Any:
    return await client.runs.join(thread_id, run_id)


def _check_stream(reading: Reading, events: list[Event], state: Any) -> None:
    check_ids(reading.parts)
    names = {"attempt": "metadata"}
    known = [(event.id, names.get(event.mode, event.mode)) for event in events]
    assert [(id_, name) for id_, name, _ in with_ids(reading.parts)] == known
    told = {event.id: event.data for event in events if event.is_chunk}
    assert {id_: data for id_, _, data in with_ids(reading.parts) if id_ in told} == told
    shown = folded(reading.parts)
    assert shown.values == state["values"]
    assert shown.shown == saved(state)
    assert shown.texts == answers(state)


async def test_gateways_leave_one_after_the_other(processes: Processes, client: Client) -> None:
    async with Fleet(processes) as fleet, asyncio.TaskGroup() as group:
        crowd = Crowd(fleet, group)
        await crowd.gather(RUNS)
        for port in fleet.ports:
            assert fleet.forwarder.open[port] >= RUNS // 2
            await fleet.kill_gateway(port)
            await all_go_on(crowd.readings)
            await fleet.start_gateway(port)
        # The same by SIGTERM. All are at the first one: it was the only one when they were cut off last.
        assert fleet.forwarder.open[fleet.ports[0]] >= RUNS
        await fleet.terminate_gateway(fleet.ports[0])
        await all_go_on(crowd.readings)
        await crowd.end()
        await crowd.check(client)


async def test_a_worker_and_a_gateway_are_killed_at_once(processes: Processes, client: Client) -> None:
    async with Fleet(processes, workers=2) as fleet, asyncio.TaskGroup() as group:
        crowd = Crowd(fleet, group)
        await crowd.gather(RUNS)
        fleet.gateways[fleet.ports[0]].kill()
        held = await _kill_a_worker(fleet, client)
        await crowd.all_are(lambda each: each.run_id not in held or each.is_saying("write", 2), "all are there again")
        await crowd.end()
        await crowd.check(client)
        assert {each.run_id for each in crowd.readings if attempt_of(each.parts[-1]) == 2} == held & crowd.run_ids


async def _kill_a_worker(fleet: Fleet, client: Client) -> set[str]:
    """Kill a worker that has runs; gives those."""
    infos = await client.runs(limit=1000)
    victim = next(each for each in fleet.workers if any(info.worker == each.worker_id for info in infos))
    victim.command.kill()
    await victim.command.ended()
    return {info.run_id for info in infos if info.worker == victim.worker_id}


@pytest.mark.filterwarnings("ignore:Reconnecting without a Last-Event-ID:UserWarning")
async def test_the_gateway_is_killed_before_the_runs_have_begun(processes: Processes, client: Client) -> None:
    # No client has seen an id, and none says where it wants to go on. While they are away the runs begin.
    async with Fleet(processes, workers=0, gateways=1) as fleet, asyncio.TaskGroup() as group:
        api = await fleet.client()
        threads = [(await api.threads.create())["thread_id"] for _ in range(6)]
        started: list[Any] = []
        readings = [Reading() for _ in threads]
        for thread_id, reading in zip(threads, readings, strict=True):
            options: dict[str, Any] = {"input": human("hi"), "stream_mode": MODES, "on_run_created": started.append}
            group.create_task(reading.read(api.runs.stream(thread_id, "talk", **options)))
        await until(lambda: len(started) == len(threads), "all runs are queued")
        await fleet.kill_gateway(fleet.ports[0])
        await fleet.start_worker()
        await asyncio.gather(*(client.wait(run["run_id"]) for run in started))
        await fleet.start_gateway(fleet.ports[0])
        await until(lambda: all(reading.ended for reading in readings), "all streams have ended", LONG)
        for reading, thread_id in zip(readings, threads, strict=True):
            events = [event async for event in client.tail(reading.run_id)]
            _check_stream(reading, events, await api.threads.get_state(thread_id))


async def test_a_gateway_that_leaves_takes_no_run_along(processes: Processes, client: Client) -> None:
    async with Fleet(processes) as fleet:
        api = await fleet.client()
        thread_id = (await api.threads.create())["thread_id"]
        given = {**human("hi"), "delay": 0.05, "gate": str(fleet.file("never"))}
        options: dict[str, Any] = {"input": given, "stream_mode": MODES, "on_disconnect": "cancel"}
        async with aclosing(_created(api, thread_id, options)) as stream:
            run_id = (await first(stream, "metadata")).data["run_id"]
            (port,) = (port for port in fleet.ports if fleet.forwarder.open[port])
            await fleet.terminate_gateway(port)
            missed = EventId.of(str((await client.get(run_id)).last_event_id))
            while EventId.of(str((await first(stream, "messages")).id)) <= missed:
                pass
            assert (await client.get(run_id)).status is Status.RUNNING
        # Back at another gateway it is still the one whose leaving counts.
        await until(lambda: _is_stopped(client, run_id), "the run is stopped", LONG)


async def _created(api: LangGraphClient, thread_id: str, options: dict[str, Any]) -> AsyncGenerator[StreamPart, None]:
    async for part in api.runs.stream(thread_id, "talk", **options):
        yield part


async def _is_stopped(client: Client, run_id: str) -> bool:
    return (await client.get(run_id)).status is Status.STOPPED
