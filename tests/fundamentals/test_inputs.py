"""What a producer passes is JSON, or refused with what to pass instead; the worker gets what was meant."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import subprocess
import sys
import types
import uuid
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)
from langgraph import types as langgraph
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel, RootModel

from runstream.command import Command, Send, command_to_jsonable, is_command
from runstream.errors import InvalidRequest
from runstream.jsonable import MAX_DEPTH, to_jsonable
from runstream_worker.arguments import needs_pending, to_command


class Color(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Place:
    name: str
    point: object


class Model(BaseModel):
    when: dt.datetime
    messages: list[BaseMessage] = []


class Numbers(RootModel[list[int]]):
    pass


class Unwritable(BaseModel):
    value: Any


NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
USAGE: Any = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
CALL: Any = {"name": "f", "args": {"q": 1}, "id": "c", "type": "tool_call"}
WRONG_CALL: Any = {"name": "f", "args": "{", "id": "c", "error": "e", "type": "invalid_tool_call"}
RAW_CALL = {"id": "c", "function": {"name": "f", "arguments": "{}"}, "type": "function"}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON)
def test_json_stays_as_it_is(value: object) -> None:
    converted = to_jsonable(value, "input")
    assert converted == value
    assert json.dumps(converted) == json.dumps(value)


@pytest.mark.parametrize(
    ("value", "converted"),
    [
        ((1, ("user", "hi")), [1, ["user", "hi"]]),
        ({Color.RED: [Color.RED, Level.HIGH]}, {"red": ["red", 3]}),
        (Place("here", (1, 2)), {"name": "here", "point": [1, 2]}),
        (Numbers([1]), [1]),
        (Model(when=NOON), {"when": "2026-01-02T12:00:00Z", "messages": []}),
        (2**70, 2**70),
    ],
)
def test_converted(value: object, converted: object) -> None:
    result = to_jsonable(value, "input")
    assert json.dumps(result) == json.dumps(converted)


@pytest.mark.parametrize(
    "message",
    [
        HumanMessage("hi", id="1", name="n"),
        HumanMessage([{"type": "text", "text": "a"}, {"type": "image", "url": "u"}]),
        AIMessage("x", id="2", response_metadata={"model_name": "m"}, additional_kwargs={"k": [1]}),
        AIMessage("", tool_calls=[CALL]),
        AIMessage("", additional_kwargs={"tool_calls": [RAW_CALL]}),
        ToolMessage("r", tool_call_id="c", artifact={"a": 1}, status="error", name="t"),
        ToolMessage("r", tool_call_id="c"),
        SystemMessage("s"),
        FunctionMessage(content="f", name="g"),
        RemoveMessage(id="7"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_arrive_as_they_were(message: BaseMessage) -> None:
    converted: Any = to_jsonable({"messages": [message]}, "input")
    assert convert_to_messages(json.loads(json.dumps(converted))["messages"]) == [message]
    model: Any = to_jsonable(Model(when=NOON, messages=[message]), "input")
    assert convert_to_messages(model["messages"]) == [message]


@pytest.mark.parametrize(
    ("message", "arrives"),
    [
        (AIMessage("x", usage_metadata=USAGE, invalid_tool_calls=[WRONG_CALL]), AIMessage("x")),
        (AIMessageChunk(content="x", id="1", usage_metadata=USAGE, chunk_position="last"), AIMessage("x", id="1")),
        (HumanMessageChunk(content="x"), HumanMessage("x")),
    ],
)
def test_messages_lose_what_would_end_up_elsewhere(message: BaseMessage, arrives: BaseMessage) -> None:
    converted: Any = to_jsonable(message, "input")
    assert convert_to_messages([converted]) == [arrives]


def ring() -> list[object]:
    value: list[object] = []
    value.append({"a": value})
    return value


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


REFUSED: list[tuple[object, str, str]] = [
    ({"messages": [{"when": NOON}]}, "input.messages[0].when", "datetime.datetime is not JSON: pass value.isoformat()"),
    ([NOON.date()], "input[0]", "pass value.isoformat()"),
    (dt.timedelta(1), "input", "pass value.total_seconds()"),
    (uuid.UUID(int=1), "input", "uuid.UUID is not JSON: pass str(value)"),
    (decimal.Decimal(1), "input", "pass str(value)"),
    (PurePosixPath("a"), "input", "is not JSON: pass"),
    (Path("a"), "input", "pass str(value)"),
    (b"a", "input", "bytes is not JSON: pass base64.b64encode(value).decode()"),
    ({1}, "input", "set is not JSON: pass a list"),
    (types.MappingProxyType({}), "input", "pass dict(value)"),
    ((n for n in [1]), "input", "pass list(value)"),
    (object(), "input", "object is not JSON: pass plain data"),
    (Place, "input", "type is not JSON"),
    (float("nan"), "input", "nan is not JSON: pass None"),
    ({"a b": [float("inf")]}, "input['a b'][0]", "inf is not JSON"),
    ({"a": {1: 2}}, "input.a", "the key 1 is a int, and JSON has str keys only: pass '1'"),
    ("a\ud83d", "input", "half of a surrogate pair at index 1"),
    ({"\ud83d": 1}, "input", "half of a surrogate pair"),
    (ring(), "input[0].a", "list contains itself"),
    (nested(MAX_DEPTH + 1), "input" + "[0]" * MAX_DEPTH, "nested deeper than 100 levels"),
    (nested(100_000), "input" + "[0]" * MAX_DEPTH, "nested deeper than 100 levels"),
    (10**5000, "input", "too large for JSON: pass a string"),
    (Place("n", {"at": NOON}), "input.point.at", "pass value.isoformat()"),
    (HumanMessage("x", additional_kwargs={"at": NOON}), "input.additional_kwargs.at", "pass value.isoformat()"),
    (HumanMessage("x", extra=1), "input", "HumanMessage has no field 'extra': put it in additional_kwargs"),
    (ChatMessage(content="x", role="boss"), "input", "LangChain makes no ChatMessage of a dict again"),
    (Unwritable(value=object()), "input", "could not be turned into JSON"),
    ({"a": [Command(resume=1)]}, "input.a[0]", "a Command cannot be part of data: pass a Command as the whole input"),
    ({"a": langgraph.Command(resume=1)}, "input.a", "a Command cannot be part of data"),
    ([Send("n", 1)], "input[0]", "a Send cannot be part of data"),
    ([langgraph.Send("n", 1)], "input[0]", "a Send cannot be part of data"),
]


@pytest.mark.parametrize(("value", "field", "problem"), REFUSED, ids=range(len(REFUSED)))
def test_refused(value: object, field: str, problem: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        to_jsonable(value, "input")
    assert refused.value.field == field
    assert problem in str(refused.value)


def test_the_deepest_value() -> None:
    assert to_jsonable(nested(MAX_DEPTH), "input") == nested(MAX_DEPTH)


def test_a_stack_that_is_nearly_used_up_is_no_recursion_error() -> None:
    def deep(levels: int) -> None:
        if levels:
            return deep(levels - 1)
        with pytest.raises(InvalidRequest, match="nested too deeply for the stack"):
            to_jsonable(nested(MAX_DEPTH), "input")
        return None

    deep(750)


def test_producers_load_neither_langchain_nor_langgraph() -> None:
    code = (
        "import sys; from runstream.command import Command, command_to_jsonable;"
        "command_to_jsonable(Command(update={'a': (1, 2)}), 'input');"
        "assert not {'langchain_core', 'langgraph', 'orjson', 'arq'} & sys.modules.keys()"
    )
    producer = Path(__file__).parents[2] / "producer"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(producer)})


ASK_ID = "0" * 32
COMMANDS: list[tuple[object, dict[str, object]]] = [
    (Command(resume="yes"), {"resume": "yes"}),
    (Command(resume=None), {"resume": None}),
    (
        Command(resume={ASK_ID: HumanMessage("x", id="1")}, goto=[]),
        {"resume": {ASK_ID: to_jsonable(HumanMessage("x", id="1"), "")}},
    ),
    (Command(update={"a": (1,)}), {"update": {"a": [1]}}),
    (Command(update=[("a", 1), ("a", 2)]), {"update": [["a", 1], ["a", 2]]}),
    (Command(update=Place("n", 1)), {"update": {"name": "n", "point": 1}}),
    (Command(goto="n"), {"goto": "n"}),
    (Command(goto=Send("n", {"a": 1})), {"goto": {"node": "n", "input": {"a": 1}}}),
    (Command(goto=["n", Send("m", None)]), {"goto": ["n", {"node": "m", "input": None}]}),
    (langgraph.Command(resume=0), {"resume": 0}),
    (
        langgraph.Command(update={"a": 1}, goto=["n", langgraph.Send("m", 1)]),
        {"update": {"a": 1}, "goto": ["n", {"node": "m", "input": 1}]},
    ),
    ({"resume": False, "update": None, "goto": None}, {"resume": False}),
    ({"goto": {"node": "n", "input": 1}}, {"goto": {"node": "n", "input": 1}}),
]


@pytest.mark.parametrize(("command", "wire"), COMMANDS, ids=range(len(COMMANDS)))
def test_commands(command: object, wire: dict[str, object]) -> None:
    assert command_to_jsonable(command, "command") == wire
    assert command_to_jsonable(wire, "command") == wire, "what travels can be checked again"


@pytest.mark.parametrize(
    ("command", "field", "problem"),
    [
        (Command(), "command", "asks for nothing: give resume, update or goto"),
        (langgraph.Command(), "command", "asks for nothing"),
        (langgraph.Command(graph="__parent__", goto="n"), "command.graph", "a run has no parent graph"),
        ({"resumee": 1}, "command", "a command has no 'resumee': its keys are resume, update, goto"),
        ("go", "command", "'go' must be a Command or an object"),
        (Command(resume={1: 2}), "command.resume", "JSON has str keys only"),
        (Command(update={"at": NOON}), "command.update.at", "pass value.isoformat()"),
        (Command(update=[1]), "command.update", "a list must hold pairs of key and value"),
        (Command(update=1), "command.update", "1 must be an object of the state's keys"),
        (Command(goto=["n", 1]), "command.goto[1]", "1 must be the name of a node, or a Send(node, input)"),  # type: ignore[list-item]  # the mistake under test
        ({"goto": {"node": "n"}}, "command.goto", "must be the name of a node"),
        (Command(goto=Send("n", {1})), "command.goto.input", "set is not JSON"),
        (langgraph.Command(goto=langgraph.Send("n", 1, timeout=1)), "command.goto.timeout", "does not travel"),
    ],
)
def test_wrong_commands(command: object, field: str, problem: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        command_to_jsonable(command, "command")
    assert refused.value.field == field
    assert problem in str(refused.value)


def test_only_commands_are_commands() -> None:
    assert is_command(Command(resume=1))
    assert is_command(langgraph.Command(resume=1))
    assert not is_command({"resume": 1})
    assert not is_command(None)


def test_to_command() -> None:
    assert to_command({"resume": {ASK_ID: 1}}) == langgraph.Command(resume={ASK_ID: 1}, goto=[])
    assert to_command({"update": [["a", 1]], "goto": "n"}) == langgraph.Command(update=[("a", 1)], goto="n")
    assert to_command({"goto": ["n", {"node": "m", "input": 1}]}).goto == ["n", langgraph.Send("m", 1)]


@pytest.mark.parametrize("pending", [[], ["1" * 32, "2" * 32]])
def test_null_answers_one_interrupt_only(pending: list[str]) -> None:
    with pytest.raises(InvalidRequest, match=f"this thread waits for {len(pending)}; pass the answers by interrupt id"):
        to_command({"resume": None}, pending=pending)


class State(TypedDict):
    answer: object


@pytest.mark.parametrize("answer", ["yes", None, 0, {"a": 1}])
async def test_an_answer_reaches_its_interrupt(answer: object) -> None:
    async def ask(state: State) -> dict[str, Any]:
        return {"answer": ("answered", interrupt("?"))}

    graph = StateGraph(State).add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    await graph.ainvoke({"answer": None}, config)
    wire = command_to_jsonable(Command(resume=answer), "command")
    pending = [each.id for each in (await graph.aget_state(config)).interrupts] if needs_pending(wire) else []
    assert (await graph.ainvoke(to_command(wire, pending=pending), config))["answer"] == ("answered", answer)
