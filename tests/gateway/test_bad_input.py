"""Requests that are wrong, one by one: each is refused with the right status, in words, and leaves nothing behind."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest
from tests.gateway.served import Served, check_it_still_serves, served_beside, turn

_NOBODY: Final = "6b5a26bd-faf0-4404-82de-668312a735da"
_GRAPHS: Final = "chat, agent, approval"
_MODES: Final = "'values', 'messages'"


@dataclass(frozen=True)
class There:
    """What is there to be asked for."""

    thread: str
    run: str
    fresh: str


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    with served_beside() as gateway:
        yield gateway


@pytest.fixture(scope="module")
def http(gateway: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def there(http: httpx.Client) -> There:
    thread = _id(http.post("/threads", json={}), "thread_id")
    run = _id(http.post(f"/threads/{thread}/runs", json=turn("hi")), "run_id")
    assert http.get(f"/threads/{thread}/runs/{run}/join").is_success
    return There(thread, run, _id(http.post("/threads", json={}), "thread_id"))


def _id(response: httpx.Response, name: str) -> str:
    assert response.is_success, response.text
    return str(response.json()[name])


@dataclass(frozen=True)
class Bad:
    """A request that is wrong; `{thread}`, `{run}` and `{fresh}` in its path are things that are there.

    Attributes:
        call: method and path.
        status: what it is answered with.
        words: what the refusal tells, each of them.
        body: as bytes, or what is to be JSON.
        headers: of the request.
    """

    call: str
    status: int
    words: tuple[str, ...]
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        told = self.body[:40] if isinstance(self.body, bytes) else json.dumps(self.body)[:60]
        return f"{self.call} {told!r}"

    def send(self, http: httpx.Client, there: There) -> httpx.Response:
        """Make it."""
        method, path = self.call.split(" ", 1)
        content = self.body if isinstance(self.body, bytes) or self.body is None else json.dumps(self.body).encode()
        # As it is, and not as httpx would have it: who means harm sends `..`, too.
        target = quote(path.format(**vars(there)), safe="/%?=&.~:-").encode()
        return http.request(method, "/", content=content, headers=dict(self.headers), extensions={"target": target})


def _nested(levels: int) -> bytes:
    return b'{"assistant_id": "chat", "input": ' + b"[" * levels + b"]" * levels + b"}"


def _run(status: int, *words: str, **fields: Any) -> Bad:
    return Bad("POST /threads/{thread}/runs", status, words, {**turn("hi"), **fields})


IDS: Final = [
    Bad("GET /threads/nope", 422, ("thread_id", "'nope'", "UUID")),
    Bad("GET /threads/nope/runs", 422, ("thread_id", "UUID")),
    Bad("GET /threads/nope/stream", 422, ("thread_id", "UUID")),
    Bad("GET /threads/nope/state", 422, ("thread_id", "UUID")),
    Bad("POST /threads/nope/history", 422, ("thread_id", "UUID")),
    Bad("DELETE /threads/nope", 422, ("thread_id", "UUID")),
    Bad("PATCH /threads/nope", 422, ("thread_id", "UUID"), {}),
    Bad("POST /threads/nope/runs", 422, ("thread_id", "UUID"), turn("hi")),
    Bad("GET /threads/{thread}/runs/nope", 422, ("run_id", "UUID")),
    Bad("GET /threads/{thread}/runs/nope/stream", 422, ("run_id", "UUID")),
    Bad("GET /runs/nope", 422, ("run_id", "UUID")),
    Bad("POST /threads", 422, ("thread_id", "'nope'", "UUID"), {"thread_id": "nope"}),
    Bad("GET /threads/١١١١١١١١-1111-1111-1111-111111111111", 422, ("UUID",)),  # noqa: RUF001 - digits of another script
    Bad(f"GET /threads/{_NOBODY}", 404, (_NOBODY, "not found")),
    Bad(f"GET /threads/{_NOBODY}/runs", 404, (_NOBODY, "not found")),
    Bad(f"GET /threads/{_NOBODY}/state", 404, (_NOBODY, "not found")),
    Bad(f"GET /threads/{_NOBODY}/stream", 404, (_NOBODY, "not found")),
    Bad(f"POST /threads/{_NOBODY}/runs", 404, ("Thread or assistant not found",), turn("hi")),
    Bad(f"POST /threads/{_NOBODY}/runs/stream", 404, ("Thread or assistant not found",), turn("hi")),
    Bad(f"POST /threads/{_NOBODY}/copy", 404, ("not found",)),
    Bad(f"GET /threads/{{thread}}/runs/{_NOBODY}", 404, (_NOBODY, "not found")),
    Bad(f"GET /threads/{{thread}}/runs/{_NOBODY}/join", 404, (_NOBODY, "not found")),
    Bad(f"GET /threads/{{thread}}/runs/{_NOBODY}/stream", 404, (_NOBODY, "not found")),
    Bad(f"POST /threads/{{thread}}/runs/{_NOBODY}/cancel", 404, (_NOBODY, "not found")),
    Bad("GET /threads/{fresh}/runs/{run}", 404, ("not found",)),
    Bad(f"GET /runs/{_NOBODY}/stream", 404, (_NOBODY, "not found")),
    Bad("GET /assistants/nope", 422, ("'nope'", "UUID", _GRAPHS)),
    Bad(f"GET /assistants/{_NOBODY}", 404, (_NOBODY, "not found")),
    Bad(f"GET /assistants/{_NOBODY}/schemas", 404, (_NOBODY, "not found")),
    Bad("POST /assistants", 404, ("graph 'nope'", _GRAPHS), {"graph_id": "nope"}),
    Bad("POST /runs", 422, ("assistant 'nope'", _GRAPHS), {"assistant_id": "nope"}),
    _run(422, "assistant 'nope'", _GRAPHS, assistant_id="nope"),
    _run(404, "not found", assistant_id=_NOBODY),
    Bad("POST /runs/batch", 422, ("assistant 'nope'",), [turn("hi"), {"assistant_id": "nope"}]),
]

BODIES: Final = [
    Bad("POST /runs", 422, ("body", "missing"), b""),
    Bad("POST /runs", 422, ("body", "not JSON"), b"{"),
    Bad("POST /runs", 422, ("body", "not JSON"), b"hello"),
    Bad("POST /runs", 422, ("body", "not JSON"), b"\xff\xfe{\x00}\x00"),
    Bad("POST /runs", 422, ("body", "not JSON"), b"\x1f\x8b\x08\x00"),
    Bad("POST /runs", 422, ("body", "[]", "an object"), b"[]"),
    Bad("POST /runs", 422, ("body", "5", "an object"), b"5"),
    Bad("POST /runs", 422, ("body", "null", "an object"), b"null"),
    Bad("POST /runs", 422, ("body", "not JSON"), b"NaN"),
    Bad("POST /runs", 422, ("body", "not JSON"), b'{"assistant_id": "chat", "input": NaN}'),
    Bad("POST /runs", 422, ("body", "not JSON"), b'{"assistant_id": "chat", "input": -Infinity}'),
    Bad("POST /runs", 422, ("inf",), b'{"assistant_id": "chat", "input": 1e999}'),
    Bad("POST /runs", 422, ("body", "not JSON"), b'{"assistant_id": "chat", "input": "\\ud800"}'),
    Bad("POST /runs", 422, ("body", "not JSON"), b'{"assistant_id": "chat", "\\udfff": 1}'),
    Bad("POST /threads", 422, ("body", "not JSON"), b'{"metadata": {"a": "\\ud800"}}'),
    Bad("POST /threads", 422, ("body", "not JSON"), b'{"metadata": {"a": NaN}}'),
    Bad("POST /runs", 422, ("body", "nested too deep"), _nested(10_000)),
    Bad("POST /runs", 422, ("body", "nested too deep"), _nested(500)),
    Bad("POST /threads/search", 422, ("body", "nested too deep"), b'{"metadata": ' + b'{"a": ' * 10_000),
    Bad("POST /runs", 422, ("assistant 'nope'",), b'{"assistant_id": "chat", "assistant_id": "nope"}'),
    Bad("POST /runs", 413, ("10,485,760 bytes",), b" " * 20_000_000),
    Bad("POST /threads", 413, ("10,485,760 bytes",), b'{"metadata": {"a": "' + b"a" * 20_000_000 + b'"}}'),
    Bad("PATCH /threads/{thread}", 413, ("bytes",), b" " * 20_000_000),
    Bad("POST /runs/cancel", 422, ("status", "run_ids"), {}),
    Bad("POST /runs/cancel", 422, ("status", "run_ids"), {"status": "all", "thread_id": _NOBODY, "run_ids": [_NOBODY]}),
    Bad("POST /runs/cancel", 422, ("run_ids", "UUID"), {"thread_id": _NOBODY, "run_ids": ["nope"]}),
]

RUNS: Final = [
    Bad("POST /threads/{thread}/runs", 422, ("assistant_id", "missing"), {}),
    _run(422, "assistant_id", "5", "string", assistant_id=5),
    _run(422, "assistant_id", "null", "string", assistant_id=None),
    _run(422, "assistant_id", "at least 1", assistant_id=""),
    _run(422, "command", '"x"', "an object", command="x"),
    _run(422, "command.update", "5", "an object", "a list", command={"update": 5}),
    _run(422, "update", "pairs", command={"update": [["a"]]}),
    _run(422, "command.goto", "5", "string", command={"goto": 5}),
    _run(422, "command.goto", "'node'", command={"goto": {"a": 1}}),
    _run(422, "config", "5", "an object", config=5),
    _run(422, "config.configurable", "5", "an object", config={"configurable": 5}),
    _run(422, "config.configurable.checkpoint_id", "5", "a string", config={"configurable": {"checkpoint_id": 5}}),
    _run(422, "config.metadata", "5", "an object", config={"metadata": 5}),
    _run(422, "config.tags", "5", "a list of strings", config={"tags": 5}),
    _run(422, "config.tags", "[1]", "a list of strings", config={"tags": [1]}),
    _run(422, "config.recursion_limit", "0", "whole number over 0", config={"recursion_limit": 0}),
    _run(422, "config.recursion_limit", "'x'", "whole number", config={"recursion_limit": "x"}),
    _run(422, "config.max_concurrency", "-1", "whole number", config={"max_concurrency": -1}),
    _run(422, "config.run_name", "5", "a string", config={"run_name": 5}),
    _run(400, "context", "config.configurable", "one of them", context={"a": 1}, config={"configurable": {"b": 1}}),
    _run(422, "metadata", "[]", "an object", metadata=[]),
    _run(422, "stream_mode", '"nope"', _MODES, stream_mode="nope"),
    _run(422, "stream_mode.1", '"nope"', _MODES, stream_mode=["values", "nope"]),
    _run(422, "stream_mode", "5", "a list", stream_mode=5),
    _run(422, "stream_subgraphs", '"x"', "boolean", stream_subgraphs="x"),
    _run(422, "stream_resumable", "[]", "boolean", stream_resumable=[]),
    _run(422, "interrupt_before", '"x"', "'*'", "a list", interrupt_before="x"),
    _run(422, "interrupt_after.0", "5", "string", interrupt_after=[5]),
    _run(422, "feedback_keys", '"x"', "a list", feedback_keys="x"),
    _run(422, "webhook", "5", "string", webhook=5),
    _run(422, "on_disconnect", '"x"', "'cancel' or 'continue'", on_disconnect="x"),
    _run(422, "on_completion", '"x"', "'delete' or 'keep'", on_completion="x"),
    _run(422, "after_seconds", "-1", "greater than or equal to 0", after_seconds=-1),
    _run(422, "after_seconds", "1e+300", "less than", after_seconds=1e300),
    _run(422, "after_seconds", '"x"', "number", after_seconds="x"),
    _run(422, "durability", '"x"', "'sync', 'async' or 'exit'", durability="x"),
    _run(422, "checkpoint_during", '"x"', "boolean", checkpoint_during="x"),
    _run(422, "checkpoint", "5", "an object", checkpoint=5),
    _run(422, "checkpoint.checkpoint_id", "5", "string", checkpoint={"checkpoint_id": 5}),
    _run(422, "checkpoint_id", "5", "string", checkpoint_id=5),
    _run(422, "multitask_strategy", '"x"', "'enqueue', 'reject'", multitask_strategy="x"),
    _run(422, "if_not_exists", '"x"', "'create' or 'reject'", if_not_exists="x"),
    _run(422, "assistant_id", "on_disconnect", assistant_id=5, on_disconnect=5),
    Bad("POST /runs", 400, ("command.resume", "stateless"), {"assistant_id": "approval", "command": {"resume": 1}}),
    Bad(
        f"POST /threads/{_NOBODY}/runs",
        422,
        ("config.metadata",),
        {**turn("hi"), "if_not_exists": "create", "config": {"metadata": 5}},
    ),
    Bad("POST /runs", 422, ("config.tags",), {**turn("hi"), "on_completion": "keep", "config": {"tags": 5}}),
    Bad("POST /threads/{fresh}/runs", 422, ("config.tags",), {**turn("hi"), "config": {"tags": 5}}),
]

STATES: Final = [
    Bad("GET /threads/{thread}/state/nope", 422, ("checkpoint_id", "'nope'", "UUID")),
    Bad("GET /threads/{fresh}/state/nope", 422, ("checkpoint_id", "'nope'", "UUID")),
    Bad(f"GET /threads/{{thread}}/state/{_NOBODY}", 404, (f"checkpoint '{_NOBODY}'", "not found")),
    Bad(f"GET /threads/{{fresh}}/state/{_NOBODY}", 404, (f"checkpoint '{_NOBODY}'", "not found")),
    Bad("POST /threads/{thread}/state/checkpoint", 422, ("checkpoint", "missing"), {}),
    Bad("POST /threads/{thread}/state/checkpoint", 404, ("not found",), {"checkpoint": {"checkpoint_id": _NOBODY}}),
    Bad("POST /threads/{thread}/state", 422, ("values", "5", "an object"), {"values": 5}),
    Bad("POST /threads/{thread}/state", 422, ("values", "'chat'"), {"values": {"messages": 5}}),
    Bad("POST /threads/{thread}/state", 422, ("values", "'chat'"), {"values": {"messages": [{"a": 1}]}}),
    Bad("POST /threads/{thread}/state", 422, ("nope",), {"values": {}, "as_node": "nope"}),
    Bad("POST /threads/{thread}/state", 422, ("'chat'",), {"values": {}, "checkpoint": {"checkpoint_ns": "nope"}}),
    Bad("POST /threads/{fresh}/state", 400, ("no run yet",), {"values": {}}),
    Bad("POST /threads/{thread}/history", 422, ("limit", "0", "greater"), {"limit": 0}),
    Bad("POST /threads/{thread}/history", 422, ("before", "5"), {"before": 5}),
    Bad("POST /threads/{thread}/history", 422, ("before", "checkpoint"), {"before": {"configurable": 5}}),
    Bad("GET /threads/{thread}/history?limit=0", 422, ("limit", "0", "greater")),
    Bad("POST /threads", 422, ("supersteps", "graph_id"), {"supersteps": [{"updates": [{"values": {}}]}]}),
    Bad(
        "POST /threads",
        422,
        ("'chat'",),
        {
            "metadata": {"graph_id": "chat"},
            "supersteps": [{"updates": [{"values": {"messages": 5}, "as_node": "answer"}]}],
        },
    ),
    Bad(
        "POST /threads",
        404,
        ("graph 'nope'", _GRAPHS),
        {"metadata": {"graph_id": "nope"}, "supersteps": [{"updates": [{"values": {}}]}]},
    ),
    Bad("POST /threads", 422, ("supersteps.0.updates", "5", "a list"), {"supersteps": [{"updates": 5}]}),
    Bad("POST /threads/{thread}/token", 422, ("seconds", "0", "greater"), {"seconds": 0}),
]

QUERIES: Final = [
    Bad("GET /threads/{thread}/runs?limit=0", 422, ("limit", "0", "greater")),
    Bad("GET /threads/{thread}/runs?limit=1001", 422, ("limit", "1001", "less")),
    Bad("GET /threads/{thread}/runs?limit=99999999999999999999999", 422, ("limit",)),
    Bad("GET /threads/{thread}/runs?offset=-1", 422, ("offset", "-1", "greater")),
    Bad("GET /threads/{thread}/runs?status=nope", 422, ("status", "nope", "'pending'")),
    Bad("POST /threads/search", 422, ("limit", "0", "greater"), {"limit": 0}),
    Bad("POST /threads/search", 422, ("offset", "-1", "greater"), {"offset": -1}),
    Bad("POST /threads/search", 422, ("limit",), {"limit": 10**30}),
    Bad("POST /threads/search", 422, ("sort_by", "nope", "'created_at'"), {"sort_by": "nope"}),
    Bad("POST /assistants/search", 422, ("limit", "0"), {"limit": 0}),
    Bad("POST /assistants/search", 404, ("nope", _GRAPHS), {"graph_id": "nope"}),
    Bad("GET /assistants/chat/graph?xray=-1", 422, ("xray", "-1")),
    Bad("GET /threads/{thread}/stream?stream_mode=nope", 422, ("stream_mode", "nope", "run_modes")),
    Bad("POST /threads/{thread}/runs/{run}/cancel?action=nope", 422, ("action", "nope", "'interrupt' or 'rollback'")),
    Bad("POST /threads/{thread}/runs/{run}/cancel?wait=nope", 422, ("wait", "nope", "boolean")),
    Bad(f"POST /threads/{{thread}}/runs/{{run}}/cancel?reason={'a' * 1001}", 422, ("reason", "1000")),
    *(
        Bad("GET /threads/{thread}/runs/{run}/stream", 422, ("Last-Event-ID", given), headers={"last-event-id": given})
        for given in ("garbage", "5", "1-1-1", "-1-1", "99999999999999999999-1", "1-99999999999999999999")
    ),
    Bad("GET /threads/{thread}/stream", 422, ("Last-Event-ID", "nope"), headers={"last-event-id": "nope"}),
    Bad("GET /threads/{thread}/runs/{run}/text", 422, ("messages-tuple",)),
]

PATHS: Final = [
    Bad("GET /nope", 404, ("Not Found",)),
    Bad("GET /../../etc/passwd", 404, ("Not Found",)),
    Bad("GET /%2e%2e/%2e%2e/etc/passwd", 404, ("Not Found",)),
    Bad("GET /threads/..%2f..%2fetc%2fpasswd", 404, ("Not Found",)),
    Bad("GET /assistants/..%5c..%5cwindows", 422, ("UUID",)),
    Bad("GET /threads/%00", 422, ("UUID",)),
    Bad("GET /threads/%ff%fe", 422, ("UUID",)),
    Bad("GET /threads/a%0d%0aSet-Cookie:%20b=c", 422, ("UUID",)),
    Bad("PUT /threads", 405, ("PUT", "POST")),
    Bad("GET /threads", 405, ("GET", "POST")),
    Bad("POST /threads/{thread}", 405, ("GET, PATCH, DELETE",)),
    Bad("OPTIONS /threads/{thread}/history", 405, ("GET, POST",)),
    Bad("TRACE /ok", 405, ("GET",)),
]


@pytest.mark.parametrize("bad", [*IDS, *BODIES, *RUNS, *STATES, *QUERIES, *PATHS], ids=str)
def test_it_is_refused_and_nothing_is_written(gateway: Served, http: httpx.Client, there: There, bad: Bad) -> None:
    before, thread = gateway.written(), http.get(f"/threads/{there.fresh}").json()
    refused = bad.send(http, there)
    assert refused.status_code == bad.status, refused.text
    assert refused.headers["content-type"] == "application/json"
    assert list(refused.json()) == ["detail"]
    detail = refused.json()["detail"]
    assert len(detail.splitlines()) == 1
    assert len(detail) < 1100
    assert [word for word in bad.words if word not in detail] == [], detail
    for secret in ("Traceback", "site-packages", ".py", gateway.redis_url, "pydantic"):
        assert secret not in detail
    assert gateway.written() == before
    assert http.get(f"/threads/{there.fresh}").json() == thread


async def test_after_all_that_it_serves(gateway: Served, there: There) -> None:
    await check_it_still_serves(gateway)
    assert "Traceback" not in gateway.process.err, gateway.process.err


def test_all_methods_of_a_path_are_named(http: httpx.Client, there: There) -> None:
    refused = http.request("OPTIONS", f"/threads/{there.thread}")
    assert refused.headers.get_list("allow") == ["GET, PATCH, DELETE"]
    head = http.head(f"/threads/{there.thread}")
    assert (head.status_code, head.content) == (405, b"")


def test_a_line_break_before_an_id_gets_into_no_header(http: httpx.Client, there: There) -> None:
    run_id = uuid.UUID(there.run)
    assert run_id.hex.startswith("0")
    joined = http.get(f"/runs/%0a{run_id.hex[1:]}/join")
    assert joined.status_code == 422


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "nonsense", ""])
def test_json_is_taken_whatever_it_is_called(http: httpx.Client, content_type: str) -> None:
    made = http.post("/runs/wait", content=json.dumps(turn("hi")), headers={"content-type": content_type})
    assert made.json()["messages"][-1]["content"] == "You said: hi"


@pytest.mark.parametrize("graph_id", ["nope", 5, [1], {"a": 1}, None])
def test_a_thread_of_no_graph_that_is_here_is_shown_like_others(http: httpx.Client, graph_id: Any) -> None:
    made = http.post("/threads", json={"metadata": {"graph_id": graph_id}})
    assert made.status_code == 200, made.text
    thread = made.json()["thread_id"]
    found = http.post("/threads/search", json={"ids": [thread], "status": "idle"})
    assert [one["thread_id"] for one in found.json()] == [thread]
    assert http.post("/threads/search", json={"sort_by": "status", "limit": 1000}).is_success
    ran = http.post(f"/threads/{thread}/runs/wait", json=turn("hi"))
    assert ran.json()["messages"][-1]["content"] == "You said: hi"
    assert http.delete(f"/threads/{thread}").status_code == 204


def test_graphs_are_told_nothing_of_langgraphs_own(http: httpx.Client) -> None:
    mine = {"__pregel_checkpointer": 5, "__pregel_read": "x", "mine": "kept"}
    body = {"assistant_id": "contextual", "input": {"place": "x"}, "config": {"configurable": mine}}
    seen = http.post("/runs/wait", json=body).json()["seen"]
    assert seen["configurable"]["mine"] == "kept"


def test_a_run_that_breaks_in_its_graph_is_an_answer_and_no_refusal(http: httpx.Client, there: There) -> None:
    for given in (5, "x", [1], {"messages": 5}):
        ended = http.post("/runs/wait", json={"assistant_id": "chat", "input": given})
        assert ended.status_code == 200
        assert "__error__" in ended.json()
