"""What a newcomer meets first: ids that are none, options of the command line, data of `dev`, a langgraph.json."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

import httpx
import pytest
from fastapi import FastAPI
from langgraph.graph import START, StateGraph
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from tests.support.processes import Processes
from tests.support.workers import Workers

from runstream import Client, InvalidRequest, RunNotFound, Status
from runstream.cli.app import _parser
from runstream.cli.inputs import run_options
from runstream.embedded import EmbeddedRedis, EmbeddedRedisError
from runstream.install import install_command
from runstream.request import RunOptions
from runstream_gateway.compose import compose
from runstream_gateway.core import open_gateway
from runstream_gateway.project import Project
from runstream_gateway.settings import GatewaySettings
from runstream_worker.graphs import graph_source
from runstream_worker.langgraph_json import read_langgraph_json

THREAD = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
GRAPH = """
from typing import TypedDict

from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    number: int


async def double(state):
    return {"number": 2 * state["number"]}


graph = StateGraph(State).add_node(double).add_edge(START, "double").compile()
"""


class State(TypedDict, total=False):
    number: int


def failing() -> Any:
    async def one(_: State) -> State:
        return {"number": 1}

    async def two(_: State) -> State:
        raise ValueError("no")

    graph: Any = StateGraph(State)
    graph.add_node("one", one).add_node("two", two)
    return graph.add_edge(START, "one").add_edge("one", "two").compile()


@pytest.fixture
async def cli(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        yield processes


@asynccontextmanager
async def gateway_of(workers: Workers, project: Project | None = None) -> AsyncIterator[httpx.AsyncClient]:
    settings = GatewaySettings(redis_url=workers.redis_url, namespace=workers.namespace)
    async with open_gateway({"failing": graph_source("failing", failing())}, settings) as gateway:
        transport = httpx.ASGITransport(compose(gateway, project or Project()))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=60) as http:
            yield http


# -- an id that is none -----------------------------------------------------------------------------------------------


async def test_what_is_no_run_id_is_a_run_that_is_not_found(client: Client) -> None:
    app = FastAPI()

    @app.exception_handler(RunNotFound)
    async def not_found(_: Request, error: RunNotFound) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=404)

    @app.get("/runs/{run_id}")
    async def read(run_id: str) -> str:
        return (await client.get(run_id)).status

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as http:
        answer = await http.get("/runs/nope")
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("run_id: 'nope' is no run id: a run id is a UUID, such as ")
    for call in (client.get, client.wait, client.result, client.request, client.stop, client.delete, client.requeue):
        with pytest.raises(RunNotFound) as caught:
            await call("nope")
        assert isinstance(caught.value, InvalidRequest)
        assert (caught.value.run_id, caught.value.field) == ("nope", "run_id")
    with pytest.raises(RunNotFound):
        client.tail("nope")
    # What is enqueued under an id that is none is a mistake of the request, and nothing that is missing.
    with pytest.raises(InvalidRequest) as refused:
        await client.enqueue("agent", None, run_id="nope")
    assert not isinstance(refused.value, RunNotFound)


# -- the command line -------------------------------------------------------------------------------------------------


def test_every_option_of_enqueue_is_on_the_command_line() -> None:
    given = {
        "--mode": "values",
        "--config": "{}",
        "--context": "{}",
        "--durability": "sync",
        "--subgraphs": None,
        "--interrupt-before": "a",
        "--interrupt-after": "b",
        "--output-keys": "c",
        "--stream-version": "v2",
        "--print-mode": "values",
        "--debug": None,
        "--thread": "t",
        "--run-id": THREAD,
        "--idempotency-key": "k",
        "--metadata": "{}",
        "--delay": "1",
        "--start-at": "2026-01-31T09:00:00+01:00",
        "--timeout": "1",
        "--retention": "60",
        "--start-within": "1",
        "--multitask-strategy": "reject",
        "--max-attempts": "1",
        "--restartable": None,
        "--strict-json": None,
        "--continues": THREAD,
    }
    arguments = [part for name, value in given.items() for part in ([name] if value is None else [name, value])]
    options = run_options(_parser().parse_args(["enqueue", "agent", "hi", *arguments]))
    assert options.keys() == RunOptions.__annotations__.keys()
    assert options["start_at"] == datetime(2026, 1, 31, 8, tzinfo=UTC)
    assert (options["continues"], options["version"]) == ([THREAD], "v2")


@pytest.mark.parametrize("time", ["tomorrow", "2026-01-31T09:00:00"])
async def test_a_time_without_its_offset_is_refused(cli: Processes, time: str) -> None:
    found = await cli.run("enqueue", "agent", "hi", "--start-at", time)
    assert found.code == 2
    assert f"--start-at: '{time}' must be a date and time with its offset from UTC" in found.err


# -- what is missing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        ({"url": "file:///home/me/my%20code", "dir_info": {"editable": True}}, "-e '/home/me/my code[worker]'"),
        ({"url": "file:///home/me/code", "dir_info": {}}, "'/home/me/code[worker]'"),
        ({"url": "file:///tmp/r-1-py3-none-any.whl", "archive_info": {}}, "'/tmp/r-1-py3-none-any.whl[worker]'"),
        (
            {"url": "https://me:secret@host/r.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "'runstream[worker] @ git+https://host/r.git@abc'",
        ),
        ({"url": "https://host/r.whl", "archive_info": {}}, "'runstream[worker] @ https://host/r.whl'"),
    ],
)
def test_the_command_that_adds_an_extra_works_from_where_the_reader_is(
    origin: dict[str, Any], command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "runstream-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: runstream\nVersion: 0.1.0\n")
    (info / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(tmp_path)
    assert install_command("worker") == f"pip install {command}"


# -- dev and its data -------------------------------------------------------------------------------------------------


@pytest.mark.real_redis
async def test_dev_keeps_threads_in_a_folder_for_the_next_session(cli: Processes) -> None:
    cli.write("math.py", GRAPH)
    arguments = ["dev", "math.py:graph", "--data", "kept here", "--port", "0", "--json"]
    for session in (1, 2):
        dev = await cli.start(*arguments, environment={"RUNSTREAM_REDIS_URL": ""})
        ready = await dev.json_line()
        async with httpx.AsyncClient(base_url=ready["url"], timeout=60) as http:
            if session == 1:
                await http.post("/threads", json={"thread_id": THREAD})
                body = {"assistant_id": "agent", "input": {"number": 21}}
                assert (await http.post(f"/threads/{THREAD}/runs/wait", json=body)).json() == {"number": 42}
            assert (await http.get(f"/threads/{THREAD}")).json()["values"] == {"number": 42}
        dev.send(signal.SIGTERM)
        assert (await dev.ended()).code == 0


async def test_dev_says_what_becomes_of_its_data(cli: Processes) -> None:
    cli.write("math.py", GRAPH)
    for arguments, kept in (((), "end with this session"), (("--data", "x"), f"are kept in {cli.folder}/x")):
        main, terminal = os.openpty()
        dev = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "runstream", "dev", "math.py:graph", "--port", "0", *arguments),
            cwd=cli.folder,
            env={**os.environ, "RUNSTREAM_REDIS_URL": ""},
            stdout=terminal,
            stderr=asyncio.subprocess.DEVNULL,
        )
        os.close(terminal)
        shown = await asyncio.to_thread(_read_until, main, b"Ctrl-C ends it all")
        dev.terminate()
        await dev.wait()
        os.close(main)
        assert f"threads and runs {kept}" in shown
    found = await cli.run("dev", "--data", "x", "--redis", "redis://127.0.0.1:1/0")
    assert found.code == 2
    assert "--data is for the Redis that dev starts" in found.err


def _read_until(terminal: int, end: bytes) -> str:
    """What was written to a terminal, up to this."""
    shown = b""
    while end not in shown:
        shown += os.read(terminal, 4096)
    return shown.decode()


@pytest.mark.real_redis
def test_an_embedded_redis_keeps_its_data_and_shares_them_with_no_other(tmp_path: Path) -> None:
    import redis  # noqa: PLC0415 - the synchronous client, here alone

    folder = tmp_path / 'a "folder"'
    for value in (None, b"kept"):
        with EmbeddedRedis(data=folder) as server, redis.Redis.from_url(server.url) as connection:
            assert connection.get("key") == value
            connection.set("key", "kept")
            with pytest.raises(EmbeddedRedisError, match="another Redis keeps its data in"):
                EmbeddedRedis(data=folder).start()
    with pytest.raises(EmbeddedRedisError, match="fakeredis keeps nothing"):
        EmbeddedRedis(prefer="fakeredis", data=folder).start()


# -- langgraph.json ---------------------------------------------------------------------------------------------------


async def test_what_matters_of_langgraph_json_is_said_once(cli: Processes) -> None:
    cli.write("math.py", GRAPH)
    config = {
        "graphs": {"agent": "./math.py:graph"},
        "dependencies": ["."],
        "python_version": "3.12",
        "dockerfile_lines": [],
        "pip_installer": "uv",
        "store": {},
    }
    cli.write("langgraph.json", json.dumps(config))
    dev = await cli.start("dev", "--port", "0", "--json", environment={"RUNSTREAM_REDIS_URL": ""})
    await dev.json_line()
    dev.send(signal.SIGTERM)
    err = (await dev.ended()).err
    assert err.count("'store' has no effect") == 1
    assert "python_version" not in err
    assert "dockerfile_lines" not in err


def test_paths_of_a_file_in_another_folder_are_found_from_here_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`langgraph dev --config sub/langgraph.json` takes them from the current folder."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "agents").mkdir()
    (tmp_path / "here.env").write_text("NAME=here\n")
    (tmp_path / "both.env").write_text("NAME=here\n")
    (tmp_path / "sub" / "both.env").write_text("NAME=beside\n")
    config = tmp_path / "sub" / "langgraph.json"
    monkeypatch.chdir(tmp_path)
    entries = {"graphs": {"a": "./agents/a.py:graph"}, "dependencies": ["./agents"]}
    config.write_text(json.dumps({**entries, "env": "here.env", "checkpointer": {"path": "./agents/a.py:saver"}}))
    read = read_langgraph_json(config)
    assert read.env == {"NAME": "here"}
    assert read.import_paths == (tmp_path / "agents",) or read.checkpointer.location is not None
    config.write_text(json.dumps({**entries, "env": "both.env"}))
    assert read_langgraph_json(config).env == {"NAME": "beside"}


async def test_a_worker_starts_with_a_file_in_another_folder(cli: Processes) -> None:
    (cli.folder / "sub").mkdir()
    cli.write("math.py", GRAPH)
    cli.write("sub/langgraph.json", json.dumps({"graphs": {"math": "./math.py:graph"}, "dependencies": ["."]}))
    worker = await cli.worker("--config", "sub/langgraph.json")
    assert worker.graphs == ["math"]


# -- the gateway ------------------------------------------------------------------------------------------------------


async def test_routes_of_a_project_are_on_the_openapi_page(workers: Workers) -> None:
    own = FastAPI()

    @own.get("/mine/{name}", summary="What is mine")
    async def mine(name: str) -> dict[str, str]:
        return {"name": name}

    async with gateway_of(workers, Project(app=own)) as http:
        page = (await http.get("/openapi.json")).json()
        assert page["paths"]["/mine/{name}"]["get"]["summary"] == "What is mine"
        assert "/threads" in page["paths"]
        assert "HTTPValidationError" in page["components"]["schemas"]
        assert (await http.get("/mine/a")).json() == {"name": "a"}

    async def plain(_: Request) -> Response:
        """Say hello."""
        return PlainTextResponse("hello")

    async with gateway_of(workers, Project(app=Starlette(routes=[Route("/plain", plain)]))) as http:
        page = (await http.get("/openapi.json")).json()
        assert page["paths"]["/plain"]["get"]["summary"] == "Say hello."


async def test_a_copy_of_a_thread_whose_run_failed_waits_for_nobody(workers: Workers, client: Client) -> None:
    await workers.start(failing=failing())
    async with gateway_of(workers) as http:
        await http.post("/threads", json={"thread_id": THREAD, "metadata": {"graph_id": "failing"}})
        run = await client.enqueue("failing", {"number": 0}, thread_id=THREAD)
        with pytest.raises(Exception, match="ValueError"):
            await client.result(run.run_id)
        assert (await http.get(f"/threads/{THREAD}")).json()["status"] == "error"
        copy = (await http.post(f"/threads/{THREAD}/copy")).json()
        assert (copy["status"], copy["values"]) == ("idle", {"number": 1})
        again = (await http.post(f"/threads/{copy['thread_id']}/copy")).json()
        assert again["status"] == "idle"
        found = (await http.post("/threads/search", json={"status": "interrupted"})).json()
        assert found == []


@pytest.mark.parametrize("foreign", ["nope", "1", "1764555555555-0-1", "1-", "run/1-1/x"])
async def test_a_last_event_id_that_is_none_of_ours_is_refused_on_every_stream(
    workers: Workers, client: Client, foreign: str
) -> None:
    async with gateway_of(workers) as http:
        await http.post("/threads", json={"thread_id": THREAD, "metadata": {"graph_id": "failing"}})
        run = await client.enqueue("failing", {"number": 0}, thread_id=THREAD)
        alone = await client.enqueue("failing", {"number": 0})
        headers = {"last-event-id": foreign}
        for path in (
            f"/threads/{THREAD}/runs/{run.run_id}/stream",
            f"/runs/{alone.run_id}/stream",
            f"/threads/{THREAD}/stream",
            f"/console/runs/{run.run_id}/events",
        ):
            answer = await http.get(path, headers=headers)
            assert answer.status_code == 422, path
            assert answer.json()["detail"].startswith("Last-Event-ID: "), path


async def test_an_id_that_is_further_than_the_run_shows_what_comes_behind_it(workers: Workers, client: Client) -> None:
    await workers.start(failing=failing())
    async with gateway_of(workers) as http:
        await http.post("/threads", json={"thread_id": THREAD, "metadata": {"graph_id": "failing"}})
        run = await client.enqueue("failing", {"number": 0}, thread_id=THREAD)
        with pytest.raises(Exception, match="ValueError"):
            await client.result(run.run_id)
        path = f"/threads/{THREAD}/runs/{run.run_id}/stream"
        async with asyncio.timeout(30):
            answer = await http.get(path, headers={"last-event-id": "1764555555555-0"})
        assert answer.status_code == 200
        assert "event: updates" not in answer.text
        assert (await client.get(run.run_id)).status is Status.ERROR


async def test_a_joined_stream_of_one_mode_has_no_frames_but_the_documented_ones(
    workers: Workers, client: Client
) -> None:
    await workers.start(failing=failing())
    async with gateway_of(workers) as http:
        await http.post("/threads", json={"thread_id": THREAD, "metadata": {"graph_id": "failing"}})
        body = {"assistant_id": "failing", "input": {"number": 0}, "stream_mode": ["values", "updates", "tasks"]}
        made = (await http.post(f"/threads/{THREAD}/runs", json=body)).json()
        path = f"/threads/{THREAD}/runs/{made['run_id']}/stream"
        headers = {"last-event-id": "-"}
        answer = await http.get(path, params={"stream_mode": "values"}, headers=headers)
        events = {line.partition(": ")[2] for line in answer.text.splitlines() if line.startswith("event: ")}
        assert events == {"metadata", "values", "error", "end"}
