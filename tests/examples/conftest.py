"""The examples as users run them: as scripts, against a worker that has the graphs of `examples/langgraph.json`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest
from tests.support.processes import Processes
from tests.support.workers import Workers

from runstream_worker.graphs import load_graphs

EXAMPLES = Path(__file__).parents[2] / "examples"
_PACKAGES = [str(EXAMPLES.parent / role) for role in ("producer", "worker")]


@pytest.fixture(autouse=True)
def environment(redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of the test and of the scripts: the test's Redis and namespace, and no model but the stand-in."""
    monkeypatch.setenv("RUNSTREAM_REDIS_URL", redis_url)
    monkeypatch.setenv("RUNSTREAM_NAMESPACE", namespace)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(_PACKAGES))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return dict(os.environ)


@pytest.fixture
async def worker(workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with the examples' graphs and a checkpointer."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    graphs = load_graphs([], config_file=EXAMPLES / "langgraph.json")
    sources = {name: source.graph_or_factory for name, source in graphs.items()}
    await workers.start({"checkpointer_url": f"sqlite:///{tmp_path / 'threads.db'}"}, **sources)


@pytest.fixture
async def gateway_url(
    redis_url: str,
    namespace: str,
    environment: dict[str, str],
    tmp_path: Path,
) -> AsyncIterator[str]:
    """A gateway with the examples' graphs, which the scripts find by their environment."""
    async with Processes(redis_url, namespace, tmp_path) as processes:
        checkpointer = f"sqlite:///{tmp_path / 'threads.db'}"
        options = ("--config", str(EXAMPLES / "langgraph.json"), "--port", "0", "--checkpointer", checkpointer)
        gateway = await processes.start("gateway", "--json", *options)
        url: str = (await gateway.json_line())["url"]
        environment["RUNSTREAM_GATEWAY_URL"] = url
        yield url


class RunScript(Protocol):
    """Runs an example to its end."""

    async def __call__(self, script: str, *arguments: str, stdin: str = "") -> str:
        """What it printed; fails where it did not exit with 0."""


@pytest.fixture
def run_script(environment: Mapping[str, str]) -> RunScript:
    """Runs an example as a process of its own."""

    async def run(script: str, *arguments: str, stdin: str = "") -> str:
        async with started(str(EXAMPLES / script), *arguments, environment=environment) as process:
            out, err = await process.communicate(stdin.encode())
        assert process.returncode == 0, err.decode()
        return out.decode()

    return run


@asynccontextmanager
async def started(
    *arguments: str, environment: Mapping[str, str], cwd: Path | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process, which does not outlive the block."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environment), cwd=cwd
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
