"""A broken connection to the checkpoints' database is no broken database, and no lost worker."""

from __future__ import annotations

import asyncio
import operator
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypedDict

import httpx
import psycopg
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout
from redis.asyncio import Redis
from tests.support.postgres import PostgresServer, postgres_programs
from tests.support.proxy import Proxy
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, RunLost, Status
from runstream_gateway.app import create_app
from runstream_gateway.core import open_gateway
from runstream_gateway.settings import GatewaySettings
from runstream_worker.checkpoints import open_checkpointer
from runstream_worker.graphs import graph_source
from runstream_worker.infrastructure import Unavailable, is_infrastructure, is_transient
from runstream_worker.patient_saver import PatientSaver, SaverSource

THREAD = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
LOAD = 12


class Log(TypedDict):
    entries: Annotated[list[str], operator.add]


def log_graph(checkpointer: Any = None, *, pause: float = 0.0) -> Any:
    """A graph of three steps, which keeps what it is given and what its steps add."""

    def step(name: str) -> Any:
        async def work(_: Log) -> dict[str, list[str]]:
            await asyncio.sleep(pause)
            return {"entries": [name]}

        return work

    graph = StateGraph(Log)
    names = ["one", "two", "three"]
    for before, name in zip([START, *names], names, strict=False):
        graph.add_node(name, step(name)).add_edge(before, name)
    return graph.compile(checkpointer=checkpointer)


STEPS = ["one", "two", "three"]


@pytest.fixture
async def postgres() -> AsyncIterator[PostgresServer]:
    """A PostgreSQL of the test's own."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no initdb and pg_ctl on PATH, nor below /usr/lib/postgresql")
    async with PostgresServer(programs) as server:
        yield server


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[Proxy]:
    """A way to it, which can be cut."""
    async with Proxy(postgres.url) as proxy:
        yield proxy


@asynccontextmanager
async def gateway_at(
    workers: Workers, url: str | None, graph: Any = None, **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway whose states are in this database, as its HTTP client."""
    place: dict[str, Any] = {"redis_url": workers.redis_url, "namespace": workers.namespace}
    settings = GatewaySettings(**place, checkpointer_url=url, **options)
    sources = {"log": graph_source("log", graph or log_graph())}
    async with open_gateway(sources, settings) as gateway:
        transport = httpx.ASGITransport(create_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=60) as http:
            yield http


async def new_thread(http: httpx.AsyncClient) -> None:
    made = await http.post("/threads", json={"thread_id": THREAD, "metadata": {"graph_id": "log"}})
    assert made.status_code == 200, made.text


async def turn(client: Client, entry: str, graph: str = "log") -> list[str]:
    """A run on the thread that must succeed with its first attempt; the thread's entries."""
    run = await client.enqueue(graph, {"entries": [entry]}, thread_id=THREAD)
    result = await client.result(run.run_id)
    info = await client.get(run.run_id)
    assert (info.attempt, info.status, info.holders) == (1, Status.SUCCESS, [])
    entries: list[str] = result["entries"]
    return entries


async def shown(http: httpx.AsyncClient) -> list[list[str]]:
    """The thread's entries, in each of the places where a gateway shows them."""
    thread = await http.get(f"/threads/{THREAD}")
    found = await http.post("/threads/search", json={"values": {}})
    state = await http.get(f"/threads/{THREAD}/state")
    history = await http.post(f"/threads/{THREAD}/history", json={})
    for answer in (thread, found, state, history):
        assert answer.status_code == 200, answer.text
    views = [thread.json(), found.json()[0], state.json(), history.json()[0]]
    return [view["values"]["entries"] for view in views]


async def is_shown(http: httpx.AsyncClient) -> bool:
    return (await http.get(f"/threads/{THREAD}")).status_code == 200


# -- connections that are gone, of a database that is there -----------------------------------------------------------


async def dropped_by_the_server(postgres: PostgresServer, _: Proxy) -> None:
    assert await postgres.drop_connections() >= 2


async def lost_in_a_restart(postgres: PostgresServer, _: Proxy) -> None:
    await postgres.restart()


async def cut_by_a_pooler(_: PostgresServer, proxy: Proxy) -> None:
    await proxy.cut()


async def forgotten_by_a_firewall(_: PostgresServer, proxy: Proxy) -> None:
    proxy.forget()


@pytest.mark.parametrize("drop", [dropped_by_the_server, lost_in_a_restart, cut_by_a_pooler, forgotten_by_a_firewall])
async def test_the_next_turn_succeeds_as_attempt_1_when_every_idle_connection_is_gone(
    client: Client,
    workers: Workers,
    postgres: PostgresServer,
    proxy: Proxy,
    drop: Callable[[PostgresServer, Proxy], Awaitable[None]],
) -> None:
    async with gateway_at(workers, proxy.url) as http:
        await workers.start({"checkpointer_url": proxy.url}, log=log_graph())
        await new_thread(http)
        first = ["a", *STEPS]
        assert await turn(client, "a") == first
        assert await shown(http) == [first] * 4
        for entry in "bc":
            await drop(postgres, proxy)
            first += [entry, *STEPS]
            assert await turn(client, entry) == first
            assert await shown(http) == [first] * 4


async def test_a_project_s_own_checkpointer_with_one_connection_is_opened_anew(
    client: Client, workers: Workers, postgres: PostgresServer, tmp_path: Path
) -> None:
    (tmp_path / "saving.py").write_text(
        "from contextlib import asynccontextmanager\n"
        "from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver\n\n\n"
        "@asynccontextmanager\n"
        "async def saver():\n"
        f"    async with AsyncPostgresSaver.from_conn_string({postgres.url!r}) as saver:\n"
        "        await saver.setup()\n"
        "        yield saver\n"
    )
    await workers.start({"checkpointer_url": f"{tmp_path}/saving.py:saver"}, log=log_graph())
    assert await turn(client, "a") == ["a", *STEPS]
    assert await postgres.drop_connections() == 1
    assert await turn(client, "b") == ["a", *STEPS, "b", *STEPS]


async def test_a_factory_s_own_checkpointer_is_as_patient(
    client: Client, workers: Workers, postgres: PostgresServer
) -> None:
    """A factory that cannot connect has not failed its run, and its connection may break in the middle of one."""

    @asynccontextmanager
    async def factory() -> AsyncIterator[Any]:
        async with AsyncPostgresSaver.from_conn_string(postgres.url) as saver:
            await saver.setup()
            yield log_graph(saver)

    await workers.start(log=factory)
    await postgres.stop()
    async with gateway_at(workers, None, factory, checkpoint_patience=0.2) as http:
        await new_thread(http)
        for path in ("", "/state"):
            assert (await http.get(f"/threads/{THREAD}{path}")).status_code == 503
        run = await client.enqueue("log", {"entries": ["a"]}, thread_id=THREAD, max_attempts=1)
        await until(lambda: has_faults(client, run.run_id, 1), "the run has been given back", 30)
        await postgres.start()
        assert (await client.result(run.run_id))["entries"] == ["a", *STEPS]
        await until(lambda: is_shown(http), "the gateway has a connection again", 30)
        assert await shown(http) == [["a", *STEPS]] * 4


async def test_a_redis_elsewhere_that_goes_away_for_a_moment(
    client: Client, workers: Workers, redis_url: str, redis: Redis
) -> None:
    async with Proxy(redis_url) as proxy:
        elsewhere = await workers.start({"checkpointer_url": proxy.url}, log=log_graph(pause=0.05))
        assert elsewhere.running == {}
        assert await turn(client, "a") == ["a", *STEPS]
        run = await client.enqueue("log", {"entries": ["b"]}, thread_id=THREAD)
        await proxy.take_away()
        await until(lambda: is_running(client, run.run_id), "the run is executed")
        await asyncio.sleep(0.5)
        proxy.restore()
        assert (await client.result(run.run_id))["entries"] == ["a", *STEPS, "b", *STEPS]
        assert (await client.get(run.run_id)).attempt == 1
        await redis.delete(*[key async for key in redis.scan_iter("*checkpoint*")])


async def is_running(client: Client, run_id: str) -> bool:
    return (await client.get(run_id)).status is not Status.QUEUED


async def has_faults(client: Client, run_id: str, count: int) -> bool:
    holders = (await client.get(run_id)).holders
    assert {holder.cause for holder in holders} <= {"fault"}
    return len(holders) >= count


# -- a database that is away ------------------------------------------------------------------------------------------


async def test_a_database_that_is_stopped_and_started_under_load_costs_no_attempt(
    client: Client, workers: Workers, postgres: PostgresServer
) -> None:
    for _ in range(2):
        await workers.start({"checkpointer_url": postgres.url, "concurrency": 10}, log=log_graph(pause=0.1))
    runs = [await client.enqueue("log", {"entries": ["a"]}, thread_id=f"t{number}") for number in range(LOAD)]
    await until(lambda: is_running(client, runs[LOAD // 2].run_id), "half of them are executed")
    for _ in range(2):
        await postgres.restart()
    for run in runs:
        assert (await client.result(run.run_id))["entries"] == ["a", *STEPS]
        assert (await client.get(run.run_id)).attempt == 1


async def test_a_database_that_is_away_for_longer_than_the_patience_costs_no_attempt(
    client: Client, workers: Workers, postgres: PostgresServer
) -> None:
    await workers.start({"checkpointer_url": postgres.url, "checkpoint_patience": 0.1}, log=log_graph())
    await postgres.stop()
    run = await client.enqueue("log", {"entries": ["a"]}, thread_id=THREAD, max_attempts=1)
    await until(lambda: has_faults(client, run.run_id, 3), "the run has been given back three times", 60)
    await postgres.start()
    assert (await client.result(run.run_id))["entries"] == ["a", *STEPS]


async def test_faults_end_a_run_as_lost_when_there_have_been_too_many(
    client: Client, workers: Workers, postgres: PostgresServer
) -> None:
    settings = {"checkpointer_url": postgres.url, "checkpoint_patience": 0.1, "max_faults": 2}
    await workers.start(settings, log=log_graph())
    await postgres.stop()
    run = await client.enqueue("log", {"entries": ["a"]}, thread_id=THREAD)
    with pytest.raises(RunLost, match="WorkerLost: checkpointer: "):
        await client.result(run.run_id)
    info = await client.get(run.run_id)
    assert [holder.cause for holder in info.holders] == ["fault", "fault"]


async def test_a_gateway_says_503_wherever_it_would_have_to_ask_the_database(
    client: Client, workers: Workers, postgres: PostgresServer
) -> None:
    async with gateway_at(workers, postgres.url, checkpoint_patience=0.3) as http:
        await workers.start({"checkpointer_url": postgres.url}, log=log_graph())
        await new_thread(http)
        before = await turn(client, "a")
        run_id = (await http.get(f"/threads/{THREAD}/runs")).json()[0]["run_id"]
        await postgres.stop()
        step = {"updates": [{"values": {"entries": []}, "as_node": "one"}]}
        asked: list[tuple[str, str, Any]] = [
            ("GET", f"/threads/{THREAD}", None),
            ("GET", f"/threads/{THREAD}/state", None),
            ("GET", f"/threads/{THREAD}/state/1ef0d9b4-0000-6000-8000-000000000000", None),
            ("GET", f"/threads/{THREAD}/history", None),
            ("POST", f"/threads/{THREAD}/history", {}),
            ("POST", f"/threads/{THREAD}/state", {"values": {"entries": ["x"]}}),
            ("POST", f"/threads/{THREAD}/copy", None),
            ("POST", "/threads/search", {}),
            ("POST", "/threads/search", {"status": "idle", "select": ["thread_id"]}),
            ("POST", "/threads/search", {"values": {"entries": before}}),
            ("POST", "/threads/count", {"values": {"entries": before}}),
            ("POST", "/threads/prune", {"thread_ids": [THREAD], "strategy": "keep_latest"}),
            ("POST", "/threads", {"metadata": {"graph_id": "log"}, "supersteps": [step, step]}),
            ("PATCH", f"/threads/{THREAD}", {"metadata": {"a": 1}}),
            ("GET", f"/console/runs/{run_id}/state", None),
            ("DELETE", f"/threads/{THREAD}", None),
        ]
        for method, path, body in asked:
            answer = await http.request(method, path, json=body)
            assert answer.status_code == 503, (method, path, answer.text)
            assert answer.json()["detail"].startswith("the checkpoints' database cannot be reached"), answer.text
            assert answer.headers["retry-after"]
            assert "127.0.0.1" not in answer.text
        # What does not need it is answered.
        assert (await http.get(f"/threads/{THREAD}/runs")).status_code == 200
        chosen = await http.post("/threads/search", json={"select": ["thread_id", "metadata"]})
        assert chosen.status_code == 200
        await postgres.start()
        await until(lambda: is_shown(http), "the gateway has a connection again", 30)
        # The deletion had not begun to take anything of it but its runs.
        assert await shown(http) == [before] * 4


# -- what may be made again, and how ----------------------------------------------------------------------------------


async def test_a_write_whose_reply_is_lost_is_made_again_and_stands_once(
    postgres: PostgresServer, proxy: Proxy
) -> None:
    config: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    checkpoint = empty_checkpoint()
    async with open_checkpointer(proxy.url) as saver:
        assert saver is not None
        assert await saver.aget_tuple(config) is None

        async def restore_when_lost() -> None:
            await until(lambda: proxy.lost_replies > 0, "a reply is lost")
            proxy.restore()

        for write in (
            lambda: saver.aput(config, checkpoint, {"source": "input", "step": -1}, {}),
            lambda: saver.aput_writes(
                {"configurable": {**config["configurable"], "checkpoint_id": checkpoint["id"]}}, [("a", 1)], "task"
            ),
        ):
            proxy.lost_replies = 0
            proxy.lose_replies()
            await asyncio.gather(write(), restore_when_lost())
        found = [one async for one in saver.alist(config)]
    assert [one.checkpoint["id"] for one in found] == [checkpoint["id"]]
    assert found[0].pending_writes == [("task", "a", 1)]


async def test_each_try_of_a_write_asks_first_whether_the_attempt_still_holds_its_run() -> None:
    class Refusing(InMemorySaver):
        async def aput(self, *args: Any, **kwargs: Any) -> Any:
            calls.append("put")
            raise psycopg.OperationalError("the connection is lost")

    async def ask() -> None:
        calls.append("ask")
        if calls.count("ask") == 3:
            raise RuntimeError("it does not")

    calls: list[str] = []
    saver = PatientSaver(SaverSource(Refusing()), 30)
    with pytest.raises(RuntimeError, match="it does not"):
        await saver.attempt(lambda one: one.aput({}, empty_checkpoint(), {}, {}), before=ask)
    assert calls == ["ask", "put", "ask", "put", "ask"]


async def test_a_list_that_breaks_off_goes_on_where_it_was() -> None:
    class Breaking(InMemorySaver):
        async def alist(self, *args: Any, **kwargs: Any) -> AsyncIterator[CheckpointTuple]:
            async for number, one in _numbered(super().alist(*args, **kwargs)):
                if number in breaks:
                    breaks.remove(number)
                    raise psycopg.OperationalError("the connection is lost")
                yield one

    breaks = {0, 2, 4}
    inner = Breaking()
    config: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    for _ in range(6):
        await inner.aput(config, empty_checkpoint(), {}, {})
    saver = PatientSaver(SaverSource(inner), 30)
    found = [one.checkpoint["id"] async for one in saver.alist(config)]
    assert not breaks
    assert found == [one.checkpoint["id"] async for one in inner.alist(config)]
    assert len(found) == 6


async def _numbered(found: AsyncIterator[CheckpointTuple]) -> AsyncIterator[tuple[int, CheckpointTuple]]:
    number = 0
    async for one in found:
        yield number, one
        number += 1


async def test_a_sqlite_file_that_is_locked_for_a_moment(client: Client, workers: Workers, tmp_path: Path) -> None:
    path = tmp_path / "threads.db"

    @asynccontextmanager
    async def factory() -> AsyncIterator[Any]:
        async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
            await saver.conn.execute("PRAGMA busy_timeout = 1")
            yield log_graph(saver)

    await workers.start(log=factory)
    assert await turn(client, "a") == ["a", *STEPS]
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        run = await client.enqueue("log", {"entries": ["b"]}, thread_id=THREAD)
        await until(lambda: is_running(client, run.run_id), "the run is executed")
        await asyncio.sleep(0.5)
        other.execute("ROLLBACK")
        assert (await client.result(run.run_id))["entries"] == ["a", *STEPS, "b", *STEPS]
    assert (await client.get(run.run_id)).attempt == 1
    with suppress(sqlite3.Error):
        other.close()


def of_state(code: str) -> BaseException:
    return errors.lookup(code)("...")


@pytest.mark.parametrize(
    "error",
    [
        *map(of_state, ("57P01", "57P02", "57P03", "53300", "25006", "40001", "40P01", "08006", "08003", "55P03")),
        psycopg.OperationalError("server closed the connection unexpectedly"),
        psycopg.OperationalError("SSL connection has been closed unexpectedly"),
        psycopg.InterfaceError("connection already closed"),
        PoolTimeout("couldn't get a connection after 5.00 sec"),
        ConnectionRefusedError(111, "refused"),
        BrokenPipeError(32, "broken pipe"),
        TimeoutError(),
    ],
    ids=repr,
)
def test_an_error_that_passes(error: BaseException) -> None:
    assert is_transient(error)
    assert is_infrastructure(error)


@pytest.mark.parametrize(
    ("error", "is_of_the_database"),
    [
        (of_state("28P01"), True),  # the password
        (of_state("3D000"), True),  # no such database
        (of_state("53100"), True),  # the disk is full
        (PoolClosed("the pool is closed"), True),
        (sqlite3.OperationalError("no such table: checkpoints"), True),
        (Unavailable("its only connection is closed"), True),
        (FileNotFoundError(2, "no such file"), True),
        (of_state("42P01"), False),  # no such table
        (of_state("22021"), False),  # a character that PostgreSQL cannot keep
        (of_state("54000"), False),  # a value that is too large
        (ValueError("no"), False),
        (NotImplementedError(), False),
    ],
    ids=repr,
)
def test_an_error_that_does_not_pass(error: BaseException, is_of_the_database: bool) -> None:
    assert not is_transient(error)
    assert is_infrastructure(error) is is_of_the_database


async def test_a_call_that_gets_no_answer_is_given_up() -> None:
    class Silent(InMemorySaver):
        async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
            await asyncio.Event().wait()
            return None

    saver: BaseCheckpointSaver[Any] = PatientSaver(SaverSource(Silent()), 0.1)
    with pytest.raises(Unavailable, match=r"no answer within 0\.1 s"):
        await saver.aget_tuple({"configurable": {"thread_id": "t"}})
