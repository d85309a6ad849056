"""A project with a `langgraph.json`, started as its owner starts it: what it says is so, and what is not is told."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from langgraph_sdk import get_client
from redis.asyncio import Redis
from tests.support.processes import Processes, Running
from tests.support.redis_server import RedisServer
from tests.support.waiting import until
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from runstream.errors import GraphLoadError
from runstream_gateway.project import read_project
from runstream_worker.langgraph_json import read_langgraph_json

pytestmark = pytest.mark.real_redis

GRAPH = """
import os
from typing import Any, TypedDict

from langgraph.graph import START, StateGraph
from words import greeting


class State(TypedDict, total=False):
    name: str
    said: str
    told: dict[str, Any]


async def speak(state, config):
    told = {key: value for key, value in config["configurable"].items() if key.startswith("x-") or key == "user-agent"}
    return {"said": f"{greeting()}, {state['name']}", "told": told}


graph = StateGraph(State).add_node(speak).add_edge(START, "speak").compile()


def make(config):
    return graph
"""
WORDS = """
import os


def greeting():
    return os.environ["GREETING"]
"""
WEB = """
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, WebSocket


@asynccontextmanager
async def lifespan(app):
    Path("lifespan.txt").write_text("open")
    yield {"colour": "blue"}
    Path("lifespan.txt").write_text("closed")


app = FastAPI(lifespan=lifespan)


@app.get("/hello")
async def hello(request: Request):
    return {"hello": "from the project", "colour": request.state.colour}


@app.get("/info")
async def info():
    return {"info": "the project's own"}


@app.get("/whoami")
async def whoami(request: Request):
    return {"user": request.user.identity}


@app.get("/missing")
async def missing():
    from fastapi import HTTPException
    raise HTTPException(418, "a teapot")


@app.websocket("/echo")
async def echo(websocket: WebSocket):
    await websocket.accept()
    await websocket.send_text(await websocket.receive_text())
    await websocket.close()
"""
BROKEN = """
from fastapi import FastAPI


async def lifespan(app):
    raise ValueError("no database")
    yield


app = FastAPI(lifespan=lifespan)
"""
CONFIG: dict[str, Any] = {
    "dependencies": ["./lib"],
    "graphs": {"echo": {"path": "./app/graph.py:graph", "description": "Greets"}, "made": "./app/graph.py:make"},
    "env": ".env",
    "store": {"index": {}},
    "checkpointer": {"ttl": {"strategy": "delete", "default_ttl": 60}},
    "http": {
        "app": "./app/web.py:app",
        "cors": {"allow_origins": ["https://app.example"], "allow_credentials": True},
        "mount_prefix": "/api",
        "configurable_headers": {"includes": ["x-team*", "user-agent"], "excludes": ["x-team-secret"]},
        "logging_headers": {"includes": ["*"]},
        "disable_store": True,
    },
}
AUTH = """
from langgraph_sdk import Auth

auth = Auth()


@auth.authenticate
async def who(authorization: str | None) -> str:
    if authorization not in ("ada", "bob"):
        raise Auth.exceptions.HTTPException(status_code=401, detail="who are you?")
    return authorization


@auth.on
async def own(ctx, value):
    filters = {"owner": ctx.user.identity}
    value.setdefault("metadata", {}).update(filters)
    return filters


@auth.on.assistants.read
@auth.on.assistants.search
async def all_assistants(ctx, value):
    return None
"""
SAVER = """
from contextlib import asynccontextmanager

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver


@asynccontextmanager
async def open_saver():
    async with AsyncSqliteSaver.from_conn_string("own.db") as saver:
        await saver.setup()
        yield saver
"""
GUARDED: dict[str, Any] = {
    "dependencies": ["./lib"],
    "graphs": {"echo": "./app/graph.py:graph"},
    "env": {"GREETING": "Good day"},
    "auth": {"path": "./app/auth.py:auth", "disable_studio_auth": True},
    "checkpointer": {"path": "./app/saver.py:open_saver"},
    "http": {"app": "./app/web.py:app", "enable_custom_route_auth": True, "disable_assistants": True},
}


def write_project(folder: Path, config: Mapping[str, Any]) -> Path:
    """A project's files; gives its langgraph.json."""
    files = {
        "app/graph.py": GRAPH,
        "app/web.py": WEB,
        "app/auth.py": AUTH,
        "app/saver.py": SAVER,
        "app/broken.py": BROKEN,
    }
    files["lib/words.py"] = WORDS
    for name, text in {**files, ".env": "GREETING='Hello there' # as one says\n"}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    path = folder / "langgraph.json"
    path.write_text(json.dumps(config))
    return path


@dataclass(frozen=True)
class Served:
    """A project that is served by a worker and a gateway."""

    url: str
    folder: Path
    redis_url: str
    gateway: Running
    worker: Running


@asynccontextmanager
async def serving(config: Mapping[str, Any]) -> AsyncIterator[Served]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "redis").mkdir()
        (folder / "project").mkdir()
        project = write_project(folder / "project", config)
        async with (
            RedisServer(folder / "redis", fsync="no") as redis,
            Processes(redis.url, "project", project.parent) as processes,
        ):
            gateway = await processes.start("gateway", "--json", "--config", "langgraph.json", "--port", "0")
            worker = await processes.worker("--config", "langgraph.json")
            ready = await gateway.json_line()
            yield Served(ready["url"], project.parent, redis.url, gateway, worker.command)


def _served(config: Mapping[str, Any]) -> Iterator[Served]:
    with asyncio.Runner() as runner:
        context = serving(config)
        yield runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    yield from _served(CONFIG)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    yield from _served(GUARDED)


# -- what it says is so ------------------------------------------------------------------------------------------------


async def test_graphs_env_file_and_dependencies(served: Served) -> None:
    async with get_client(url=served.url) as client:
        assistants = await client.assistants.search()
        assert {one["graph_id"] for one in assistants} == {"echo", "made"}
        assert "Greets" in [one["description"] for one in assistants]
        for graph in ("echo", "made"):
            values = await client.runs.wait(None, graph, input={"name": "Ada"})
            assert isinstance(values, dict)
            assert values["said"] == "Hello there, Ada"


async def test_what_has_no_effect_is_told_by_both(served: Served) -> None:
    for one in (served.gateway, served.worker):
        assert "'store' has no effect: runstream has no such thing" in one.err
    assert "'http.logging_headers' has no effect here" in served.gateway.err
    assert "disable_store" not in served.gateway.err


async def test_clients_work_behind_the_prefix_and_locations_are_without_it(served: Served) -> None:
    async with get_client(url=served.url) as client, httpx.AsyncClient(base_url=served.url) as http:
        thread = await client.threads.create()
        async with http.stream(
            "POST", f"/threads/{thread['thread_id']}/runs/stream", json={"assistant_id": "echo", "input": {"name": "A"}}
        ) as response:
            ids = [line async for line in response.aiter_lines() if line.startswith("id: ")]
            location, run = response.headers["location"], response.headers["content-location"]
        assert location.startswith(f"/threads/{thread['thread_id']}/runs/")
        assert location == f"{run}/stream?last_event_id=-1"
        # As clients do: they put it behind the URL that they were given.
        again = await http.get(f"{served.url}{location}", headers={"last-event-id": "-1"})
        assert [line for line in again.text.splitlines() if line.startswith("id: ")] == ids
        parts = [part async for part in client.runs.stream(thread["thread_id"], "echo", input={"name": "B"})]
        assert parts[-1].event == "end"
        values: Any = (await client.threads.get_state(thread["thread_id"]))["values"]
        assert values["said"] == "Hello there, B"
    async with httpx.AsyncClient(base_url=served.url.removesuffix("/api")) as http:
        assert (await http.get("/threads/search")).status_code == 404
        assert (await http.get("/ok")).json() == {"detail": "Not Found"}


async def test_the_own_origins_may_call_and_others_may_not(served: Served) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key,last-event-id"}
    async with httpx.AsyncClient(base_url=served.url) as http:
        allowed = await http.options("/runs/stream", headers={"origin": "https://app.example", **asked})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        assert allowed.headers["access-control-allow-credentials"] == "true"
        assert "last-event-id" in allowed.headers["access-control-allow-headers"]
        refused = await http.options("/runs/stream", headers={"origin": "https://else.example", **asked})
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers
        for path in ("/ok", "/hello"):  # the gateway's, and the project's own
            response = await http.get(path, headers={"origin": "https://app.example"})
            assert response.headers["access-control-allow-origin"] == "https://app.example"
            exposed = {name.strip() for name in response.headers["access-control-expose-headers"].split(",")}
            assert {"location", "content-location", "x-pagination-total", "x-pagination-next"} <= exposed
            other = await http.get(path, headers={"origin": "https://else.example"})
            assert "access-control-allow-origin" not in other.headers


async def test_the_own_routes_come_first_and_their_lifespan_runs(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.url) as http:
        assert (await http.get("/hello")).json() == {"hello": "from the project", "colour": "blue"}
        assert (await http.get("/info")).json() == {"info": "the project's own"}
        assert (await http.get("/missing")).json() == {"detail": "a teapot"}
        assert (await http.get("/ok")).json()["ok"] is True
        assert "/threads" in (await http.get("/openapi.json")).json()["paths"]
        assert (await http.get("/docs")).status_code == 200
    assert (served.folder / "lifespan.txt").read_text() == "open"


async def test_graphs_are_told_the_headers_that_the_project_names(served: Served) -> None:
    given = {"x-team": "t1", "x-team-secret": "s", "x-other": "o", "user-agent": "me", "authorization": "Bearer b"}
    body = {"assistant_id": "echo", "input": {"name": "Ada"}}
    async with httpx.AsyncClient(base_url=served.url) as http:
        values = (await http.post("/runs/wait", json=body, headers=given)).json()
    assert values["told"] == {"x-team": "t1", "user-agent": "me"}


async def test_threads_are_kept_as_long_as_the_project_says(served: Served) -> None:
    async with get_client(url=served.url) as client, Redis.from_url(served.redis_url) as redis:
        thread_id = (await client.threads.create())["thread_id"]
        await client.runs.wait(thread_id, "echo", input={"name": "Ada"})
        times = [
            await redis.ttl(key)
            async for key in redis.scan_iter(f"*{thread_id}*")
            if b":checkpoints:" in key or b":document:thread:" in key
        ]
    assert len(times) == 2
    assert all(3500 < time <= 3600 for time in times)


async def test_the_lifespan_ends_with_the_gateway() -> None:
    async with serving(CONFIG) as served:
        served.gateway.terminate()
        ended = await served.gateway.ended()
        assert (ended.code, (served.folder / "lifespan.txt").read_text()) == (0, "closed")
        assert "Traceback" not in ended.err


# -- users ------------------------------------------------------------------------------------------------------------


def _as(served: Served, user: str | None) -> httpx.AsyncClient:
    headers = {} if user is None else {"authorization": user}
    return httpx.AsyncClient(base_url=served.url, headers=headers, timeout=20)


async def test_two_users_cannot_see_each_other_by_any_route(guarded: Served) -> None:
    """Every route of the OpenAPI page that has a thread's or a run's id, with the other's."""
    async with _as(guarded, "ada") as ada, _as(guarded, "bob") as bob, _as(guarded, None) as nobody:
        thread_id = (await ada.post("/threads", json={})).json()["thread_id"]
        run = {"assistant_id": "echo", "input": {"name": "Ada"}}
        assert (await ada.post(f"/threads/{thread_id}/runs/wait", json=run)).json()["said"] == "Good day, Ada"
        run_id = (await ada.get(f"/threads/{thread_id}/runs")).json()[0]["run_id"]
        checkpoint = (await ada.get(f"/threads/{thread_id}/state")).json()["checkpoint_id"]
        ids = {"thread_id": thread_id, "run_id": run_id, "checkpoint_id": checkpoint, "key": "any"}
        page = (await ada.get("/openapi.json")).json()
        asked = []
        for path, methods in page["paths"].items():
            if "{thread_id}" in path or "{run_id}" in path:
                for method in methods:
                    body = {**run, "values": {"name": "b"}, "checkpoint": {"checkpoint_id": checkpoint}}
                    place = path.format(**ids)
                    refused = await bob.request(method, place, json=body)
                    assert refused.status_code == 404, (method, path, refused.status_code, refused.text)
                    assert "Ada" not in refused.text
                    # Feedback is left by a link that the run's readers were given, and by nothing else.
                    unknown = 404 if path.endswith("/feedback/{key}") else 401
                    assert (await nobody.request(method, place, json=body)).status_code == unknown
                    asked.append((method, path))
        assert len(asked) > 20
        assert (await bob.post("/threads/search", json={})).json() == []
        assert (await bob.post("/threads/count", json={})).json() == 0
        cancelled = await bob.post("/runs/cancel", json={"thread_id": thread_id, "run_ids": [run_id]})
        assert cancelled.status_code == 404
        assert (await ada.get(f"/threads/{thread_id}/runs/{run_id}")).json()["status"] == "success"


async def test_the_own_checkpointer_is_the_workers_and_the_gateways(guarded: Served) -> None:
    async with _as(guarded, "ada") as ada, Redis.from_url(guarded.redis_url) as redis:
        thread_id = (await ada.post("/threads", json={})).json()["thread_id"]
        await ada.post(f"/threads/{thread_id}/runs/wait", json={"assistant_id": "echo", "input": {"name": "Ada"}})
        assert (await ada.get(f"/threads/{thread_id}/state")).json()["values"]["said"] == "Good day, Ada"
        written = await ada.post(f"/threads/{thread_id}/state", json={"values": {"said": "Good night"}})
        assert written.status_code == 200
        again = await ada.get(f"/threads/{thread_id}/state")
        assert again.json()["values"]["said"] == "Good night"
        assert [key async for key in redis.scan_iter("*:checkpoints:*")] == []
    assert (guarded.folder / "own.db").is_file()


async def test_the_own_routes_are_guarded_where_the_project_says_so(guarded: Served) -> None:
    async with _as(guarded, None) as nobody, _as(guarded, "ada") as ada:
        refused = await nobody.get("/whoami")
        assert (refused.status_code, refused.json()) == (401, {"detail": "who are you?"})
        assert (await ada.get("/whoami")).json() == {"user": "ada"}
        thread_id = (await ada.post("/threads", json={})).json()["thread_id"]
        token = (await ada.post(f"/threads/{thread_id}/token")).json()["token"]
        # A read token is for one thread, and for nothing else.
        assert (await nobody.get(f"/threads/{thread_id}/state?token={token}")).status_code == 200
        assert (await nobody.get(f"/whoami?token={token}")).status_code == 403


async def test_own_websockets_are_guarded_too_and_no_log_tells_their_addresses(guarded: Served) -> None:
    url = f"{guarded.url.replace('http', 'ws')}/echo?token=a-secret"
    async with connect(url, additional_headers={"authorization": "ada"}) as websocket:
        await websocket.send("hi")
        assert await websocket.recv() == "hi"
    with pytest.raises(InvalidStatus):
        async with connect(url):
            pass
    assert "a-secret" not in guarded.gateway.err
    assert "Started server" not in guarded.gateway.err


async def test_what_is_disabled_is_not_there(guarded: Served) -> None:
    async with _as(guarded, "ada") as ada:
        assert (await ada.post("/assistants/search", json={})).status_code == 404
        assert (await ada.post("/threads/search", json={})).status_code == 200


# -- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def cli(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        yield processes


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "cors": ({"http": {"cors": {"allow_origins": "*"}}}, "'http.cors.allow_origins' '*' must be a list of strings"),
    "regex": ({"http": {"cors": {"allow_origin_regex": "("}}}, "'http.cors.allow_origin_regex' '(' is no regular"),
    "age": ({"http": {"cors": {"max_age": True}}}, "'http.cors.max_age' must be int, not True"),
    "prefix": ({"http": {"mount_prefix": "api/"}}, "'http.mount_prefix' 'api/' must be a path such as '/api'"),
    "flag": ({"http": {"disable_runs": "yes"}}, "'http.disable_runs' 'yes' must be true or false"),
    "app": ({"http": {"app": "./app/web.py:nothing"}}, "'http.app' './app/web.py:nothing' must name a Starlette"),
    "app file": ({"http": {"app": "./none.py:app"}}, "http.app: there is no file"),
    "headers": ({"http": {"configurable_headers": {"includes": "x-*"}}}, "'http.configurable_headers.includes' 'x-*'"),
    "http": ({"http": []}, "'http' must be an object"),
    "auth": ({"auth": {"path": "./app/auth.py:own"}}, "auth.path: './app/auth.py:own' must name a langgraph_sdk.Auth"),
    "auth file": ({"auth": {"path": "./auth.js:auth"}}, "auth.path: './auth.js:auth' is JavaScript or TypeScript"),
    "ttl": ({"checkpointer": {"ttl": {"default_ttl": "1h"}}}, "'checkpointer.ttl.default_ttl' must be a number of min"),
}
FATAL: dict[str, tuple[dict[str, Any], str]] = {
    "auth": ({"auth": {"path": "./app/none.py:auth"}}, "langgraph.json: auth.path: "),
    "saver": ({"checkpointer": {"path": "./app/saver.py:nothing"}}, "has no attribute 'nothing'"),
    "saver kind": ({"checkpointer": {"path": "./lib/words.py:os"}}, "must give a BaseCheckpointSaver"),
    "saver fails": ({"checkpointer": {"path": "./app/saver.py:asynccontextmanager"}}, "could not be opened: TypeError"),
    "lifespan": ({"http": {"app": "./app/broken.py:app"}}, "http.app: its lifespan has failed: ValueError: no data"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_told_with_its_file_and_key(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    wrong, told = WRONG[name]
    path = write_project(tmp_path, {"graphs": CONFIG["graphs"], **wrong})
    with pytest.raises(GraphLoadError) as error:
        read_project(read_langgraph_json(path))
    assert str(error.value).startswith(f"{path}: {told}")


@pytest.mark.parametrize("name", FATAL)
async def test_what_is_wrong_is_one_line_and_an_exit_code(cli: Processes, name: str) -> None:
    wrong, told = FATAL[name]
    write_project(cli.folder, {"graphs": CONFIG["graphs"], "dependencies": ["./lib"], **wrong})
    ended = await cli.run("gateway", "--config", "langgraph.json", "--port", "0")
    assert ended.code in (1, 2)
    (line,) = [line for line in ended.err.splitlines() if not line.startswith("20")]  # log lines begin with the date
    assert line.startswith("runstream: error: ")
    assert told in line


async def test_the_worker_says_what_is_wrong_with_its_checkpointer_in_one_line(cli: Processes) -> None:
    wrong = {"checkpointer": {"path": "./app/saver.py:asynccontextmanager"}}
    write_project(cli.folder, {"graphs": CONFIG["graphs"], "dependencies": ["./lib"], "env": ".env", **wrong})
    ended = await cli.run("worker", "--config", "langgraph.json")
    assert ended.code == 1
    assert "could not be opened: TypeError" in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err


async def test_what_works_otherwise_than_one_may_believe_is_told(cli: Processes) -> None:
    """Middleware, a time to live for one's own checkpointer, a second project."""
    (cli.folder / "other").mkdir()
    write_project(cli.folder / "other", {"graphs": {"other": "./app/graph.py:graph"}, "dependencies": ["../lib"]})
    config = {**GUARDED, "checkpointer": {**GUARDED["checkpointer"], **CONFIG["checkpointer"]}, "auht": {}}
    write_project(cli.folder, config)
    web = cli.folder / "app" / "web.py"
    web.write_text(f"{WEB}\nfrom starlette.middleware.gzip import GZipMiddleware\napp.add_middleware(GZipMiddleware)\n")
    gateway = await cli.start("gateway", "--json", "langgraph.json", "other/langgraph.json", "--port", "0")
    assert (await gateway.json_line())["graphs"] == ["echo", "other"]
    for told in (
        "'http.app' has middleware, which is for its own routes only",
        "'checkpointer.ttl' removes no checkpoints: those of 'checkpointer.path' are its own to remove",
        "other/langgraph.json: its 'auth', 'http' and 'checkpointer' have no effect: those of the first do",
        "'auth.disable_studio_auth' has no effect here",
        "'auht' is unknown and has no effect; did you mean 'auth'?",
    ):
        assert told in gateway.err


# -- runstream dev ----------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def _answer(url: str) -> tuple[str, str]:
    """What the worker's graph says, and what the gateway's own route."""
    async with get_client(url=url) as client, httpx.AsyncClient() as http:
        values = await client.runs.wait(None, "echo", input={"name": "Ada"})
        assert isinstance(values, dict)
        return values["said"], (await http.get(f"{url}/hello")).json()["hello"]


async def test_dev_starts_everything_in_the_projects_folder_and_reloads_all_of_it(cli: Processes) -> None:
    write_project(cli.folder, CONFIG)
    port = str(free_port())
    dev = await cli.start("dev", "--port", port, environment={"RUNSTREAM_REDIS_URL": ""})
    first = await dev.json_line()
    family = psutil.Process(dev.pid).children(recursive=True)
    assert first["url"] == f"http://127.0.0.1:{port}/api"
    assert first["graphs"] == ["echo", "made"]
    assert first["embedded"] is not None
    assert await _answer(first["url"]) == ("Hello there, Ada", "from the project")

    (cli.folder / "app" / "web.py").write_text(WEB.replace("from the project", "anew"))
    second = await dev.json_line()
    assert second["url"] == first["url"]
    assert await _answer(first["url"]) == ("Hello there, Ada", "anew")

    (cli.folder / ".env").write_text("GREETING=Hi")
    await dev.json_line()
    assert await _answer(first["url"]) == ("Hi, Ada", "anew")

    (cli.folder / "app" / "web.py").write_text("app = None")
    await until(lambda: "the gateway has ended (1); it starts anew when a file changes" in dev.err, "it is told")
    (cli.folder / "app" / "web.py").write_text(WEB)
    await dev.json_line()
    assert await _answer(first["url"]) == ("Hi, Ada", "from the project")

    family += psutil.Process(dev.pid).children(recursive=True)
    dev.send(signal.SIGINT)
    assert (await dev.ended()).code == 0
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert "Traceback" not in dev.err
