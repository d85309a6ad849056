"""Each script's reply is lost after it has done its work: whoever called it calls again, and nothing happens twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, get_args

import pytest
from langgraph.graph import START, StateGraph
from redis.asyncio import Redis
from tests.integration.test_takeover import HI, MODES, check
from tests.support.proxy import Proxy
from tests.support.stage import Play, Stage, Story
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, ClientSettings, RunNotFound, Status
from runstream.deliveries import Delivery
from runstream.scripts import ScriptName, load_script
from runstream_worker.redis_saver import store

NAMES = ("one", "two", "three")
ON_THE_WAY = [
    "enqueue", "claim", "append", "beat", "finish", "page", "checkpoint_put", "checkpoint_writes", "checkpoint_load",
]  # fmt: skip


class Loss:
    """Loses replies to the calls of one script, once it is told to; the connection is cut, as is usual then."""

    def __init__(self) -> None:
        self._sha = b""
        self._left = 0
        self._called: set[object] = set()
        self.happened = False

    def wait_for(self, sha: str, *, times: int = 1) -> None:
        """Lose the replies to the next calls of the script with this hash."""
        self._sha, self._left = sha.encode(), times

    def request(self, connection: object, command: bytes) -> bool:
        if self._left and self._sha in command:
            self._called.add(connection)
        return True

    def reply(self, connection: object, data: bytes) -> bool:
        if not self._left or connection not in self._called:
            return True
        self._called.discard(connection)
        self._left -= 1
        self.happened = True
        return False


@pytest.fixture
def loss() -> Loss:
    return Loss()


@pytest.fixture
async def proxy(redis_url: str, loss: Loss) -> AsyncIterator[Proxy]:
    async with Proxy(redis_url, loss) as proxy:
        yield proxy


@pytest.fixture
async def far(proxy: Proxy, namespace: str) -> AsyncIterator[Client]:
    """A client whose replies may be lost."""
    async with Client(proxy.url, settings=ClientSettings(namespace=namespace)) as client:
        yield client


@pytest.fixture
async def far_workers(proxy: Proxy, namespace: str) -> AsyncIterator[Workers]:
    """Workers whose replies may be lost."""
    async with Workers(proxy.url, namespace) as workers:
        yield workers


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def play(client: Client, workers: Workers, redis: Redis, namespace: str, stage: Stage) -> Play:
    return Play(client, workers, redis, namespace, stage)


def chain(stage: Stage) -> Any:
    graph = StateGraph(Story).add_sequence([(name, stage.node(name)) for name in NAMES])
    return graph.add_edge(START, "one").compile()


async def sha_of(name: str, redis: Redis) -> str:
    """The hash of a script, which Redis knows: otherwise the first reply would be that it does not."""
    script: Any = store.load_script(name) if name.startswith("checkpoint") else load_script(name)
    await redis.script_load(script.text)
    return str(script.sha)


def test_every_script_that_a_worker_or_a_client_calls_is_among_these() -> None:
    called = {*get_args(ScriptName), "checkpoint_put", "checkpoint_writes", "checkpoint_load"}
    # What disown and regain do a second time: tests/contract/test_forgotten.py and test_lost_numbers.py.
    of_gateways = {"document", "spend", "hold", "account", "delivery", "attend"}
    assert called == {*ON_THE_WAY, "release", "stop", "reap", "regain", "disown", "forget", *of_gateways}


@pytest.mark.parametrize("name", ON_THE_WAY)
async def test_a_run_is_executed_once(  # noqa: PLR0917 - pytest passes them by name
    name: str, play: Play, far: Client, far_workers: Workers, loss: Loss, redis: Redis
) -> None:
    loss.wait_for(await sha_of(name, redis))
    await far_workers.start({"beat_interval": 0.05, "lease": 30.0}, play=chain(play.stage))

    run = await far.enqueue("play", HI, stream_mode=MODES)
    events = [event async for event in far.tail(run.run_id)]

    await until(lambda: loss.happened, "the reply was lost")
    assert [event.id for event in events] == [f"1-{seq}" for seq in range(len(events))]
    check(events, await play.client.result(run.run_id))
    assert await play.events(run.run_id) == events
    assert play.stage.begun == Counter(NAMES)
    info = await play.client.get(run.run_id)
    assert (info.attempt, info.holders) == (1, [])
    assert [info.run_id for info in await play.client.runs()] == [run.run_id]
    # Who calls again for a reply that was lost is told that the run is there already, by whoever that was.
    assert run.is_new == (name != "enqueue")


@pytest.mark.parametrize("name", ["release", "reap"])
async def test_a_run_is_handed_on_once(name: str, play: Play, far_workers: Workers, loss: Loss, redis: Redis) -> None:
    stage, sha = play.stage, await sha_of(name, redis)
    stage.hold("two")
    often, seldom = {"beat_interval": 0.05, "lease": 30.0}, {"beat_interval": 20.0, "lease": 30.0}
    if name == "release":
        leaver = await far_workers.start(often, play=chain(stage))
    else:
        await play.start_worker(chain(stage), **seldom)
    run = await play.client.enqueue("play", HI, stream_mode=MODES)
    await until(lambda: stage.entered["two"] == 1, "the run is held")
    if name == "release":
        await play.start_worker(chain(stage))
        loss.wait_for(sha)
        await leaver.drain(0.0)
    else:
        # No reply tells the other worker that it has seen to the run.
        loss.wait_for(sha, times=1_000_000)
        await far_workers.start(often, play=chain(stage))
        await play.lose(run.run_id)
        loss.wait_for(sha, times=0)
    assert loss.happened
    stage.open("two")

    events = await play.events(run.run_id)

    check(events, await play.client.result(run.run_id))
    info = await play.client.get(run.run_id)
    cause = "drained" if name == "release" else "lost"
    assert (info.attempt, [(holder.attempt, holder.cause) for holder in info.holders]) == (2, [(1, cause)])
    assert [event.id for event in events if event.mode == "attempt"] == ["1-0", "2-0"]


@pytest.mark.parametrize("began", [False, True])
async def test_a_run_is_stopped_once(play: Play, far: Client, loss: Loss, redis: Redis, *, began: bool) -> None:
    play.stage.hold("one")
    if began:
        await play.start_worker(chain(play.stage))
    run = await far.enqueue("play", HI, stream_mode=MODES)
    if began:
        await until(lambda: play.stage.entered["one"] == 1, "the run is held")
    loss.wait_for(await sha_of("stop", redis))

    answer = await far.stop(run.run_id, reason="enough")

    assert loss.happened
    events = await play.events(run.run_id)
    assert [event.data["status"] for event in events if event.mode == "end"] == ["stopped"]
    assert events[-1].data["reason"] == "enough"
    # By the time of the second call it may have come to pass what the first has asked for.
    assert (answer.outcome, answer.status) in {("stopping", Status.RUNNING), ("ended", Status.STOPPED)}


async def test_a_run_is_deleted_once_and_whoever_did_it_is_not_told_that_there_was_none(
    far: Client, loss: Loss, redis: Redis
) -> None:
    run = await far.enqueue("play", HI)
    await far.stop(run.run_id)
    loss.wait_for(await sha_of("forget", redis))

    await far.delete(run.run_id)

    assert loss.happened
    assert await far.get_many([run.run_id]) == [None]
    with pytest.raises(RunNotFound):
        await far.delete(run.run_id)


async def test_a_document_is_written_once(far: Client, loss: Loss, redis: Redis) -> None:
    notes = far.documents("note", ttl=60)
    loss.wait_for(await sha_of("document", redis))

    created = await notes.create("a", {"n": 1})

    assert loss.happened
    assert created is not None
    assert await notes.get("a") == created


@pytest.mark.parametrize("name", ["delivery", "attend"])
async def test_a_delivery_is_looked_after_by_whoever_has_lost_the_reply(
    name: str, far: Client, client: Client, loss: Loss, redis: Redis
) -> None:
    mine, other = far.deliveries("me"), client.deliveries("another")
    loss.wait_for(await sha_of(name, redis))

    await mine.add(Delivery("a", {"tries": "0"}))
    assert await mine.attend(["a"], 10) == (frozenset(), [])
    assert await mine.change("a", {"tries": "1"}, after=0)
    assert await mine.change("a", {"tries": "1"}, after=0)
    (taken,) = (await other.attend((), 10)).taken

    assert loss.happened
    assert taken.fields == {"holder": "another", "tries": "1"}


async def test_reads_of_many_whose_reply_is_lost_are_made_again_whole(far: Client, loss: Loss, client: Client) -> None:
    run = await client.enqueue("agent", {"n": 1}, thread_id="a thread")
    reads: list[tuple[str, Callable[[], Awaitable[Any]], Any]] = [
        ("HMGET", lambda: far.get_many([run.run_id]), [await client.get(run.run_id)]),
        ("HMGET", lambda: far.requests([run.run_id]), [await client.request(run.run_id)]),
        ("ZRANGE", lambda: far.active(["a thread"]), [1]),
        ("HMGET", lambda: far.active(["a thread"]), [1]),
        ("ZREVRANGE", lambda: far.last_runs(["a thread"]), [await client.get(run.run_id)]),
    ]
    for command, read, expected in reads:
        loss.happened = False
        loss.wait_for(command)
        assert await read() == expected
        assert loss.happened
