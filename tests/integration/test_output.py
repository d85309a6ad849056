"""Standard output and error that are closed, full, or without a reader."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from tests.support.processes import Processes, Running
from tests.support.waiting import until

from runstream import Client

GRAPH = """
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    number: int

graph = StateGraph(State).add_node("add", lambda state: {"number": 42}).add_edge(START, "add").compile()
"""
BROKEN = {
    "closed": ">&-",
    "full": ">/dev/full",
    "both closed": ">&- 2>&-",
    "both full": ">/dev/full 2>/dev/full",
    "all closed": "<&- >&- 2>&-",
}


@pytest.fixture
async def cli(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        processes.write("graph.py", GRAPH)
        yield processes


async def works(client: Client) -> None:
    """Wait until a worker has executed a run."""
    run = await client.enqueue("adds", {})
    assert await asyncio.wait_for(client.result(run.run_id), 60) == {"number": 42}


@pytest.mark.parametrize("redirect", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("processes", [1, 2])
async def test_a_worker_works_without_its_output(cli: Processes, client: Client, redirect: str, processes: int) -> None:
    worker = await cli.start("worker", "--processes", str(processes), "adds=graph.py", redirect=redirect)
    await works(client)
    await leaves(worker)


@pytest.mark.parametrize("redirect", BROKEN.values(), ids=BROKEN.keys())
async def test_a_gateway_works_without_its_output(cli: Processes, redirect: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    gateway = await cli.start("gateway", "--port", str(port), "adds=graph.py", redirect=redirect)
    await until(lambda: _answers(port), "the gateway answers", timeout=60)
    await leaves(gateway)


async def leaves(running: Running) -> None:
    """It ends as it should, and has said nothing of a failure of its own."""
    assert not running.has_ended
    running.terminate()
    found = await running.ended()
    assert found.code == 0, found.err
    assert "Traceback" not in found.err
    assert "Exception ignored" not in found.err


async def _answers(port: int) -> bool:
    try:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"http://127.0.0.1:{port}/ok")).is_success
    except httpx.TransportError:
        return False


async def test_a_worker_outlives_the_reader_of_its_output(cli: Processes, client: Client) -> None:
    worker = await cli.start("worker", "adds=graph.py")
    worker.close_output()
    await works(client)
    await leaves(worker)


@pytest.mark.parametrize("arguments", [["runs"], ["info"], ["dead"], ["keys", "list"], ["enqueue", "adds", "{}"]])
@pytest.mark.parametrize(
    ("redirect", "told"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")]
)
async def test_a_command_that_cannot_show_its_output_says_so_and_fails(
    cli: Processes, client: Client, arguments: list[str], redirect: str, told: str
) -> None:
    await client.enqueue("adds", {})
    if arguments[0] in ("dead", "keys") and redirect == ">/dev/full":
        arguments = [*arguments, "--help"]
    found = await cli.run(*arguments, redirect=redirect)
    assert (found.code, found.err) == (1, f"runstream: error: cannot write to standard output: {told}\n")


async def test_a_command_without_an_output_does_nothing(cli: Processes, client: Client) -> None:
    await cli.run("enqueue", "adds", "{}", redirect=">&-")
    assert await client.runs() == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["runs", "--help"]])
async def test_a_help_that_cannot_be_shown_fails_without_a_traceback(cli: Processes, arguments: list[str]) -> None:
    full = await cli.run(*arguments, redirect=">/dev/full")
    assert (full.code, full.err) == (1, "runstream: error: cannot write to standard output: No space left on device\n")


async def test_a_mistake_is_a_mistake_also_without_standard_error(cli: Processes) -> None:
    for redirect in ("2>&-", "2>/dev/full"):
        assert (await cli.run("runs", "--redis", "redis://127.0.0.1:1", redirect=redirect)).code == 4
        assert (await cli.run("runs", "--nothing", redirect=redirect)).code == 2
