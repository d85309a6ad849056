"""Wrong input is refused before anything is written, with the name, the value, and what would be right."""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.types import Command as LangGraphCommand
from redis.asyncio import Redis

from runstream import Client, ClientSettings, Command, InvalidRequest, RunSpec, RunstreamError, Send
from runstream.keys import Keys, join_names, split_names
from runstream.model import new_run_id
from runstream.request import RunRequest, prepare

LIMIT = 1_000_000
_RUN = new_run_id()


def request(value: object = None, **options: Any) -> RunRequest:
    """The request as a worker reads it."""
    return RunRequest.model_validate_json(prepare("agent", value, options, max_bytes=LIMIT).request_json)


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"stream_mode": "mesages"},
        r"^stream_mode: 'mesages' is no stream mode; did you mean 'messages'\? the modes are values",
    ),
    ({"stream_mode": ["values", "tools"]}, "^stream_mode: 'tools' is no stream mode; the modes are"),
    ({"stream_mode": 5}, "^stream_mode: 5 must be a stream mode or a list"),
    ({"print_mode": "x"}, "^print_mode: 'x' is no stream mode"),
    ({"print_mode": ["values", "events"]}, "^print_mode: 'events' cannot be printed"),
    ({"stream_modes": "values"}, r"^stream_modes: there is no such option; did you mean 'stream_mode'\?"),
    ({"recursion_limit": 5}, "^recursion_limit: there is no such option; it belongs in config"),
    ({"qqqqqq": 1}, "^qqqqqq: there is no such option; the options are config, context,"),
    ({"durability": "asnyc"}, "^durability: 'asnyc': input should be 'sync', 'async' or 'exit'"),
    ({"version": "v3"}, "^version: 'v3': input should be 'v1' or 'v2'"),
    ({"subgraphs": "maybe"}, "^subgraphs: 'maybe' must be True or False"),
    (
        {"interrupt_before": "tools"},
        r"^interrupt_before: 'tools' must be '\*' or a list of node names, such as \['tools'\]",
    ),
    ({"interrupt_after": [1]}, r"^interrupt_after: \[1\] must be a list of names"),
    ({"output_keys": {"a": 1}}, "^output_keys: .* must be a list of names"),
    ({"config": {"recursion_limits": 5}}, r"^config.recursion_limits: no such key; did you mean 'recursion_limit'\?"),
    ({"config": {"recursion_limit": 0}}, "^config.recursion_limit: 0 must be a whole number over 0"),
    ({"config": {"recursion_limit": "5"}}, "^config.recursion_limit: '5' must be a whole number over 0"),
    ({"config": {"tags": "a"}}, "^config.tags: 'a' must be a list of strings"),
    ({"config": {"configurable": []}}, r"^config.configurable: \[\] must be an object"),
    ({"config": {"callbacks": []}}, "^config.callbacks: callbacks cannot travel"),
    ({"config": "x"}, "^config: 'x' must be an object"),
    ({"metadata": [1]}, r"^metadata: \[1\] must be an object"),
    ({"run_id": "run-1"}, "^run_id: 'run-1' is no run id: a run id is a UUID"),
    ({"thread_id": ""}, "^thread_id: '' must be 1 to 255"),
    ({"thread_id": "a\nb"}, "^thread_id: 'a"),
    ({"idempotency_key": 7}, "^idempotency_key: 7 must be 1 to 255"),
    ({"timeout": 0}, "^timeout: 0 must be a number of seconds over 0"),
    ({"timeout": True}, "^timeout: True must be a number"),
    ({"timeout": float("nan")}, "^timeout: nan must be a number"),
    ({"retention": -1}, "^retention: -1 must be"),
    ({"delay": "5"}, "^delay: '5' must be a number"),
    ({"start_at": datetime(2030, 1, 1)}, "^start_at: .* must be a datetime with a time zone"),  # noqa: DTZ001 - it is wrong
    ({"start_at": datetime(2030, 1, 1, tzinfo=UTC), "delay": 5}, "^start_at: give a delay or a time, not both"),
    ({"start_within": 0}, "^start_within: 0 must be a number of seconds over 0"),
    ({"start_within": "1h"}, "^start_within: '1h' must be a number of seconds over 0, or a timedelta"),
    (
        {"multitask_strategy": "queue"},
        "^multitask_strategy: 'queue' is no strategy; they are enqueue, reject, interrupt, rollback",
    ),
    ({"multitask_strategy": ["reject"]}, r"^multitask_strategy: \['reject'\] is no strategy"),
    ({"max_attempts": 0}, "^max_attempts: 0 must be a whole number from 1 to 1000"),
    ({"max_attempts": 1001}, "^max_attempts: 1001 must be a whole number from 1 to 1000"),
    ({"max_attempts": 1.5}, "^max_attempts: 1.5 must be a whole number"),
    ({"max_attempts": True}, "^max_attempts: True must be a whole number"),
    ({"restartable": "maybe"}, "^restartable: 'maybe' must be True or False"),
    ({"continues": "the last one"}, "^continues: 'the last one' is no run id: a run id is a UUID"),
    ({"config": {"metadata": {"run_id": "x"}}}, "^config.metadata.run_id: the worker puts the run's own id there"),
    ({"context": {"when": datetime(2030, 1, 1, tzinfo=UTC)}}, r"^context\.when: datetime.datetime is not JSON"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[message[1:24] for _, message in WRONG])
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        prepare("agent", None, options, max_bytes=LIMIT)
    assert str(caught.value).startswith(caught.value.field)


@pytest.mark.parametrize("name", ["", "x" * 256, "é" * 128, "half \ud83d", None, 5])
def test_a_wrong_graph_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^graph: .* must be a graph's name: 1 to 255 bytes of UTF-8 text"):
        prepare(name, None, {}, max_bytes=LIMIT)


NAMES = [
    "Deep Researcher",
    "a:b",
    "{a}",
    "a,b",
    "a%2Cb",
    "größe 🚀",
    "x" * 255,
    "a/b?c#d",
    "*",
    "line\nbreak",
    "__proto__",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_other_text_is_a_graphs_name_and_keys_keep_their_slot(name: str) -> None:
    assert prepare(name, None, {}, max_bytes=LIMIT).request.graph == name
    keys = Keys("ns")
    for key in (keys.queue(name), keys.bell(name)):
        assert key.startswith("{ns:0}:")
        assert key.isascii()
        assert key[len("{ns:0}:") :].isprintable()
        assert not {"{", "}", " ", "*", ","} & set(key[len("{ns:0}:") :])


def test_names_in_a_list_stay_apart() -> None:
    assert split_names(join_names(NAMES)) == NAMES
    assert split_names("agent,other.v2_x-y") == ["agent", "other.v2_x-y"]


@pytest.mark.parametrize(
    "wrong", [{"a": object()}, {"a": {1, 2}}, {1: "a"}, b"x", float("inf"), {"a": [datetime.now(UTC)]}]
)
def test_input_that_is_not_json_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^input"):
        prepare("agent", wrong, {}, max_bytes=LIMIT)


async def test_nothing_is_written_of_what_is_refused(client: Client, redis: Redis, namespace: str) -> None:
    specs = [RunSpec("agent", {"n": 1}, {}), RunSpec("agent", {"n": object()}, {})]
    with pytest.raises(InvalidRequest):
        await client.enqueue_many(specs)
    assert [key async for key in redis.scan_iter(f"*{Keys(namespace).tag}*")] == []
    assert await client.enqueue_many([]) == []


async def test_a_request_over_the_limit_is_refused(redis_url: str, namespace: str) -> None:
    settings = ClientSettings(namespace=namespace, max_request_bytes=1000)
    async with Client(redis_url, settings=settings) as client:
        with pytest.raises(
            InvalidRequest,
            match=r"^input: the request with its metadata is 1,\d\d\d bytes of JSON and the limit is 1,000",
        ):
            await client.enqueue("agent", {"text": "x" * 1000})


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://localhost/x", ""])
def test_a_wrong_url_is_refused_without_telling_a_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNSTREAM_REDIS_URL", "htp://:secret@localhost")
    with pytest.raises(InvalidRequest, match="is no URL of Redis") as caught:
        Client(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("namespace", ["", "a b", "{a}", "a:b"])
def test_a_wrong_namespace_is_refused(namespace: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^namespace: "):
        Client("redis://localhost", settings=ClientSettings(namespace=namespace))


def test_messages_travel_as_langchain_reads_them() -> None:
    sent = request(
        {"messages": [HumanMessage("hi", id="1"), AIMessage("ho"), ("user", "x"), {"role": "user", "content": "y"}]}
    )
    human, answer, pair, plain = sent.input["messages"]
    assert (human["type"], human["content"], human["id"]) == ("human", "hi", "1")
    assert (answer["type"], answer["content"]) == ("ai", "ho")
    assert (pair, plain) == (["user", "x"], {"role": "user", "content": "y"})


@pytest.mark.parametrize("kind", [Command, LangGraphCommand])
def test_a_command_travels_instead_of_an_input(kind: Any) -> None:
    sent = request(kind(resume={"ok": True}, update={"n": 1}, goto=["a"]))
    assert sent.input is None
    assert sent.command == {"resume": {"ok": True}, "update": {"n": 1}, "goto": ["a"]}
    assert request(Command(goto=Send("a", {"n": 1}))).command == {"goto": {"node": "a", "input": {"n": 1}}}


def test_nothing_travels_as_nothing() -> None:
    assert (request(None).input, request(None).command) == (None, None)


def test_options_travel_as_they_are() -> None:
    options: dict[str, Any] = {
        "config": {"configurable": {"user": "u"}, "tags": ["t"], "metadata": {"m": 1}, "recursion_limit": 7},
        "context": {"tenant": "x"},
        "stream_mode": ["messages", "updates", "messages"],
        "print_mode": "values",
        "output_keys": ["n"],
        "interrupt_before": "*",
        "interrupt_after": ["a"],
        "durability": "sync",
        "subgraphs": True,
        "debug": False,
        "version": "v2",
        "thread_id": "t-1",
        "timeout": timedelta(minutes=1),
        "restartable": True,
        "strict_json": True,
        "continues": _RUN.upper(),
    }
    sent = request({"n": 1}, **options).model_dump(exclude={"v", "graph", "command"})
    expected = {
        **options,
        "input": {"n": 1},
        "stream_mode": ["messages", "updates"],
        "print_mode": ["values"],
        "timeout": 60.0,
        "continues": [_RUN],
    }
    assert sent == expected


def test_what_only_the_queue_needs_to_know_does_not_travel_with_the_request() -> None:
    options: dict[str, Any] = {
        "multitask_strategy": "rollback",
        "max_attempts": 7,
        "start_within": timedelta(seconds=90),
        "retention": 0.0001,
        "idempotency_key": "k",
    }
    prepared = prepare("agent", None, options, max_bytes=LIMIT)
    assert (prepared.strategy, prepared.max_attempts, prepared.idempotency_key) == ("rollback", 7, "k")
    assert (prepared.queued_ttl, prepared.retention) == (90_000, 1)
    assert set(json.loads(prepared.request_json)) == {"graph", "thread_id", "stream_mode"}
    plain = prepare("agent", None, {}, max_bytes=LIMIT)
    assert (plain.strategy, plain.max_attempts, plain.queued_ttl, plain.retention) == ("enqueue", 3, None, None)
    assert plain.digest == prepared.digest


@pytest.mark.parametrize("option", ["restartable", "strict_json", "continues"])
def test_what_the_worker_needs_to_know_makes_another_request(option: str) -> None:
    value = {"restartable": True, "strict_json": False, "continues": [new_run_id()]}[option]
    changed, plain = (prepare("agent", None, options, max_bytes=LIMIT) for options in ({option: value}, {}))
    assert json.loads(changed.request_json)[option] == value
    assert option not in json.loads(plain.request_json)
    assert changed.digest != plain.digest


def test_the_id_of_the_run_that_is_gone_on_with_has_its_one_spelling() -> None:
    run_id = uuid.uuid4()
    for spelling in (run_id, str(run_id).upper(), run_id.hex):
        assert request(continues=spelling).continues == [str(run_id)]


def test_options_that_are_none_are_as_if_they_were_left_out() -> None:
    names = ("multitask_strategy", "max_attempts", "start_within", "restartable", "strict_json", "continues")
    given, left_out = (prepare("agent", None, options, max_bytes=LIMIT) for options in (dict.fromkeys(names), {}))
    assert given.model_dump(exclude={"run_id", "request", "request_json"}) == left_out.model_dump(
        exclude={"run_id", "request", "request_json"}
    )


def test_other_metadata_of_the_configuration_travels() -> None:
    assert request(config={"metadata": {"user": "u"}}).config == {"metadata": {"user": "u"}}
    assert request(config={"metadata": None}).config == {}


async def test_start_within_is_how_long_the_record_says_that_it_waits(
    client: Client, redis: Redis, namespace: str
) -> None:
    keys = Keys(namespace)
    run = await client.enqueue("agent", None, start_within=90, max_attempts=5)
    usual = await client.enqueue("agent", None)
    records = [
        await redis.hmget(keys.run(one.run_id), ["queued_ttl", "max_attempts"])  # type: ignore[misc] # redis-py's types
        for one in (run, usual)
    ]
    week = str(7 * 24 * 3600 * 1000).encode()
    assert records == [[b"90000", b"5"], [week, b"3"]]


def test_a_run_may_continue_one_of_several() -> None:
    other = new_run_id()
    assert request(None, continues=[_RUN, other, _RUN]).continues == [_RUN, other]
    assert request(None, continues=None).continues == []
    for wrong in ("x", [_RUN, "x"], 7):
        with pytest.raises(InvalidRequest, match="continues: "):
            request(None, continues=wrong)


def test_the_same_request_has_the_same_digest_whatever_its_id() -> None:
    first, again = (prepare("agent", {"a": 1, "b": 2}, {}, max_bytes=LIMIT) for _ in range(2))
    other_order = prepare("agent", {"b": 2, "a": 1}, {"stream_mode": "values"}, max_bytes=LIMIT)
    other = prepare("agent", {"a": 1}, {}, max_bytes=LIMIT)
    assert first.run_id != again.run_id
    assert first.digest == again.digest == other_order.digest != other.digest


def test_defaults_are_left_out_of_what_is_written() -> None:
    prepared = prepare("agent", {"n": 1}, {}, max_bytes=LIMIT)
    assert json.loads(prepared.request_json) == {
        "graph": "agent",
        "thread_id": prepared.run_id,
        "input": {"n": 1},
        "stream_mode": ["values"],
    }


def test_ids_sort_in_the_order_in_which_they_were_made() -> None:
    ids = []
    for _ in range(1000):
        made_at = time.time_ns()
        ids.append(new_run_id())
        while time.time_ns() - made_at < 300:
            pass
    assert ids == sorted(ids)
    assert {uuid.UUID(made).version for made in ids} == {7}


async def test_a_client_that_is_closed_says_so(redis_url: str, namespace: str) -> None:
    async with Client(redis_url, settings=ClientSettings(namespace=namespace)) as client:
        await client.ping()
    for call in (client.ping(), client.enqueue("agent", {}), anext(client.tail(new_run_id()))):
        with pytest.raises(RunstreamError, match="the client is closed"):
            await call


@pytest.mark.parametrize(
    "wrong",
    [
        {"retention": 0}, {"retention": "1d"}, {"connections": 0}, {"read_buffer": 0}, {"reconnect_timeout": -1},
        {"probe_interval": 20}, {"max_request_bytes": 1.5}, {"queued_ttl": float("inf")},
    ],
    ids=lambda wrong: next(iter(wrong)),
)  # fmt: skip
def test_a_client_setting_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=f"^{next(iter(wrong))}: "):
        ClientSettings(**wrong)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://:secret@localhost?protocol=3", "the option 'protocol' cannot be set"),
        ("redis://localhost?password=secret&decode_responses=True", "the option 'decode_responses' cannot be set"),
        ("redis://localhost?db=zero&password=secret", "is no URL of Redis"),
    ],
)
def test_url_options_that_would_break_what_is_relied_on_are_refused(url: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told) as caught:
        Client(url)
    assert "secret" not in str(caught.value)


async def test_limits_hold_for_what_comes_along_with_a_request(client: Client) -> None:
    with pytest.raises(InvalidRequest, match=r"^input: the request with its metadata is"):
        await client.enqueue("agent", {}, metadata={"x": "y" * 2_000_000})
    with pytest.raises(InvalidRequest, match=r"^reason: 2,000 characters: must be text of at most 1,000"):
        await client.stop(new_run_id(), reason="x" * 2000)
    with pytest.raises(InvalidRequest, match=r"^idempotency_key: the runs of a batch cannot share it"):
        await client.batch("agent", [{}, {}], idempotency_key="k")
    with pytest.raises(InvalidRequest, match=r"^limit: 0 must be a whole number of 1 or more"):
        await client.runs(limit=0)


@pytest.mark.parametrize("option", ["restartable", "strict_json", "subgraphs", "debug"])
def test_what_is_yes_or_no_is_not_guessed(option: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"{option}: 'yes' must be True or False"):
        request(None, **{option: "yes"})
