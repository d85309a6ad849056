"""The users of Redis that docs/SECURITY.md names: each can do its work and nothing else.

The lines are read from the page, so that what an operator copies is what is tried here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypedDict
from uuid import uuid4

import httpx
import pytest
from langgraph.graph import START, StateGraph
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError
from tests.support.processes import Processes
from tests.support.receivers import Receiver
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

from runstream import Client, RunNotFound, RunSpec, Status
from runstream.apikeys import ApiKeys
from runstream_gateway.app import create_app
from runstream_gateway.core import open_gateway
from runstream_gateway.settings import GatewaySettings
from runstream_worker.graphs import graph_source

pytestmark = pytest.mark.real_redis

PAGE: Final = (Path(__file__).parents[2] / "docs" / "SECURITY.md").read_text("utf-8")
ROLES: Final = ("producer", "worker", "gateway", "reader")
PASSWORD: Final = "hush"  # noqa: S105 - a test's
GRAPH: Final = """
import asyncio
from pathlib import Path
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    n: int
    slow: bool

async def add(state):
    if state.get("slow"):
        Path("begun").touch()
        while not Path("go").exists():
            await asyncio.sleep(0.02)
    return {"n": state.get("n", 0) + 1}

graph = StateGraph(State).add_node("add", add).add_edge(START, "add").compile()
"""


class State(TypedDict, total=False):
    n: int


def lines_of(role: str) -> list[str]:
    """The arguments of `ACL SETUSER` that the page has for a role."""
    found = re.search(rf"^ACL SETUSER {role} ((?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
    assert found is not None, role
    return found[1].replace("\\\n", " ").replace("PASSWORD", PASSWORD).split()


def rules_of(role: str) -> list[str]:
    """The same, with a selector in one piece."""
    joined: list[str] = []
    for word in lines_of(role):
        if joined and joined[-1].startswith("(") and not joined[-1].endswith(")"):
            joined[-1] += f" {word}"
        else:
            joined.append(word)
    return joined


class Server:
    """A Redis with the page's users, and nobody else but its administrator."""

    def __init__(self, server: RedisServer, admin: Any) -> None:
        self.server = server
        self.admin = admin

    def url(self, role: str) -> str:
        return self.server.url.replace("redis://", f"redis://{role}:{PASSWORD}@")

    async def refused(self) -> list[str]:
        """What users were refused so far: user, and command, key or channel."""
        return sorted({f"{one['username']}: {one['object']}" for one in await self.admin.acl_log()})


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with RedisServer(tmp_path, fsync="no") as redis:
        admin: Any = Redis.from_url(redis.url, decode_responses=True)
        for role in ROLES:
            await admin.execute_command("ACL", "SETUSER", role, *rules_of(role))
        yield Server(redis, admin)
        await admin.aclose()


@asynccontextmanager
async def worker_of(server: Server, folder: Path) -> AsyncIterator[Processes]:
    async with Processes(server.url("worker"), "runstream", folder) as processes:
        processes.write("graph.py", GRAPH)
        await processes.worker("adds=graph.py", "--concurrency", "5")
        yield processes


# -- each can do its work ---------------------------------------------------------------------------------------------


async def test_a_producer_and_a_worker_do_their_work(server: Server, tmp_path: Path) -> None:
    async with Client(server.url("producer")) as client, worker_of(server, tmp_path) as processes:
        thread = str(uuid4())
        run = await client.enqueue("adds", {"n": 1}, thread_id=thread, idempotency_key="k", stream_mode="values")
        same = await client.enqueue("adds", {"n": 1}, thread_id=thread, idempotency_key="k", stream_mode="values")
        assert same.run_id == run.run_id
        assert await client.result(run.run_id) == {"n": 2}
        assert [event.mode async for event in client.tail(run.run_id)][-1] == "end"
        many = await client.enqueue_many([RunSpec("adds", {"n": 1}, {"delay": 3600}), RunSpec("none", {"n": 1}, {})])
        for one in many:
            assert (await client.stop(one.run_id)) is not None
        slow = await client.enqueue("adds", {"slow": True}, thread_id=thread)
        await until((tmp_path / "begun").exists, "it is at work")
        await client.waiting_for((await client.enqueue("adds", {"n": 3}, thread_id=thread)).run_id)
        behind = await client.enqueue("adds", {"n": 5}, thread_id=thread, multitask_strategy="rollback")
        assert await client.result(behind.run_id) == {"n": 6}
        assert (await client.get(slow.run_id)).status is Status.STOPPED
        lost = await client.enqueue("none", {}, start_within=0.01)
        await until(lambda: _is(client, lost.run_id, Status.LOST), "it is lost")
        assert [info.run_id for info in await client.dead()] == [lost.run_id]
        again = await client.requeue(lost.run_id)
        await client.waiting_for(again.run_id)
        await client.stop(again.run_id)
        assert len(await client.runs(limit=50)) > 4
        assert [info.run_id async for info in client.thread_runs(thread)]
        await client.last_runs([thread])
        await client.active([thread])
        await client.workers()
        await client.request(run.run_id)
        await client.delete(run.run_id)
        with pytest.raises(RunNotFound):
            await client.get(run.run_id)
        await client.ping()
        async with Processes(server.url("producer"), "runstream", tmp_path) as cli:
            assert (await cli.run("info")).code == 0
        # Another worker takes over what one that was killed has left.
        (tmp_path / "begun").unlink()
        (tmp_path / "go").unlink(missing_ok=True)
        taken = await client.enqueue("adds", {"slow": True, "n": 1}, thread_id=thread)
        await until((tmp_path / "begun").exists, "it is at work")
        second = await processes.worker("adds=graph.py")
        first = (await client.get(taken.run_id)).worker
        for running in processes._running:
            if not running.has_ended and first is not None and f"-{running.pid}-" in first:
                running.kill()
        processes.write("go", "")
        await until(lambda: _is(client, taken.run_id, Status.SUCCESS), "another one goes on")
        second.command.terminate()
        assert (await second.command.ended()).code == 0
    assert await server.refused() == []


async def _is(client: Client, run_id: str, status: Status) -> bool:
    return (await client.get(run_id)).status is status


async def test_a_gateway_does_its_work(server: Server, tmp_path: Path) -> None:
    async with (
        Receiver() as receiver,
        worker_of(server, tmp_path),
        Client(server.url("gateway")) as client,
        gateway_here(server.url("gateway")) as http,
    ):
        key, made = await ApiKeys(client).create("anna")
        http.headers["x-api-key"] = key
        thread = await _ok(http.post("/threads", json={"metadata": {"a": 1}}))
        path = f"/threads/{thread['thread_id']}"
        body = {"assistant_id": "adds", "input": {"n": 1}, "webhook": receiver.url(), "feedback_keys": ["score"]}
        assert (await _ok(http.post(f"{path}/runs/wait", json=body)))["n"] == 2
        await receiver.called()
        run = (await _ok(http.get(f"{path}/runs")))[0]
        stream = await http.get(f"{path}/runs/{run['run_id']}/stream", headers={"last-event-id": "-1"})
        assert "event: end" in stream.text
        assert (await http.post("/runs/stream", json=body)).status_code == 200
        await _ok(http.get(f"{path}/state"))
        await _ok(http.post(f"{path}/state", json={"values": {"n": 7}}))
        await _ok(http.post(f"{path}/history", json={}))
        copied = await _ok(http.post(f"{path}/copy"))
        await _ok(http.post("/threads/search", json={}))
        await _ok(http.post("/threads/count", json={}))
        await _ok(http.patch(path, json={"metadata": {"a": 2}}))
        assistant = await _ok(http.post("/assistants", json={"graph_id": "adds"}))
        await _ok(http.patch(f"/assistants/{assistant['assistant_id']}", json={"name": "x"}))
        await _ok(http.post("/assistants/search", json={}))
        token = (await _ok(http.post(f"{path}/token", json={})))["token"]
        assert (await http.get(path, headers={"x-api-key": "", "authorization": f"Bearer {token}"})).status_code == 200
        waiting = await _ok(http.post(f"{path}/runs", json={**body, "after_seconds": 3600}))
        await http.post(f"{path}/runs/{waiting['run_id']}/cancel", params={"wait": True})
        assert (await http.delete(f"{path}/runs/{run['run_id']}")).status_code == 204
        assert (await http.delete(f"/threads/{copied['thread_id']}")).status_code == 204
        assert (await http.delete(path)).status_code == 204
        assert (await http.delete(f"/assistants/{assistant['assistant_id']}")).status_code in (200, 204)
        assert (await http.get("/ok")).status_code == 200
        await ApiKeys(client).all()
        await ApiKeys(client).revoke(made.id)
    assert await server.refused() == []


@asynccontextmanager
async def gateway_here(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async def add(state: State) -> State:
        return {"n": state.get("n", 0) + 1}

    graph = StateGraph(State).add_node("add", add).add_edge(START, "add").compile()
    settings = GatewaySettings(redis_url=url, api_keys=True, webhook_allow=("127.0.0.0/8",))
    async with open_gateway({"adds": graph_source("adds", graph)}, settings) as gateway:
        transport = httpx.ASGITransport(create_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=60) as http:
            yield http


async def _ok(asked: Any) -> Any:
    answer = await asked
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_reader_reads_and_changes_nothing(server: Server, tmp_path: Path) -> None:
    async with Client(server.url("producer")) as producer, Client(server.url("reader")) as reader:
        async with worker_of(server, tmp_path):
            run = await producer.enqueue("adds", {"slow": True, "n": 1}, stream_mode="values")
            reading = asyncio.create_task(_modes(reader, run.run_id))
            await until(lambda: reader.tails_watching == 1, "it waits for events")
            (tmp_path / "go").touch()
            assert (await reading)[-1] == "end"
            assert await reader.result(run.run_id) == {"n": 2, "slow": True}
        assert run.run_id in [info.run_id for info in await reader.runs()]
        await reader.waiting_for(run.run_id)
        with pytest.raises(RunNotFound):
            await reader.get(str(uuid4()))
        assert {line for line in await server.refused() if not line.endswith((": hdel", ": evalsha"))} == set()
        for change in (reader.enqueue("adds", {}), reader.stop(run.run_id), reader.delete(run.run_id)):
            with pytest.raises(NoPermissionError):
                await change


async def _modes(client: Client, run_id: str) -> list[str]:
    return [event.mode async for event in client.tail(run_id)]


# -- and nothing else -------------------------------------------------------------------------------------------------

NOBODYS: Final = [
    "FLUSHALL", "FLUSHDB", "SWAPDB 0 1", "SHUTDOWN", "CONFIG GET *", "CONFIG SET dir /", "ACL LIST", "ACL WHOAMI",
    "MONITOR", "MODULE LIST", "REPLICAOF NO ONE", "SLAVEOF NO ONE", "CLIENT LIST", "CLIENT KILL TYPE normal",
    "KEYS *", "SCAN 0", "SAVE", "BGSAVE", "BGREWRITEAOF", "LATENCY DOCTOR", "SLOWLOG GET", "MEMORY DOCTOR",
    "RANDOMKEY", "MIGRATE x 1 k 0 1", "SCRIPT FLUSH", "SCRIPT KILL", "FUNCTION LIST", "FUNCTION FLUSH",
    "RESTORE {runstream:0}:run:x 0 x", "DUMP {runstream:0}:run:x", "PUBLISH c m", "SUBSCRIBE c", "PSUBSCRIBE *",
    "CLUSTER INFO", "FAILOVER", "SYNC", "PSYNC ? -1", "SORT {runstream:0}:runs", "OBJECT ENCODING {runstream:0}:runs",
    "RENAME {runstream:0}:runs {runstream:0}:runs2", "GET mine", "SET mine 1", "GET {other:0}:run:x",
    "HGETALL {other:0}:run:x", "DEL {other:0}:run:x", "EVAL return(redis.call('get','mine')) 0",
    "EVAL return(redis.call('flushall')) 0", "EVAL return(redis.call('config','get','*')) 0",
]  # fmt: skip
REFUSED: Final = {
    "producer": [
        "HGETALL {runstream:0}:document:api_key:x", "HGETALL {runstream:0}:document:secret:read_tokens",
        "ZRANGE {runstream:0}:documents:api_key 0 -1", "HGETALL {runstream:0}:checkpoints:t",
        "HSET {runstream:0}:checkpoints:t a b", "HGETALL {runstream:0}:delivery:x",
        "ZRANGE {runstream:0}:deliveries 0 -1", "HGETALL {runstream:0}:rate:key-x",
    ],
    "worker": [
        "HGETALL {runstream:0}:document:api_key:x", "HSET {runstream:0}:document:api_key:x a b",
        "HGETALL {runstream:0}:document:secret:read_tokens", "HGETALL {runstream:0}:delivery:x",
        "HGETALL {runstream:0}:rate:key-x",
    ],
    "gateway": [
        "GET arq:queue:x", "ZADD {runstream:0}x 1 a",
    ],
    "reader": [
        "HGETALL {runstream:0}:document:api_key:x", "HGETALL {runstream:0}:checkpoints:t",
        "HSET {runstream:0}:run:x status error", "XADD {runstream:0}:run:x:events 9-9 1 {}",
        "DEL {runstream:0}:run:x", "EVAL return(1) 0", "ZADD {runstream:0}:runs 1 x",
        "HDEL {runstream:0}:run:x status", "PEXPIRE {runstream:0}:run:x 1",
    ],
}  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
async def test_a_user_can_do_nothing_else(server: Server, role: str) -> None:
    done = []
    async with Redis.from_url(server.url(role)) as redis:
        for line in (*NOBODYS, *REFUSED[role]):
            try:
                await redis.execute_command(*line.split(" "))
            except NoPermissionError:
                continue
            except ResponseError as error:
                # Redis says so in other words where a script does it.
                if not re.search("user executing the script can't|not allowed from script", str(error)):
                    done.append(f"{line}: {error}")
            else:
                done.append(line)
    assert done == [], "\n".join(done)


async def test_a_command_that_a_user_may_call_is_one_that_is_called(server: Server, tmp_path: Path) -> None:
    """What nobody needs is granted to nobody."""
    granted = {
        rule[1:].partition("|")[0] for role in ROLES for rule in lines_of(role) for rule in [rule.strip("()")]
        if rule.startswith("+") and not rule.startswith("+@")
    }  # fmt: skip
    await server.admin.config_resetstat()
    await test_a_producer_and_a_worker_do_their_work(server, tmp_path)
    for name in ("go", "begun"):
        (tmp_path / name).unlink(missing_ok=True)
    await test_a_gateway_does_its_work(server, tmp_path)
    for name in ("go", "begun"):
        (tmp_path / name).unlink(missing_ok=True)
    await test_a_reader_reads_and_changes_nothing(server, tmp_path)
    called = {name.removeprefix("cmdstat_").partition("|")[0] for name in await server.admin.info("commandstats")}
    assert granted - called == set(RARE)


RARE: Final = {
    "zrank": "a run waits behind others in a full queue",
    "hincrby": "an attempt is given back for a fault",
}
SCRIPTS: Final = {
    "producer": ("_run", "enqueue", "stop", "forget"),
    "worker": ("_run", "claim", "append", "beat", "finish", "release", "disown", "regain", "reap"),
    "gateway": ("_run", "_deliveries", "enqueue", "stop", "forget", "document", "spend", "hold", "delivery", "attend"),
}
_OF_CHECKPOINTS: Final = ("worker", "gateway")


@pytest.mark.parametrize("role", SCRIPTS)
def test_what_the_scripts_call_is_granted(role: str) -> None:
    """Also what no test makes them call."""
    texts = [(files("runstream") / "lua" / f"{name}.lua").read_text("utf-8") for name in SCRIPTS[role]]
    if role in _OF_CHECKPOINTS:
        folder = files("runstream_worker") / "lua"
        texts += [each.read_text("utf-8") for each in folder.iterdir() if each.name.endswith(".lua")]
    called = {name.lower() for text in texts for name in re.findall(r"redis\.p?call\('([A-Z]+)'", text)}
    assert called
    assert {f"+{name}" for name in called} - set(lines_of(role)) == set()
