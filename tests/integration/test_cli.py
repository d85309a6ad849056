"""The command line of producers and consumers: real processes, real exit codes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from tests.support.processes import Processes
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, Status
from runstream.cli.inputs import read_input
from runstream.errors import InvalidRequest
from runstream.redaction import redact_url
from runstream_worker.default_agent import default_agent


class State(TypedDict, total=False):
    number: int


def double(state: State) -> State:
    return {"number": state["number"] * 2}


def fail(state: State) -> State:
    raise ValueError("no such number")


def ask(state: State) -> State:
    return {"number": interrupt("which number?")}


def one_node(name: str) -> StateGraph[State]:
    nodes = {"double": double, "fail": fail, "ask": ask}
    return StateGraph(State).add_node(name, nodes[name]).add_edge(START, name)


@pytest.fixture
async def cli(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        yield processes


@pytest.fixture
async def math(workers: Workers) -> None:
    await workers.start(
        math=one_node("double").compile(),
        broken=one_node("fail").compile(),
        asks=one_node("ask").compile(checkpointer=InMemorySaver()),
    )


async def test_help_teaches_and_loads_no_langgraph(cli: Processes) -> None:
    found = await cli.run("--help")

    assert found.code == 0
    for command in ("demo", "dev", "worker", "enqueue", "tail", "result", "stop", "runs", "dead", "requeue", "info"):
        assert f"    {command} " in found.out
        assert "example:" in (await cli.run(command, "--help")).out


def test_light_commands_import_nothing_heavy() -> None:
    program = "import sys, runstream.cli, runstream_worker.commands; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": "producer:worker"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()

    assert not {"langgraph", "langchain_core", "arq", "watchfiles", "openai"} & set(loaded)


async def test_version(cli: Processes) -> None:
    assert (await cli.run("--version")).out.startswith("runstream ")


@pytest.mark.usefixtures("math")
async def test_enqueue_then_result(cli: Processes, client: Client) -> None:
    run = await cli.run("enqueue", "math", '{"number": 21}', "--thread", "t-1", "--metadata", '{"user": "u-1"}')
    result = await cli.run("result", run.json["run_id"])

    assert run.json == {"run_id": run.json["run_id"], "thread_id": "t-1", "graph": "math", "is_new": True}
    assert (result.code, result.json) == (0, {"number": 42})
    assert (await client.get(run.json["run_id"])).metadata == {"user": "u-1"}


@pytest.mark.usefixtures("math")
async def test_input_from_stdin_and_the_result_at_once(cli: Processes) -> None:
    found = await cli.run("enqueue", "math", "-", "--result", "--output-keys", "number", stdin='{"number": 4}')

    assert (found.code, found.json) == (0, 8)


@pytest.mark.usefixtures("math")
async def test_a_command_resumes_an_interrupted_thread(cli: Processes) -> None:
    asked = await cli.run("enqueue", "asks", "{}", "--thread", "t-1", "--result")
    answered = await cli.run("enqueue", "asks", "--thread", "t-1", "--command", '{"resume": 7}', "--result")

    assert asked.json["__interrupt__"][0]["value"] == "which number?"
    assert answered.json == {"number": 7}


async def test_text_of_the_default_agent(cli: Processes, workers: Workers) -> None:
    await workers.start(agent=default_agent())

    found = await cli.run("enqueue", "agent", "What is 6 * 7?", "--text")

    assert found.code == 0
    assert "6 * 7 = 42" in found.out
    assert found.out.endswith("\n")
    assert found.err.startswith("runstream: run ")


@pytest.mark.usefixtures("math")
async def test_records_are_streamed_and_shown(cli: Processes) -> None:
    everything = await cli.run("enqueue", "math", '{"number": 21}', "--mode", "events", "--mode", "updates", "-f")
    run_id = everything.json_lines[1]["data"]["run_id"]
    records = await cli.run("tail", run_id, "--mode", "events")
    assert [event for event in everything.json_lines if event["mode"] == "events"] == records.json_lines
    assert records.json_lines[0]["data"]["event"] == "on_chain_start"
    of_node = await cli.run("tail", run_id, "--mode", "events", "--node", records.json_lines[1]["data"]["name"])
    assert of_node.json_lines == records.json_lines[1:-1]


@pytest.mark.usefixtures("math")
async def test_tail_gives_the_streams_events_one_a_line(cli: Processes, client: Client) -> None:
    run = await client.enqueue("math", {"number": 21}, stream_mode=["updates", "values"])
    expected = [
        {"id": event.id, "mode": event.mode, "ns": [], "data": event.data}
        | ({} if event.task is None else {"task": event.task})
        async for event in client.tail(run.run_id)
    ]

    everything = await cli.run("tail", run.run_id)
    behind = await cli.run("tail", run.run_id, "--after", "1-2")
    updates = await cli.run("tail", run.run_id, "--mode", "updates")
    of_nobody = await cli.run("tail", run.run_id, "--node", "nobody")

    assert everything.json_lines == expected
    assert behind.json_lines == expected[3:]
    assert [event["mode"] for event in updates.json_lines] == ["updates"]
    assert [event["mode"] for event in of_nobody.json_lines] == ["attempt", "end"]


@pytest.mark.usefixtures("math")
async def test_a_run_that_failed_is_told_by_the_exit_code(cli: Processes) -> None:
    found = await cli.run("enqueue", "broken", "{}", "--follow")

    assert found.code == 1
    assert found.json_lines[-1]["data"]["status"] == "error"
    assert found.err.splitlines()[-1].endswith("failed: ValueError: no such number")
    assert "Traceback" not in found.err


async def test_stop_runs_and_info(cli: Processes, client: Client, redis_url: str) -> None:
    run = await client.enqueue("math", {"number": 1})
    before = await cli.run("info")
    stopped = await cli.run("stop", run.run_id, "--reason", "the user left")
    listed = await cli.run("runs", "--status", "stopped")
    record = await cli.run("info", run.run_id)
    again = await cli.run("stop", run.run_id)

    assert before.json["queues"] == [{"graph": "math", "due": 1, "later": 0, "workers": 0}]
    assert before.json["redis"]["url"] == redact_url(redis_url)
    assert stopped.json == {"outcome": "stopped", "status": "stopped"}
    assert [info["run_id"] for info in listed.json_lines] == [run.run_id]
    assert record.json["stop_reason"] == "the user left"
    assert again.json == {"outcome": "ended", "status": "stopped"}
    assert (await cli.run("result", run.run_id)).code == 1


_NOBODY = "01985d2e-6f1c-7b3a-9d44-0c5d6f6f2a11"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["tail", _NOBODY], 3, "no run"),
        (["result", _NOBODY], 3, "no run"),
        (["tail", "nonsense"], 2, "run_id: 'nonsense' is no "),
        (["tail", _NOBODY, "--after", "x"], 2, "after: 'x' is no event id"),
        (["enqueue", "math", '{"number": }'], 2, "INPUT: no JSON: Expecting value at character 12"),
        (["enqueue", "math"], 2, "INPUT: give an input or --command"),
        (["enqueue", "math", "{}", "--mode", "message"], 2, "did you mean 'messages'?"),
        (["enqueue", "math", "{}", "--delay=-1"], 2, "delay: -1.0 must be a number of seconds over 0"),
        (["runs", "--namespace", "a b"], 2, "namespace: 'a b' must be a word"),
        (["runs", "--redis", "http://localhost"], 2, "is no URL of Redis"),
        (["runs", "--limit", "0"], 2, "--limit: 0 must be"),
    ],
)
async def test_mistakes_are_told_in_one_line(cli: Processes, arguments: list[str], code: int, told: str) -> None:
    found = await cli.run(*arguments)

    assert found.code == code
    assert found.err.startswith("runstream: error: ")
    assert told in found.err
    assert found.err.count("\n") == 1


@pytest.mark.parametrize(
    "command", [["runs"], ["enqueue", "math", "{}", "--follow"], ["enqueue", "math", "{}", "--result"]]
)
async def test_a_redis_that_is_not_there_is_told_without_its_password(cli: Processes, command: list[str]) -> None:
    found = await cli.run(*command, "--redis", "redis://me:secret@127.0.0.1:1/0")

    assert found.code == 4
    assert found.err.startswith("runstream: error: ")  # nothing of a run that has not been enqueued
    assert "cannot reach Redis at redis://me:***@127.0.0.1:1/0" in found.err
    assert "runstream dev" in found.err
    assert "secret" not in found.err
    assert found.err.count("\n") == 1


async def test_a_redis_that_does_not_let_us_in(cli: Processes, redis_url: str) -> None:
    wrong = redis_url.replace("redis://:", "redis://:not")

    found = await cli.run("runs", "--redis", wrong)

    assert found.code == 4
    assert "does not let us in" in found.err


def without_note(err: str) -> str:
    """What was said beside why the run waits, which is said after a second only."""
    return "".join(line for line in err.splitlines(keepends=True) if "the run waits: no live worker" not in line)


@pytest.mark.real_redis  # looks at CLIENT LIST
async def test_a_reader_that_leaves_ends_a_tail_that_waits(cli: Processes, client: Client) -> None:
    run = await client.enqueue("nobody-has-it", {})
    tail = await cli.start("tail", run.run_id)
    await until(lambda: _is_reading(client), "the tail waits for events")

    tail.close_output()

    found = await tail.ended()
    assert (found.code, without_note(found.err)) == (0, "")


@pytest.mark.real_redis  # looks at CLIENT LIST
async def test_interrupting_a_tail(cli: Processes, client: Client) -> None:
    run = await client.enqueue("nobody-has-it", {})
    tail = await cli.start("tail", run.run_id)
    await until(lambda: _is_reading(client), "the tail waits for events")

    tail.send(signal.SIGINT)

    found = await tail.ended()
    assert (found.code, without_note(found.err)) == (130, "")
    assert (await client.get(run.run_id)).status is Status.QUEUED


async def test_interrupting_an_enqueue_that_waits_for_its_input(cli: Processes) -> None:
    stdin, keyboard = os.pipe()
    try:
        enqueue = await cli.start("enqueue", "math", "-", stdin=stdin)
        os.write(keyboard, b'{"number": ')
        await until(lambda: _bytes_in(stdin) == 0, "it has read the first half")

        enqueue.press_ctrl_c()

        found = await enqueue.ended()
    finally:
        os.close(stdin)
        os.close(keyboard)
    assert (found.code, found.out, found.err) == (130, "", "")


def _bytes_in(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


async def _is_reading(client: Client) -> bool:
    return any(connection["cmd"] == "xread" for connection in await client._redis.client_list())


def test_what_stands_for_an_input(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_input("hi, you", None) == {"messages": [{"role": "user", "content": "hi, you"}]}
    assert read_input(' {"a": [1]}', None) == {"a": [1]}
    assert read_input("null", None) is None
    assert read_input("42", None) == {"messages": [{"role": "user", "content": "42"}]}
    assert read_input(None, '{"goto": "node"}').goto == "node"
    for text, command in [(None, None), ("x", "{}"), ("  ", None), (None, "[]"), (None, '{"go": 1}'), (None, "{}")]:
        with pytest.raises(InvalidRequest):
            read_input(text, command)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:secret@host/0", "redis://:***@host/0"),
        ("rediss://me:s:e@cret@host:1", "rediss://me:***@host:1"),
        ("unix://me:secret@/run/redis.sock", "unix://me:***@/run/redis.sock"),
        ("redis://host/0?password=secret", "redis://host/0?..."),
        ("redis://[secret", "redis://***"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redact_url(url) == shown


async def test_json_lines_are_whole_json(cli: Processes) -> None:
    assert json.loads((await cli.run("info", "--json")).out)["workers"] == []
