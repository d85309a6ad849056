"""A worker is killed, or falls asleep: its runs end, everybody is told, and nothing of it comes afterwards."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.processes import Processes
from tests.support.waiting import until

from runstream import Client, Event, RunLost, Status

GRAPH = """
import asyncio
from pathlib import Path
from typing import TypedDict
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    number: int

async def count(state):
    for number in range(1_000_000):
        get_stream_writer()(number)
        await asyncio.sleep(0.005)

graph = StateGraph(State).add_node("count", count).add_edge(START, "count").compile()
"""


@pytest.fixture
async def cli(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        processes.write("graph.py", GRAPH)
        yield processes


async def collect(client: Client, run_id: str) -> list[Event]:
    return [event async for event in client.tail(run_id)]


def check_history(events: list[Event]) -> None:
    """Ids without holes, what was published in order, one end, and nothing of the dead attempt behind it."""
    *before, end = events
    assert [event.id for event in before] == [f"1-{seq}" for seq in range(len(before))]
    assert [event.data for event in before[1:]] == list(range(len(before) - 1))
    assert (end.id, end.mode, end.data["status"]) == ("2-0", "end", "lost")


async def test_the_runs_of_a_killed_worker_end_as_lost_while_another_goes_on(cli: Processes, client: Client) -> None:
    victim = await cli.worker("counts=graph.py")
    runs = [await client.enqueue("counts", {}, stream_mode="custom") for _ in range(5)]
    readers = [asyncio.create_task(collect(client, run.run_id)) for run in runs]
    await until(lambda: _counting(client, [run.run_id for run in runs]), "all runs publish")
    await cli.worker("other=graph.py")

    victim.command.kill()

    for run, reader in zip(runs, readers, strict=True):
        events = await reader
        check_history(events)
        assert events == await collect(client, run.run_id)
        with pytest.raises(RunLost, match=victim.worker_id):
            await client.result(run.run_id)


async def test_a_worker_that_wakes_up_too_late_adds_nothing(cli: Processes, client: Client) -> None:
    sleeper = await cli.worker("counts=graph.py")
    run = await client.enqueue("counts", {}, stream_mode="custom")
    await until(lambda: _counting(client, [run.run_id]), "the run publishes")
    await cli.worker("other=graph.py")

    sleeper.command.send(signal.SIGSTOP)
    events = await collect(client, run.run_id)
    sleeper.command.send(signal.SIGCONT)

    check_history(events)
    # It takes runs again, so it has been told of the loss of its first one.
    again = await client.enqueue("counts", {}, stream_mode="custom")
    await until(lambda: _counting(client, [again.run_id]), "the next run publishes")
    await until(lambda: "taken from this worker" in sleeper.command.err, "the worker has let go of the lost run")
    assert await collect(client, run.run_id) == events
    await client.stop(again.run_id)
    assert [event.mode for event in await collect(client, again.run_id)][-1] == "end"


async def _counting(client: Client, run_ids: list[str]) -> bool:
    infos = [await client.get(run_id) for run_id in run_ids]
    return all(info.status is Status.RUNNING and info.stream_bytes > 200 for info in infos)
