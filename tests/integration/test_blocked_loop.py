"""Signals to processes whose event loop is blocked by what a graph, or a project's own route, does."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest
from tests.support.processes import Finished, Processes, Running
from tests.support.waiting import until

from runstream import Client, Status

GRAPHS = """
import threading, time
from pathlib import Path
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    number: int

def block(how):
    Path("begun").touch()
    if Path("go").exists():
        return
    if how == "sleeps":
        time.sleep(3600)
    if how == "computes":
        while True:
            pass
    lock = threading.Lock()
    with lock, lock:
        pass

def graph_of(how):
    async def node(state):
        block(how)
        return {"number": 42}
    return StateGraph(State).add_node("node", node).add_edge(START, "node").compile()

g_sleeps, g_computes, g_locks = map(graph_of, ("sleeps", "computes", "locks"))
"""
APP = """
import time
from pathlib import Path
from fastapi import FastAPI

app = FastAPI()

@app.get("/block")
async def block():
    Path("begun").touch()
    time.sleep(3600)
"""


@pytest.fixture
async def cli(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        processes.write("graphs.py", GRAPHS)
        processes.write("web.py", APP)
        yield processes


async def goes_on(cli: Processes, client: Client, name: str, run_id: str) -> None:
    """Another worker goes on with the run, by its lease, and it ends as it should."""
    cli.write("go", "")
    await cli.worker(f"{name}=graphs.py:g_{name}")
    await until(lambda: _has_ended(client, run_id), "another worker goes on", timeout=30)
    info = await client.get(run_id)
    assert (info.status, info.attempt, [holder.cause for holder in info.holders]) == (Status.SUCCESS, 2, ["lost"])
    assert await client.result(run_id) == {"number": 42}


async def _sent_until_it_ends(running: Running, number: signal.Signals) -> Finished:
    """Send a signal again, as an impatient operator does: two that come together may be one to the system."""

    async def ended() -> bool:
        running.send(number)
        return running.has_ended

    await until(ended, "it has ended", timeout=20)
    return await running.ended()


async def _has_ended(client: Client, run_id: str) -> bool:
    return (await client.get(run_id)).status.ended


@pytest.mark.parametrize("name", ["sleeps", "computes", "locks"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_a_worker_whose_loop_is_blocked(
    cli: Processes, client: Client, name: str, number: signal.Signals
) -> None:
    worker = await cli.worker(f"{name}=graphs.py:g_{name}", "--shutdown-grace", "3600")
    run = await client.enqueue(name, {})
    await until((cli.folder / "begun").exists, "the loop is blocked")

    worker.command.send(number)
    worker.command.send(number)
    found = await _sent_until_it_ends(worker.command, number)

    assert found.code == 128 + number
    assert f"the event loop is blocked and does not hear {number.name}" in found.err
    assert "Traceback" not in found.err
    await goes_on(cli, client, name, run.run_id)


async def test_the_first_signal_is_enough_when_the_time_to_leave_is_over(cli: Processes, client: Client) -> None:
    worker = await cli.worker("sleeps=graphs.py:g_sleeps", "--shutdown-grace", "0")
    run = await client.enqueue("sleeps", {})
    await until((cli.folder / "begun").exists, "the loop is blocked")
    worker.command.terminate()
    assert (await worker.command.ended()).code == 143
    await goes_on(cli, client, "sleeps", run.run_id)


async def test_a_second_signal_ends_a_gateway_whose_loop_is_blocked(cli: Processes) -> None:
    config = {"dependencies": [], "graphs": {"sleeps": "./graphs.py:g_sleeps"}, "http": {"app": "./web.py:app"}}
    cli.write("langgraph.json", json.dumps(config))
    gateway = await cli.start("gateway", "--json", "--port", "0", "--config", "langgraph.json")
    url = (await gateway.json_line())["url"]
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.get(f"{url}/block", timeout=2)
    await until((cli.folder / "begun").exists, "the loop is blocked")
    gateway.terminate()
    gateway.terminate()
    found = await _sent_until_it_ends(gateway, signal.SIGTERM)
    assert found.code == 143
    assert "Traceback" not in found.err


@pytest.mark.parametrize("command", ["dev", "worker"])
async def test_a_second_signal_is_passed_on_to_a_worker_whose_loop_is_blocked(
    cli: Processes, client: Client, redis_url: str, command: str
) -> None:
    options = ["--no-gateway"] if command == "dev" else ["--processes", "2"]
    parent = await cli.start(command, "--json", *options, "--redis", redis_url, "sleeps=graphs.py:g_sleeps")
    await parent.json_line()
    children = psutil.Process(parent.pid).children(recursive=True)
    await client.enqueue("sleeps", {})
    await until((cli.folder / "begun").exists, "the loop is blocked")
    parent.terminate()
    await _sent_until_it_ends(parent, signal.SIGTERM)
    assert not any(child.is_running() for child in children)
