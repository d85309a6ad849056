"""What is written into Redis beside us, and ids that look like something else: no code runs, and no row is forged."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import ormsgpack
import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from redis.asyncio import Redis
from tests.support.workers import Workers

from runstream import Client, InvalidRequest, ProtocolError
from runstream.keys import Keys
from runstream.request import check_thread_id
from runstream_worker.checkpoints import open_checkpointer
from runstream_worker.redis_saver import RedisSaver
from runstream_worker.redis_saver.rows import Place, Row, dump_row
from runstream_worker.strict_serializer import StrictSerializer, class_key

LONG_TEXT = "long enough to be a value of its own, and not a part of the checkpoint's row"
BROKEN = "1f0\n" + '{"v":{},"t":["json","json"],"n":2,"r":""}' + "\n{}"


@dataclass
class Order:
    """A class that a state may hold."""

    number: int


class State(TypedDict, total=False):
    order: Order
    text: str


class Loose(TypedDict, total=False):
    order: Any
    seen: list[str]


def config(thread: str = "t", **places: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": "", **places}}


async def kept(saver: BaseCheckpointSaver[Any], values: dict[str, Any], **places: Any) -> RunnableConfig:
    """Keep a checkpoint with these values, and a task's write; return its config."""
    checkpoint = {**empty_checkpoint(), "channel_values": values, "channel_versions": dict.fromkeys(values, "1")}
    at = await saver.aput(config(**places), checkpoint, {"source": "input", "step": -1}, checkpoint["channel_versions"])  # type: ignore[arg-type]
    await saver.aput_writes(at, [("text", LONG_TEXT)], "task")
    return at


@pytest.fixture
async def saver(redis: Redis, namespace: str) -> RedisSaver:
    return RedisSaver(redis, Keys(namespace))


# --- code in a value -------------------------------------------------------------------------------------------------


def ext(code: int, *parts: Any) -> bytes:
    return ormsgpack.packb(ormsgpack.Ext(code, ormsgpack.packb(parts)))


def attacks(marker: Path) -> dict[str, tuple[str, bytes]]:
    """Values that would make the file if they were executed, by how they would be."""
    touch = f"touch {marker}"
    pickled = b"cos\nsystem\n(S'" + touch.encode() + b"'\ntR."
    lc = '{"lc":%d,"type":"constructor","id":["%s"],"kwargs":{"command":"' + touch + '"}}'
    lc2 = '{"lc":2,"type":"constructor","id":["os","system"],"args":["' + touch + '"]}'
    return {
        "one argument": ("msgpack", ext(0, "os", "system", touch)),
        "arguments": ("msgpack", ext(1, "os", "system", [touch])),
        "keywords": ("msgpack", ext(2, "os", "system", {"command": touch})),
        "a method": ("msgpack", ext(3, "pathlib", "Path", str(marker), "touch")),
        "a module's method": ("msgpack", ext(3, "subprocess", "Popen", ["touch", str(marker)], "__call__")),
        "an old model": ("msgpack", ext(4, "os", "system", {"command": touch})),
        "a model": ("msgpack", ext(5, "os", "system", {"command": touch}, "model_validate_json")),
        "nested": ("msgpack", ormsgpack.packb([{"a": ormsgpack.Ext(0, ormsgpack.packb(("os", "system", touch)))}])),
        "a snapshot": ("msgpack", ormsgpack.packb(ormsgpack.Ext(7, ext(0, "os", "system", touch)))),
        "pickle": ("pickle", pickled),
        "an object of json": ("json", lc2.encode()),
        "a runnable of json": ("json", (lc % (1, 'langchain_core","runnables","base","RunnableLambda')).encode()),
        "an object of another module": ("json", (lc % (1, 'langchain_community","tools","ShellTool')).encode()),
    }


HOW = list(attacks(Path("marker")))


@pytest.fixture(params=["value", "checkpoint", "metadata", "write"])
def where(request: pytest.FixtureRequest) -> str:
    """What of a stored checkpoint is replaced."""
    return str(request.param)


def replaced(
    at: RunnableConfig, fields: dict[bytes, bytes], where: str, typed: tuple[str, bytes]
) -> dict[bytes, bytes]:
    """A stored checkpoint's field with other bytes, as somebody writes it who knows how it is stored."""
    place = Place("", at["configurable"]["checkpoint_id"])
    kind, data = typed[0].encode(), typed[1]
    if where == "value":
        return {place.value_name("text", "1"): b"=" + kind + b"\n" + data}
    if where == "write":
        return {place.write_name("task", 0): b'["text","' + kind + b'","",""]\n' + data}
    serde, row = StrictSerializer(), Row(fields[place.name])
    parts = {"checkpoint": serde.dumps_typed(row.checkpoint(serde)), "metadata": serde.dumps_typed(row.metadata(serde))}
    parts[where] = typed
    (kind_1, body), (kind_2, rest) = parts["checkpoint"], parts["metadata"]
    head = f'{{"p":"","v":{{"text":"s1"}},"t":["{kind_1}","{kind_2}"],"n":{len(body)},"r":""}}'
    return {place.name: head.encode() + b"\n" + body + rest}


@pytest.mark.parametrize("how", HOW)
async def test_a_value_in_redis_executes_nothing(
    redis: Any, saver: RedisSaver, tmp_path: Path, how: str, where: str
) -> None:
    marker = tmp_path / "executed"
    at = await kept(saver, {"text": LONG_TEXT})
    (key,) = [name async for name in redis.scan_iter("*checkpoints:t") if await redis.hexists(name, _name_of(at))]
    fields = await redis.hgetall(key)
    hostile = replaced(at, fields, where, attacks(marker)[how])
    assert hostile.keys() <= fields.keys()
    await redis.hset(key, mapping=hostile)
    # Data in the place of an object may be refused; it is not executed.
    with suppress(TypeError, KeyError, NotImplementedError, AttributeError):
        await saver.aget_tuple(config())
    assert not marker.exists()


def _name_of(at: RunnableConfig) -> bytes:
    return Place("", at["configurable"]["checkpoint_id"]).name


SCRIPT = """
import asyncio, sys
from redis.asyncio import Redis
from runstream.keys import Keys
from runstream_worker.redis_saver import RedisSaver

async def main():
    redis = Redis.from_url(sys.argv[1])
    config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    print((await RedisSaver(redis, Keys(sys.argv[2])).aget_tuple(config)).checkpoint["channel_values"])
    await redis.aclose()

asyncio.run(main())
"""


@pytest.mark.real_redis
async def test_a_saver_made_in_code_needs_no_variable_to_be_strict(
    redis: Redis, redis_url: str, namespace: str, saver: RedisSaver, tmp_path: Path
) -> None:
    marker = tmp_path / "executed"
    await kept(saver, {"text": LONG_TEXT})
    key = Keys(namespace).checkpoints("t")
    kind, data = attacks(marker)["one argument"]
    await redis.hset(key, mapping={Place("", "").value_name("text", "1"): b"=" + kind.encode() + b"\n" + data})  # type: ignore[misc]
    environment = {name: value for name, value in os.environ.items() if name != "LANGGRAPH_STRICT_MSGPACK"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SCRIPT, redis_url, namespace, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, err.decode()
    assert f"touch {marker}" in out.decode()  # the data, as it stands
    assert not marker.exists()
    assert "os.system" in err.decode()  # LangGraph's warning names what it did not create


@pytest.fixture(params=["redis", "sqlite", "memory"])
async def opened(
    request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path
) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """A checkpointer as workers and gateways open it."""
    url = {"redis": "redis", "sqlite": f"sqlite:///{tmp_path}/threads.db", "memory": "memory://"}[request.param]
    async with open_checkpointer(url, runs_url=redis_url, namespace=namespace, classes=[f"{__name__}:Order"]) as saver:
        assert saver is not None
        yield saver


async def test_checkpointers_that_are_opened_by_url_are_strict(
    opened: BaseCheckpointSaver[Any], tmp_path: Path
) -> None:
    marker = tmp_path / "executed"
    for kind, data in attacks(marker).values():
        try:
            opened.serde.loads_typed((kind, data))
        except NotImplementedError:
            assert kind == "pickle"
    assert not marker.exists()
    assert opened.serde.loads_typed(opened.serde.dumps_typed(Order(7))) == Order(7)
    said = HumanMessage("hi", id="1")
    assert opened.serde.loads_typed(opened.serde.dumps_typed([said])) == [said]


def test_messages_that_were_stored_as_json_are_messages() -> None:
    stored = (
        b'{"lc":1,"type":"constructor","id":["langchain","schema","messages","HumanMessage"],"kwargs":{"content":"hi"}}'
    )
    assert StrictSerializer().loads_typed(("json", stored)) == HumanMessage("hi")


async def test_a_class_that_is_not_named_is_read_as_data(saver: RedisSaver, redis: Redis, namespace: str) -> None:
    at = await kept(saver, {"order": Order(7), "text": LONG_TEXT})
    found = await saver.aget_tuple(at)
    assert found is not None
    assert found.checkpoint["channel_values"]["order"] == {"number": 7}
    for name in (Order, (__name__, "Order"), f"{__name__}:Order"):
        named = RedisSaver(redis, Keys(namespace), classes=[name])
        found = await named.aget_tuple(at)
        assert found is not None
        assert found.checkpoint["channel_values"]["order"] == Order(7)


@pytest.mark.parametrize("name", ["my_agent.state", "my_agent.state:", ":Order", "a:b:c", "", ("a",)])
def test_a_name_that_is_no_class_is_refused(name: Any) -> None:
    with pytest.raises(InvalidRequest, match="module:Class"):
        class_key(name)


@pytest.mark.parametrize("url", ["redis", "memory://"])
async def test_a_worker_reads_objects_of_its_graphs_states(client: Client, workers: Workers, url: str) -> None:
    def place(state: State) -> State:
        return {"order": Order(7)}

    def look(state: State) -> State:
        return {"text": f"{type(state['order']).__name__} {state['order'].number}"}

    inner = StateGraph(State).add_node("look", look).add_edge(START, "look").compile()
    graph = StateGraph(State).add_node("place", place).add_node("inner", inner)
    graph.add_edge(START, "place").add_edge("place", "inner")
    await workers.start({"checkpointer_url": url}, agent=graph.compile(interrupt_before=["inner"]))
    first = await client.enqueue("agent", {}, thread_id="orders")
    await client.wait(first.run_id)
    run = await client.enqueue("agent", None, thread_id="orders")
    result: Any = await client.result(run.run_id)
    assert result["text"] == "Order 7"


async def test_a_worker_reads_objects_of_classes_that_are_named(client: Client, workers: Workers) -> None:
    def look(state: Loose) -> Loose:
        return {"order": Order(7), "seen": [*state.get("seen", []), type(state.get("order")).__name__]}

    graph = StateGraph(Loose).add_node("look", look).add_edge(START, "look").compile()
    await workers.start({"checkpoint_classes": (f"{__name__}:Order",)}, agent=graph)
    for _ in range(2):
        run = await client.enqueue("agent", {}, thread_id="loose")
        result: Any = await client.result(run.run_id)
    assert result["seen"] == ["NoneType", "Order"]


# --- ids that look like something else -------------------------------------------------------------------------------

HOSTILE = [BROKEN, "a\0b", "a\rb", "a\x1bb", "a\x7fb", "a\x85b", "a\u2028b", "a\ud800b", "x" * 256, ""]
ODD = [
    "a|b",
    "a:b",
    "{a}",
    "a{b}c",
    "%s %(x)s",
    "../..",
    "a b",
    "é" * 255,
    "😀",
    "a;b,c",
    '"a"',
    "\\n",
    "'",
    "<a>",
    "*",
    "?[a]",
]


@pytest.mark.parametrize("text", HOSTILE)
async def test_ids_that_could_be_taken_for_something_else_are_refused(
    client: Client, saver: RedisSaver, redis: Redis, namespace: str, text: str
) -> None:
    good = {"thread_id": "t", "checkpoint_ns": ""}
    with pytest.raises(InvalidRequest, match="thread_id"):
        check_thread_id(text)
    with pytest.raises(InvalidRequest, match="idempotency_key"):
        await client.enqueue("agent", {}, idempotency_key=text)
    bad: list[dict[str, Any]] = [{"thread_id": text}, {"checkpoint_map": {"": text}}]
    if text:  # an empty one names no checkpoint, or the root's namespace
        bad += [{"checkpoint_id": text}, {"checkpoint_ns": text * 20}, {"checkpoint_map": {text * 20: "1"}}]
    for named in bad:
        with pytest.raises(InvalidRequest, match=next(iter(named))):
            await client.enqueue("agent", {}, config={"configurable": named})
        at: RunnableConfig = {"configurable": {**good, **named}}
        for call in (
            lambda at=at: saver.aget_tuple(at),
            lambda at=at: saver.aput(at, empty_checkpoint(), {}, {}),
            lambda at=at: saver.aput_writes(
                {"configurable": {"checkpoint_id": "1", **at["configurable"]}}, [("a", 1)], "t"
            ),
            lambda at=at: anext(saver.alist(at)),
        ):
            with pytest.raises(InvalidRequest, match=next(iter(named))):
                await call()
    with pytest.raises(InvalidRequest, match=r"checkpoint\.id"):
        await saver.aput(config(), {**empty_checkpoint(), "id": text}, {}, {})
    assert not [key async for key in redis.scan_iter(f"*{namespace}*")]


def _at_one(at: RunnableConfig) -> RunnableConfig:
    return {"configurable": {"checkpoint_id": "1", **at["configurable"]}}


async def test_a_zero_byte_in_a_name_of_the_graph_is_refused(saver: RedisSaver) -> None:
    at = await kept(saver, {"text": LONG_TEXT})
    with pytest.raises(InvalidRequest, match="zero byte"):
        await kept(saver, {"a\0b": LONG_TEXT})
    with pytest.raises(InvalidRequest, match="zero byte"):
        await saver.aput_writes(at, [("text", "x")], "task\0 0")
    assert [found.config async for found in saver.alist(config())] == [at]


@pytest.mark.parametrize("text", ODD)
async def test_odd_ids_are_ids_and_stay_apart(client: Client, workers: Workers, saver: RedisSaver, text: str) -> None:
    def note(state: Loose) -> Loose:
        return {"seen": [*state.get("seen", []), "turn"]}

    await workers.start(agent=StateGraph(Loose).add_node("note", note).add_edge(START, "note").compile())
    turns = []
    for thread, key in ((text, text), (text[:-1] + "z", text[:200] + "z"), (text, text[:200] + "y"), (text, text)):
        run = await client.enqueue("agent", {"seen": []}, thread_id=thread, idempotency_key=key)
        await client.wait(run.run_id)
        turns.append([info.run_id async for info in client.thread_runs(thread)])
    assert list(map(len, turns)) == [1, 1, 2, 2]  # the last is the first again
    assert not set(turns[1]) & set(turns[3])
    namespace = f"note:{text}"[:255]
    at = await kept(saver, {"text": LONG_TEXT}, checkpoint_ns=namespace)
    (found,) = [one async for one in saver.alist(config(checkpoint_ns=namespace))]
    assert found.config == at
    assert found.pending_writes == [("task", "text", LONG_TEXT)]


async def test_a_parent_s_id_can_forge_no_row() -> None:
    serde = StrictSerializer()
    checkpoint = {**empty_checkpoint(), "channel_versions": {"a\nb": "1\n{}"}}
    for parent in (BROKEN, '"', "\\", "{", "\u2028", "é\n"):
        row = Row(dump_row(serde, checkpoint, {"source": "input"}, parent=parent, run_id=BROKEN))  # type: ignore[arg-type]
        assert (row.parent, row.run_id) == (parent, BROKEN)
        assert row.versions == {"a\nb": "1\n{}"}
        assert row.metadata(serde) == {"source": "input"}
        assert row.checkpoint(serde)["id"] == checkpoint["id"]


@pytest.mark.parametrize(
    "row",
    [
        b"", b"\n", b"{}", b"1f0\n{}\n", b"[]\n", b'{"p":"","v":{},"t":["msgpack"],"n":0,"r":""}\n',
        b'{"p":"","v":{},"t":["a","b"],"n":-1,"r":""}\n', b'{"p":"","v":{},"t":["a","b"],"n":5,"r":""}\nabc',
        b'{"p":1,"v":{},"t":["a","b"],"n":0,"r":""}\n', b'{"p":"","v":{"a":"x1"},"t":["a","b"],"n":0,"r":""}\n',
        b'{"p":"","v":{},"t":["a","b"],"n":0,"r":"","more":1}\n', b"\xff\n", b"9" * 9999,
    ],
)  # fmt: skip
def test_a_row_that_is_none_says_what_is_wrong(row: bytes) -> None:
    with pytest.raises(ProtocolError, match="checkpoint"):
        Row(row)


async def test_a_checkpoint_goes_on_without_its_removed_parent(saver: RedisSaver) -> None:
    first = await kept(saver, {"text": LONG_TEXT})
    second = await kept(saver, {"text": LONG_TEXT}, checkpoint_id=first["configurable"]["checkpoint_id"])
    found = await saver.aget_tuple(second)
    assert found is not None
    assert found.parent_config == first
    await saver.aprune(["t"])
    found = await saver.aget_tuple(second)
    assert found is not None
    assert found.parent_config is None


def test_the_constructor_envelope_of_an_input_makes_messages_only(tmp_path: Path) -> None:
    """LangGraph's reducer takes messages in LangChain's own JSON; it makes nothing else of it."""
    marker = tmp_path / "executed"
    for kind, data in attacks(marker).values():
        if kind == "json":
            with pytest.raises((ValueError, NotImplementedError, TypeError)):
                add_messages([], [json.loads(data)])
    assert not marker.exists()
