"""The documentation, executed: a page's snippets run in order, as a reader would run them, and its commands parse.

- A `python` snippet whose first line is a comment with a file's name is written to that file.
- The first `$ runstream worker ...` of a page starts the page's worker, with these targets.
- A `$ runstream dev ...` before that starts that command, on a port of its own, which then stands for 2024 on the page.
- The lines `$ python ...` of a `console` block run in a shell, in the folder of these files.
- Every other `python` snippet runs here, with `await` where it likes; names live on to the end of the page.
- On the gateway's page every `bash` snippet runs, too. What Python has called `thread_id` is `$THREAD_ID` there.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import inspect
import os
import re
import shlex
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from langgraph_sdk.client import LangGraphClient
from tests.support.processes import Processes
from tests.support.workers import Workers

from runstream import Client
from runstream_worker.graphs import load_graphs

ROOT = Path(__file__).parents[2]
RUN = ["README.md", "docs/GUIDE.md", "docs/GATEWAY.md"]
READ = [*RUN, "examples/README.md"]
IN_A_SHELL = "docs/GATEWAY.md"
_USUAL_PORT = "2024"
_ROLES = ("producer", "worker", "gateway")

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# (\w+\.py)\n")
_PROMPT = "$ runstream "


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the line on which its text begins."""

    page: str
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The arguments of its `$ runstream` lines, without what stands behind a pipe."""
        if self.language != "console":
            return []
        lines = (line for line in self.text.splitlines() if line.startswith(_PROMPT))
        return [_until_pipe(shlex.split(line.removeprefix(_PROMPT))) for line in lines]

    @property
    def scripts(self) -> list[str]:
        """Its `$ python` lines."""
        lines = self.text.splitlines() if self.language == "console" else []
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ python ")]


def _until_pipe(words: list[str]) -> list[str]:
    return words[: words.index("|")] if "|" in words else words


def _blocks(page: str) -> Iterator[Block]:
    text = (ROOT / page).read_text()
    for match in _BLOCK.finditer(text):
        yield Block(page, text.count("\n", 0, match.start(2)) + 1, match[1], match[2])


class Reader:
    """Does what a page says."""

    def __init__(self, folder: Path, workers: Workers, processes: Processes) -> None:
        self._folder = folder
        self._workers = workers
        self._processes = processes
        self._port = _USUAL_PORT
        self._names: dict[str, Any] = {"__name__": "snippet"}
        self._clients: dict[int, Client | LangGraphClient] = {}
        self._modules: list[str] = []
        self._has_dev = False
        self._has_worker = False

    async def follow(self, block: Block) -> None:
        """Run one block."""
        for name, *arguments in block.commands:
            if name == "worker" and not self._has_worker:
                await self._start_worker(arguments)
            if name == "dev" and not (self._has_dev or self._has_worker):
                await self._start_dev(arguments)
        for script in block.scripts:
            await self._run_script(block, script)
        if block.language == "bash" and block.page == IN_A_SHELL:
            await self._run_in_a_shell(block)
        if block.language == "python":
            named = _FILE.match(block.text)
            if named is None:
                await self._execute(block)
            else:
                (self._folder / named[1]).write_text(self._on_port(block.text))
                self._modules.append(named[1].removesuffix(".py"))

    async def aclose(self) -> None:
        """Close the clients that the page has left open for its reader, and forget the modules that it has written."""
        for name in self._modules:
            sys.modules.pop(name, None)
        for client in self._clients.values():
            await client.aclose()

    async def _start_worker(self, arguments: Sequence[str]) -> None:
        parser = argparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("targets", nargs="+")
        parser.add_argument("--checkpointer")
        given = parser.parse_args(arguments)
        graphs = {name: source.graph_or_factory for name, source in load_graphs(given.targets).items()}
        await self._workers.start({"checkpointer_url": given.checkpointer}, **graphs)
        self._has_worker = True

    async def _start_dev(self, arguments: Sequence[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = str(probe.getsockname()[1])
        dev = await self._processes.start("dev", *arguments, "--port", self._port)
        assert (await dev.json_line())["url"] == f"http://127.0.0.1:{self._port}"
        self._has_dev = True

    async def _run_in_a_shell(self, block: Block) -> None:
        names = {name.upper(): value for name, value in self._names.items() if name.endswith("_id")}
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", self._on_port(block.text.replace("curl ", "curl --fail "))),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **names},
        )
        out, err = await process.communicate()
        assert process.returncode == 0, f"{block.page}, the block of line {block.line}: {err.decode()}"
        assert out.strip(), f"{block.page}, the block of line {block.line} printed nothing"

    async def _run_script(self, block: Block, line: str) -> None:
        """Run a line that starts a file of the page; what it prints goes to the file that it names, or is looked at."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", f'python() {{ "{sys.executable}" "$@"; }}; {line}'),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / role) for role in _ROLES)},
        )
        out, err = await process.communicate()
        assert process.returncode == 0, f"{block.page}, the block of line {block.line}: {line}: {err.decode()}"
        assert out.strip() or ">" in line, f"{block.page}, the block of line {block.line}: {line} printed nothing"

    def _on_port(self, text: str) -> str:
        return text.replace(f"127.0.0.1:{_USUAL_PORT}", f"127.0.0.1:{self._port}")

    async def _execute(self, block: Block) -> None:
        """Run a snippet; a traceback names the page and its line."""
        text = "\n" * (block.line - 1) + self._on_port(block.text)
        code = compile(text, str(ROOT / block.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        done = FunctionType(code, self._names)()
        try:
            if inspect.isawaitable(done):
                await done
        finally:
            found = [value for value in self._names.values() if isinstance(value, Client | LangGraphClient)]
            self._clients |= {id(client): client for client in found}


@pytest.fixture
async def reader(
    workers: Workers, redis_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Reader]:
    """A reader in a folder of its own, with the test's Redis, and no model but the stand-in."""
    monkeypatch.setenv("RUNSTREAM_REDIS_URL", redis_url)
    monkeypatch.setenv("RUNSTREAM_NAMESPACE", namespace)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    async with (
        Processes(redis_url, namespace, tmp_path) as processes,
        aclosing(Reader(tmp_path, workers, processes)) as reader,
    ):
        yield reader


@pytest.mark.parametrize("page", RUN)
async def test_every_snippet_runs(page: str, reader: Reader) -> None:
    for block in _blocks(page):
        await reader.follow(block)


@pytest.mark.parametrize("page", READ)
def test_every_command_is_one(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = pytest.importorskip("runstream.cli.app", reason="there is no command line yet")
    processes = pytest.importorskip("tests.support.processes")
    processes._write_metadata(tmp_path)  # the worker's commands are found by entry point, which only an install makes
    monkeypatch.syspath_prepend(os.fspath(tmp_path))
    commands = [(block, command) for block in _blocks(page) for command in block.commands]
    assert commands

    for block, command in commands:
        try:
            app._parser().parse_args(command)
        except SystemExit:
            pytest.fail(f"{page}, the block of line {block.line}: runstream {shlex.join(command)}")


@pytest.mark.parametrize("page", READ)
def test_every_link_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    folder = (ROOT / page).parent
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]

    assert [link for link in links if not (folder / link).exists()] == []
