"""What is built, installed where nothing else is: a backend's environment."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.processes import Processes

ROOT = Path(__file__).parents[2]
PACKAGES = {"producer": "runstream", "worker": "runstream_worker", "gateway": "runstream_gateway"}
HEAVY = {"arq", "langgraph", "langgraph_sdk", "langchain", "langchain_core", "langchain_openai", "orjson", "httpx"}
HEAVY |= {"fastapi", "starlette", "uvicorn", "websockets"}
BARE = {"annotated-types", "pip", "pydantic", "pydantic-core", "redis", "runstream", "setuptools"}
BARE |= {"typing-extensions", "typing-inspection", "pyjwt", "async-timeout"}  # of pydantic and redis, by version
OFFLINE = re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeout|Network is unreachable|ProxyError")

GRAPHS = """
import asyncio
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict):
    number: int

async def double(state: State) -> State:
    return {"number": state["number"] * 2}

async def wait(state: State) -> State:
    await asyncio.Event().wait()
    return state

math = StateGraph(State).add_node(double).add_edge(START, "double").compile()
slow = StateGraph(State).add_node(wait).add_edge(START, "wait").compile()
"""

BACKEND = """
import asyncio, json, sys, time
began = time.perf_counter()
import runstream
took = time.perf_counter() - began
from importlib import metadata
from runstream import Client, RunStopped

async def main():
    async with Client() as client:
        run = await client.enqueue("math", {"number": 21}, stream_mode="updates")
        modes = [event.mode async for event in client.tail(run.run_id)]
        result = await client.result(run.run_id)
        waiting = await client.enqueue("slow", {"number": 0})
        async for event in client.tail(waiting.run_id):
            if event.mode == "attempt":
                stopping = await client.stop(waiting.run_id, reason="enough")
        try:
            await client.result(waiting.run_id)
        except RunStopped as error:
            stopped = error.info.stop_reason
    return {"modes": modes, "result": result, "outcome": stopping.outcome, "stopped": stopped}

told = asyncio.run(main())
told["import"] = took
told["modules"] = sorted({name.partition(".")[0] for name in sys.modules})
told["installed"] = {found.name.lower().replace("_", "-"): found.version for found in metadata.distributions()}
told["file"] = runstream.__file__
print(json.dumps(told))
"""


# Every call of `runstream` imports all commands; those of the gateway must not bring a framework.
COMMANDS = """
import contextlib, io, sys
from runstream.cli import main
with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):
    sys.argv = ["runstream", "--help"]
    main()
assert "gateway" in told.getvalue()
print(" ".join({name.partition(".")[0] for name in sys.modules}))
"""


def run(*command: str | Path) -> str:
    """Run a command that needs a package index; where there is none, only continuous integration insists."""
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode and OFFLINE.search(said) and not os.environ.get("CI"):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, said
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel, what it requires, and no extra."""
    folder = tmp_path_factory.mktemp("bare")
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "pip", "install", "-q", wheel)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def gateway_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the extra `gateway`, and no other."""
    folder = tmp_path_factory.mktemp("gateway")
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "pip", "install", "-q", f"{wheel}[gateway]")
    return folder / "bin" / "python"


@pytest.fixture
async def processes(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(redis_url, namespace, tmp_path) as processes:
        yield processes


def run_backend(python: Path, script: Path, environment: dict[str, str]) -> str:
    """Run a script in an environment of its own, where nothing of this one can be imported."""
    done = subprocess.run(
        [python, "-I", "-W", "error", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def sources() -> set[str]:
    """Every file of the packages, as the wheel has to name it."""
    return {
        str(path.relative_to(ROOT / role))
        for role, package in PACKAGES.items()
        for path in (ROOT / role / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        (info,) = {name.partition("/")[0] for name in files if ".dist-info/" in name}
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    assert {name for name in files if not name.startswith(info)} == sources()
    assert {f"{package}/py.typed" for package in PACKAGES.values()} <= files
    assert any(name.endswith(".lua") for name in files)
    console = {name.rpartition(".")[2] for name in files if name.startswith("runstream_gateway/console/")}
    assert {"html", "js", "css"} <= console
    assert f"{info}/licenses/LICENSE" in files
    assert "runstream = runstream.cli:main" in entry_points
    assert "worker = runstream_worker.commands:register" in entry_points
    assert "gateway = runstream_gateway.commands:register" in entry_points


def test_the_source_distribution_has_sources_tests_and_licence_and_no_leftovers(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "tests/conftest.py"} <= files
    assert {f"{role}/{package}/py.typed" for role, package in PACKAGES.items()} <= files
    assert not [name for name in files if "__pycache__" in name or name.endswith((".pyc", ".rdb"))]


async def test_a_bare_install_enqueues_tails_and_stops_with_the_newest_redis_py(
    bare_python: Path, processes: Processes, redis_url: str, namespace: str, record_property: Any
) -> None:
    processes.write("graphs.py", GRAPHS)
    script = processes.write("backend.py", BACKEND)
    worker = await processes.worker("math=graphs.py:math", "slow=graphs.py:slow", "--shutdown-grace", "0")
    environment = {"RUNSTREAM_REDIS_URL": redis_url, "RUNSTREAM_NAMESPACE": namespace}
    told = json.loads(await asyncio.to_thread(run_backend, bare_python, script, environment))
    record_property("seconds to import runstream", told["import"])

    assert told["modes"] == ["attempt", "updates", "end"]
    assert told["result"] == {"number": 42}
    assert (told["outcome"], told["stopped"]) == ("stopping", "enough")
    assert not HEAVY & set(told["modules"])
    assert set(told["installed"]) <= BARE
    assert told["file"].startswith(str(bare_python.parents[1]))
    # The point of it: arq holds the worker back at redis-py 5, a backend is free.
    assert int(metadata.version("redis").partition(".")[0]) == 5
    assert int(told["installed"]["redis"].partition(".")[0]) > 5
    worker.command.terminate()
    assert (await worker.command.ended()).code == 0


def test_the_commands_of_a_bare_install_load_no_framework_and_say_what_is_missing(
    bare_python: Path, tmp_path: Path
) -> None:
    script = tmp_path / "commands.py"
    script.write_text(COMMANDS)
    assert not HEAVY & set(run_backend(bare_python, script, {}).split())

    command = bare_python.with_name("runstream")
    refused = subprocess.run([command, "gateway"], env={}, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    # What it says works from where the reader is: there is no runstream in an index.
    told = re.fullmatch(
        r"runstream: error: fastapi is not installed; pip install '(/.*\.whl)\[gateway\]'\n", refused.stderr
    )
    assert told is not None, refused.stderr
    assert Path(told[1]).is_file()


async def test_the_gateway_extra_has_what_a_gateway_needs(
    gateway_python: Path, processes: Processes, redis_url: str, namespace: str
) -> None:
    """A worker and a gateway of that environment, where nothing of this one can be imported."""
    processes.write("graphs.py", GRAPHS)
    environment = {"RUNSTREAM_REDIS_URL": redis_url, "RUNSTREAM_NAMESPACE": namespace}
    async with (
        installed(gateway_python, processes.folder, environment, "worker", "--json", "math=graphs.py:math"),
        installed(
            gateway_python, processes.folder, environment, "gateway", "--json", "math=graphs.py:math", "--port", "0"
        ) as ready,
        httpx.AsyncClient(base_url=ready["url"], timeout=30) as http,
    ):
        answer = await http.post("/runs/wait", json={"assistant_id": "math", "input": {"number": 21}})
        assert answer.json() == {"number": 42}
        page = await http.get("/", headers={"accept": "text/html"})
        assert page.headers["content-type"].startswith("text/html")
        assert (await http.get("/docs")).status_code == 200


@asynccontextmanager
async def installed(
    python: Path, folder: Path, environment: dict[str, str], *arguments: str
) -> AsyncIterator[dict[str, Any]]:
    """A command of that environment, from when it is ready; gives what it says then."""
    process = await asyncio.create_subprocess_exec(
        python.with_name("runstream"), *arguments, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
