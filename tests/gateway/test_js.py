"""LangGraph's own JavaScript client, three versions of it, and its React hook; see `js/`.

The scripts know nothing but the server's URL, so that they can be run against LangGraph's own server too.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from tests.gateway.conftest import GRAPHS
from tests.support.processes import Processes
from tests.support.proxy import Proxy

from runstream import Client

SCRIPTS: Final = Path(__file__).parent / "js"
VERSIONS: Final = ("2.0", "1.11", "1.15")
_OTHER_SERVER: Final = "RUNSTREAM_TEST_GATEWAY_URL" in os.environ
_NODE_FOR: Final = 100.0  # seconds

pytestmark = [
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="no node, or no npm"),
    pytest.mark.timeout(240),
]


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts with what they need, outside of the repository."""
    folder = tmp_path_factory.mktemp("js") / "js"
    shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("node_modules"))
    installed = subprocess.run(
        ("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    if installed.returncode != 0:
        pytest.skip(f"npm could not install: {installed.stderr.strip()[-500:]}")
    return folder


@pytest.fixture
async def processes(redis_url: str, namespace: str, tmp_path: Path) -> AsyncIterator[Processes]:
    """Starts workers and gateways of the test's own namespace."""
    async with Processes(redis_url, namespace, tmp_path) as processes:
        yield processes


def _environment(base_url: str, version: str) -> Mapping[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("LANGGRAPH_", "LANGSMITH_"))},
        "LANGGRAPH_TEST_URL": base_url,
        "LANGGRAPH_TEST_SDK": version,
        "LANGGRAPH_TEST_OFFICIAL": "1" if _OTHER_SERVER else "0",
    }


@asynccontextmanager
async def _node(
    folder: Path, *arguments: str, environment: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A node that runs, and does not outlive the block; both its outputs are one."""
    process = await asyncio.create_subprocess_exec(
        *("node", *arguments),
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("script", ["resources", "streams", "react", "chat_ui"])
async def test_the_client_works(script: str, version: str, scripts: Path, base_url: str) -> None:
    """Everything in a script passes."""
    environment = _environment(base_url, version)
    async with _node(scripts, "--test", f"{script}.test.mjs", environment=environment) as node:
        out, _ = await asyncio.wait_for(node.communicate(), _NODE_FOR)
    assert node.returncode == 0, out.decode()


@pytest.mark.skipif(_OTHER_SERVER, reason="another server: its workers cannot be killed")
@pytest.mark.parametrize(
    ("version", "history"), [*((version, "history") for version in VERSIONS), ("1.15", "no-history")]
)
async def test_a_worker_is_killed_while_a_page_follows_its_run(
    version: str, history: str, scripts: Path, processes: Processes, client: Client
) -> None:
    """What the page shows at the end is what the thread has saved."""
    await _kill_while(scripts, "killed_worker.mjs", history, version=version, processes=processes, client=client)


@pytest.mark.skipif(_OTHER_SERVER, reason="another server: its workers cannot be killed")
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_page_of_chunks_alone_takes_back_what_a_killed_worker_had_begun(
    version: str, scripts: Path, processes: Processes, client: Client
) -> None:
    """Never are both beginnings of a message on the page."""
    await _kill_while(scripts, "taken_back.mjs", version=version, processes=processes, client=client)


async def _kill_while(
    scripts: Path, script: str, *arguments: str, version: str, processes: Processes, client: Client
) -> None:
    """Kill the worker of the run that a script prints; then everything in the script passes."""
    workers = [await processes.worker("--config", str(GRAPHS)) for _ in range(2)]
    gateway = await processes.start("gateway", "--config", str(GRAPHS), "--port", "0", "--json")
    environment = _environment((await gateway.json_line())["url"], version)
    async with _node(scripts, script, *arguments, environment=environment) as node:
        assert node.stdout is not None
        line = await asyncio.wait_for(node.stdout.readline(), _NODE_FOR)
        assert line.startswith(b"{"), (line + await node.stdout.read()).decode()
        holder = (await client.get(json.loads(line)["run_id"])).worker
        (victim,) = (worker for worker in workers if worker.worker_id == holder)
        victim.command.kill()
        out, _ = await asyncio.wait_for(node.communicate(), _NODE_FOR)
    assert node.returncode == 0, out.decode()


@pytest.mark.skipif(_OTHER_SERVER, reason="another server: its gateway cannot be killed")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_gateway_ends_in_the_middle_of_many_streams(
    version: str, end: signal.Signals, scripts: Path, processes: Processes
) -> None:
    """Every stream goes on through another gateway, and has each event once."""
    await processes.worker("--config", str(GRAPHS))
    gateways = [await processes.start("gateway", "--config", str(GRAPHS), "--port", "0", "--json") for _ in range(2)]
    first, second = [(await gateway.json_line())["url"] for gateway in gateways]
    async with (
        Proxy(first) as address,
        _node(scripts, "killed_gateway.mjs", environment=_environment(address.url, version)) as node,
    ):
        assert node.stdout is not None
        line = await asyncio.wait_for(node.stdout.readline(), _NODE_FOR)
        assert line == b"in the middle\n", (line + await node.stdout.read()).decode()
        address.lead_to(second)
        gateways[0].send(end)
        out, _ = await asyncio.wait_for(node.communicate(), _NODE_FOR)
        assert node.returncode == 0, out.decode()
    assert (await gateways[0].ended()).code == (0 if end is signal.SIGTERM else -end)
