"""The compose file: what it says, and what its commands do when they are started as it says, without containers."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from langgraph_sdk import get_client
from redis.asyncio import Redis
from tests.support.processes import Processes, Running
from tests.support.waiting import until

from runstream import Client, ClientSettings
from runstream_gateway.server import _GRACE
from runstream_worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
VARIABLE = re.compile(r"\$\{\w+:-([^}]*)\}")

needs_redis_server = pytest.mark.skipif(
    not (shutil.which("redis-server") and shutil.which("redis-cli")), reason="no redis-server and redis-cli on PATH"
)


def with_defaults(value: Any) -> Any:
    """The document as compose reads it where no variable is set."""
    if isinstance(value, dict):
        return {key: with_defaults(each) for key, each in value.items()}
    if isinstance(value, list):
        return [with_defaults(each) for each in value]
    return VARIABLE.sub(r"\1", value).replace("$$", "$") if isinstance(value, str) else value


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    document = with_defaults(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))
    found: dict[str, Any] = document["services"]
    return found


def seconds(duration: str) -> float:
    assert duration.endswith("s")
    return float(duration.removesuffix("s"))


def option(command: Sequence[str], name: str) -> str:
    return command[command.index(name) + 1]


# -- what it says -----------------------------------------------------------------------------------------------------


def test_redis_keeps_a_log_and_throws_nothing_out(services: dict[str, Any]) -> None:
    command = services["redis"]["command"]
    assert (option(command, "--appendonly"), option(command, "--appendfsync")) == ("yes", "everysec")
    assert option(command, "--maxmemory-policy") == "noeviction"
    assert services["redis"]["volumes"] == ["redis-data:/data"]


def test_nothing_is_published_beyond_this_machine(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_worker_can_be_scaled(services: dict[str, Any]) -> None:
    assert not {"container_name", "ports", "hostname"} & set(services["worker"])


def test_the_worker_is_given_the_time_that_it_gives_its_runs(services: dict[str, Any]) -> None:
    worker = services["worker"]
    grace = float(option(worker["command"], "--shutdown-grace")) + WorkerSettings.cancel_grace
    assert seconds(worker["stop_grace_period"]) > grace + 5


@pytest.mark.parametrize("name", ["worker", "gateway"])
def test_everything_has_a_health_check_and_what_needs_it_waits(services: dict[str, Any], name: str) -> None:
    assert all("test" in service["healthcheck"] for service in services.values())
    waits = services[name]["depends_on"]
    assert {name: wait["condition"] for name, wait in waits.items()} == dict.fromkeys(
        ["redis", "postgres"], "service_healthy"
    )
    assert waits["postgres"]["required"] is False
    assert services["postgres"]["profiles"] == ["postgres"]


def test_the_gateway_is_the_workers_image_with_its_runs_and_its_checkpoints(services: dict[str, Any]) -> None:
    gateway, worker = services["gateway"], services["worker"]
    assert gateway["image"] == worker["image"]
    for name in ("RUNSTREAM_REDIS_URL", "RUNSTREAM_NAMESPACE", "RUNSTREAM_CHECKPOINTER"):
        assert gateway["environment"][name] == worker["environment"][name]
    assert seconds(gateway["stop_grace_period"]) > _GRACE + 5
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (installed,) = re.findall(r"'\.\[(.*)\]'", (ROOT / "Dockerfile").read_text())
    assert {"worker", "gateway", "postgres"} <= set(installed.split(",")) <= set(extras)


def test_the_image_runs_as_an_ordinary_user_and_its_process_hears_signals() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    final = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM")) :]
    (user,) = [line.split()[1] for line in final if line.startswith("USER")]
    assert user not in ("0", "root")
    assert 'ENTRYPOINT ["runstream"]' in final
    assert 'CMD ["worker"]' in final
    assert any("PYTHONSAFEPATH=1" in line for line in final)


def test_docker_compose_can_read_it() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    subprocess.run([docker, "compose", "--profile", "postgres", "config", "--quiet"], cwd=ROOT, check=True)


# -- what its commands do ---------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class RedisService:
    """The redis service's command, on another port and in another folder."""

    def __init__(self, service: dict[str, Any], folder: Path) -> None:
        self._service = service
        self._folder = folder
        self._port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    async def healthy(self) -> bool:
        """The health check's verdict; in the container Redis is on its usual port."""
        kind, test = self._service["healthcheck"]["test"]
        assert kind == "CMD-SHELL"
        check = test.replace("redis-cli", f"redis-cli -p {self._port}")
        process = await asyncio.create_subprocess_exec("sh", "-c", check, stderr=asyncio.subprocess.DEVNULL)
        return await process.wait() == 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """From a green health check to a killed process, unless it has been ended before."""
        command = [*self._service["command"], "--port", str(self._port), "--bind", "127.0.0.1"]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=self._folder, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await until(self.healthy, "Redis is healthy")
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.fixture
def redis_service(services: dict[str, Any], tmp_path: Path) -> RedisService:
    return RedisService(services["redis"], tmp_path)


@needs_redis_server
async def test_redis_turns_healthy_ends_on_sigterm_and_keeps_what_it_was_told(
    redis_service: RedisService, services: dict[str, Any]
) -> None:
    assert not await redis_service.healthy()
    async with redis_service.running() as process, Redis.from_url(redis_service.url) as redis:
        await redis.set("kept", "yes")
        process.terminate()
        assert await asyncio.wait_for(process.wait(), seconds(services["redis"]["stop_grace_period"])) == 0
    async with redis_service.running(), Redis.from_url(redis_service.url) as redis:
        assert await redis.get("kept") == b"yes"


@needs_redis_server
async def test_the_worker_turns_healthy_runs_the_agent_and_ends_on_sigterm(
    redis_service: RedisService, services: dict[str, Any], tmp_path: Path
) -> None:
    service = services["worker"]
    namespace = service["environment"]["RUNSTREAM_NAMESPACE"]
    environment = {**service["environment"], "RUNSTREAM_REDIS_URL": redis_service.url}
    kind, program, *check = service["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "runstream")

    async with redis_service.running(), Processes(redis_service.url, namespace, tmp_path) as processes:

        async def healthy() -> bool:
            return (await processes.run(*check, environment=environment)).code == 0

        assert not await healthy()
        worker = await processes.start(*service["command"], environment=environment)
        await until(healthy, "the worker is healthy", timeout=seconds(service["healthcheck"]["start_period"]))
        async with Client(redis_service.url, settings=ClientSettings(namespace=namespace)) as client:
            result = await client.invoke("agent", {"messages": [{"role": "user", "content": "What is 6 * 7?"}]})
        assert "42" in result["messages"][-1]["content"]
        await ends_on_sigterm(worker, seconds(service["stop_grace_period"]))
        assert not await healthy()


@needs_redis_server
async def test_the_gateway_turns_healthy_serves_and_ends_on_sigterm(
    redis_service: RedisService, services: dict[str, Any], tmp_path: Path
) -> None:
    service = services["gateway"]
    environment = {**service["environment"], "RUNSTREAM_REDIS_URL": redis_service.url}
    port = str(free_port())
    command = [port if word == option(service["command"], "--port") else word for word in service["command"]]
    kind, program, *check = service["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    check = [word.replace(":2024/", f":{port}/") for word in check]

    async with (
        redis_service.running(),
        Processes(redis_service.url, environment["RUNSTREAM_NAMESPACE"], tmp_path) as processes,
    ):

        async def healthy() -> bool:
            asking = await asyncio.create_subprocess_exec(sys.executable, *check, stderr=asyncio.subprocess.DEVNULL)
            return await asking.wait() == 0

        assert not await healthy()
        gateway = await processes.start(*command, environment=environment)
        await until(healthy, "the gateway is healthy", timeout=seconds(service["healthcheck"]["start_period"]))
        worker = await processes.start(*services["worker"]["command"], environment=environment)
        async with get_client(url=f"http://127.0.0.1:{port}") as client:
            question: Any = {"messages": [{"role": "user", "content": "What is 6 * 7?"}]}
            result: Any = await client.runs.wait(None, "agent", input=question)
        assert "42" in result["messages"][-1]["content"]
        await ends_on_sigterm(gateway, seconds(service["stop_grace_period"]))
        assert not await healthy()
        await ends_on_sigterm(worker, seconds(services["worker"]["stop_grace_period"]))


async def ends_on_sigterm(worker: Running, grace: float) -> None:
    worker.terminate()
    async with asyncio.timeout(grace):
        ended = await worker.ended()
    assert ended.code == 0, ended.err


def test_the_postgres_health_check_asks_for_the_database_that_is_made(services: dict[str, Any]) -> None:
    service = services["postgres"]
    _, *command = service["healthcheck"]["test"]
    assert option(command, "--dbname") == service["environment"]["POSTGRES_DB"]
    assert option(command, "--username") == service["environment"]["POSTGRES_USER"]
    if shutil.which(command[0]) is None:
        pytest.skip("pg_isready is not on PATH")
    unreachable = subprocess.run([*command, "--port", str(free_port())], capture_output=True, check=False)
    assert unreachable.returncode != 0, shlex.join(command)
