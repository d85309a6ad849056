"""What a graph does to its process: it cannot end the worker, and it cannot keep it from ending."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.processes import Processes
from tests.support.waiting import until

from runstream import Client, RunErrored, RunStopped, Status

GRAPHS = """
import asyncio, sys, time
from pathlib import Path
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    number: int

def exits(state):
    sys.exit(3)

async def interrupts(state):
    raise KeyboardInterrupt

async def stubborn(state):
    Path("begun").touch()
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

def sleeps(state):
    Path("begun").touch()
    time.sleep(3600)

def fine(state):
    return {"number": 42}

def graph_of(node):
    return StateGraph(State).add_node("node", node).add_edge(START, "node").compile()

g_exits, g_interrupts, g_stubborn, g_sleeps, g_fine = map(graph_of, (exits, interrupts, stubborn, sleeps, fine))
"""
NAMES = ("exits", "interrupts", "stubborn", "sleeps", "fine")


@pytest.fixture
async def cli(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        processes.write("graphs.py", GRAPHS)
        yield processes


@pytest.mark.parametrize(
    ("name", "told"), [("exits", r"GraphExited: sys\.exit\(3\)"), ("interrupts", "KeyboardInterrupt")]
)
async def test_a_graph_that_exits_ends_its_own_run_only(cli: Processes, client: Client, name: str, told: str) -> None:
    worker = await cli.worker(*(f"{one}=graphs.py:g_{one}" for one in NAMES))
    with pytest.raises(RunErrored, match=told):
        await client.invoke(name, {})
    assert await client.invoke("fine", {}) == {"number": 42}
    worker.command.terminate()
    assert (await worker.command.ended()).code == 0


@pytest.mark.parametrize("name", ["stubborn", "sleeps"])
async def test_a_node_that_does_not_end_does_not_keep_its_worker_from_ending(
    cli: Processes, client: Client, name: str
) -> None:
    worker = await cli.worker(*(f"{one}=graphs.py:g_{one}" for one in NAMES), "--shutdown-grace=0.5")
    run = await client.enqueue(name, {})
    await until((cli.folder / "begun").exists, "the node is at work")
    worker.command.terminate()
    ended = await worker.command.ended()
    assert ended.code == 0
    assert "leaving behind what does not end" in ended.err
    # Its run has been given back all the same, for another worker to go on with.
    info = await client.get(run.run_id)
    assert info.status is Status.QUEUED
    assert [(holder.worker, holder.cause) for holder in info.holders] == [(worker.worker_id, "drained")]


async def test_a_worker_ends_though_a_stopped_run_was_left_behind(cli: Processes, client: Client) -> None:
    worker = await cli.worker(*(f"{one}=graphs.py:g_{one}" for one in NAMES))
    run = await client.enqueue("stubborn", {})
    await until((cli.folder / "begun").exists, "the node is at work")
    await client.stop(run.run_id)
    with pytest.raises(RunStopped):
        await client.result(run.run_id)
    worker.command.terminate()
    assert (await worker.command.ended()).code == 0
