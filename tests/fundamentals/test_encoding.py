"""What each kind of value is in JSON, and what is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import ipaddress
import pathlib
import re
import uuid
import zoneinfo
from collections import UserDict, deque
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.types import Command, Interrupt, Overwrite, Send
from pydantic import BaseModel, RootModel
from pydantic_core import from_json

from runstream.errors import EncodingError
from runstream_worker.encoding import MAX_DEPTH, JsonEncoder


class Color(enum.Enum):
    RED = "red"
    POINT = (1, 2)


class Level(enum.IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: object


@dataclasses.dataclass
class Place:
    name: str
    point: object
    _hidden: int = 0


@dataclasses.dataclass(slots=True, frozen=True)
class Slotted:
    value: object


class Model(BaseModel):
    when: dt.datetime
    messages: list[BaseMessage] = []


class Numbers(RootModel[list[int]]):
    pass


class Fraction(float):
    pass


class Failing(BaseModel):
    def model_dump(self, **_: Any) -> dict[str, Any]:
        raise ZeroDivisionError("in user code")


STRICT = JsonEncoder(strict=True)
NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
CALL = {"name": "f", "args": {}, "id": "c", "type": "tool_call"}

FORMS = [
    ("text \N{HONEYBEE}", "text \N{HONEYBEE}"),
    ("a\ud83d\ude00b", "a\N{GRINNING FACE}b"),
    ("a\ud83d", "a\N{REPLACEMENT CHARACTER}"),
    ({"\ud83d": 1}, {"\N{REPLACEMENT CHARACTER}": 1}),
    (2**64, 2**64),
    (-(10**100), -(10**100)),
    (Level.HIGH, 3),
    (float("nan"), None),
    ([float("inf"), -float("inf")], [None, None]),
    (Fraction(0.5), 0.5),
    ({1: 1, None: 2, False: 3, 1.5: 4}, {"1": 1, "null": 2, "false": 3, "1.5": 4}),
    (
        {dt.date(2026, 1, 2): 1, uuid.UUID(int=0): 2, Color.RED: 3},
        {"2026-01-02": 1, str(uuid.UUID(int=0)): 2, "red": 3},
    ),
    ({Level.HIGH: 2**70}, {"3": 2**70}),
    ({2**70: 3}, {str(2**70): 3}),
    (Point(1, {2}), {"x": 1, "y": [2]}),
    (Place("here", Point(1, 2)), {"name": "here", "point": {"x": 1, "y": 2}}),
    (Place("here", {1: 2**70}), {"name": "here", "point": {"1": 2**70}}),
    (Slotted(b"\x00\xff"), {"value": "AP8="}),
    ([bytearray(b"a"), memoryview(b"a")], ["YQ==", "YQ=="]),
    ((1, (2,)), [1, [2]]),
    (deque([1, 2]), [1, 2]),
    ({"c", "a", "b"}, ["a", "b", "c"]),
    (frozenset({3, 1}), [1, 3]),
    (UserDict({"a": 1}), {"a": 1}),
    (MappingProxyType({"a": {1: 2}}), {"a": {"1": 2}}),
    (Color.RED, "red"),
    (Color.POINT, [1, 2]),
    (NOON, "2026-01-02T12:00:00+00:00"),
    (NOON.replace(tzinfo=None), "2026-01-02T12:00:00"),
    (NOON.date(), "2026-01-02"),
    (NOON.time(), "12:00:00"),
    (NOON.timetz(), "12:00:00+00:00"),
    (dt.timedelta(minutes=1.5), 90.0),
    (Decimal("0.10"), "0.10"),
    (uuid.UUID(int=1), str(uuid.UUID(int=1))),
    (pathlib.PurePosixPath("a/b"), "a/b"),
    (ipaddress.ip_address("::1"), "::1"),
    (ipaddress.ip_network("10.0.0.0/8"), "10.0.0.0/8"),
    (zoneinfo.ZoneInfo("UTC"), "UTC"),
    (re.compile("a+"), "a+"),
    (KeyError("k"), {"error": "KeyError", "message": "'k'"}),
    (Interrupt({"q": 1}, "1" * 32), {"value": {"q": 1}, "id": "1" * 32, "response_schema": None}),
    (Send("n", {"a": 1}), {"node": "n", "input": {"a": 1}}),
    (
        Command(update={"a": {1}}, goto=[Send("n", 1), "m"]),
        {"graph": None, "update": {"a": [1]}, "resume": None, "goto": [{"node": "n", "input": 1}, "m"]},
    ),
    (Overwrite([1]), {"value": [1], "type": "__overwrite__"}),
    (Numbers([1]), [1]),
    (HumanMessage("hi", id="1"), HumanMessage("hi", id="1").model_dump()),
    (AIMessage("", tool_calls=[CALL]), AIMessage("", tool_calls=[CALL]).model_dump()),
]


IDS = [f"{type(value).__name__}-{number}" for number, (value, _) in enumerate(FORMS)]


@pytest.mark.parametrize(("value", "form"), FORMS, ids=IDS)
def test_forms(value: object, form: object) -> None:
    assert from_json(STRICT.encode(value, "x")) == form
    assert from_json(STRICT.encode_small({"a": [value]}, "x")) == {"a": [form]}


@pytest.mark.parametrize(("value", "form"), FORMS, ids=IDS)
def test_forms_are_the_same_beside_what_orjson_refuses(value: object, form: object) -> None:
    assert from_json(STRICT.encode([{1: 2}, value, {"a": value}], "x")) == [{"1": 2}, form, {"a": form}]


def test_a_model_keeps_what_the_subclasses_in_it_add() -> None:
    state = Model(when=NOON, messages=[AIMessage("", tool_calls=[CALL])])
    written = from_json(STRICT.encode(state, "x"))
    assert written == {"when": NOON.isoformat(), "messages": [AIMessage("", tool_calls=[CALL]).model_dump()]}


def test_sets_that_cannot_be_sorted_are_written_in_any_order() -> None:
    assert sorted(map(str, from_json(STRICT.encode({1, "a"}, "x")))) == ["1", "a"]


def test_numpy() -> None:
    np = pytest.importorskip("numpy")
    grid = np.arange(4).reshape(2, 2)
    assert from_json(STRICT.encode({"a": grid, "b": grid.T, "c": np.float32(0.5), "d": [2**70, grid.T]}, "x")) == {
        "a": [[0, 1], [2, 3]],
        "b": [[0, 2], [1, 3]],
        "c": 0.5,
        "d": [2**70, [[0, 2], [1, 3]]],
    }


REFUSED = [
    ({"agent": {"conn": object()}}, r"updates\.agent\.conn: object is not JSON: use plain data"),
    ({"a": [1, {"b c": [lambda: None]}]}, r"updates\.a\[1\]\['b c'\]\[0\]: function is not JSON"),
    ({"a": Place("n", iter(()))}, r"updates\.a\.point: tuple_iterator is not JSON"),
    ({"a": Point(1, complex(1, 2))}, r"updates\.a\.y: complex is not JSON"),
    ({"a": {object}}, r"updates\.a\[0\]: type is not JSON"),
    (
        {"a": HumanMessage("x", additional_kwargs={"f": open})},
        r"updates\.a\.additional_kwargs\.f: .*function.* is not JSON",
    ),
    ({"a": Failing()}, r"updates\.a: .*Failing is not JSON: ZeroDivisionError: in user code"),
    ({"a": {(1, 2): 3}}, r"updates\.a: tuple cannot be a key in JSON"),
    ({"a": {1: 2, "1": 3}}, r"updates\.a: two of its keys are '1' in JSON"),
    ({"a": 10**5000}, r"updates\.a: Exceeds the limit"),
]


@pytest.mark.parametrize(("value", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refused(value: object, message: str) -> None:
    with pytest.raises(EncodingError, match=message):
        STRICT.encode_data("updates", value)


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


def test_depth() -> None:
    # On a stack of its own: how much is left of this one depends on who runs the tests.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(check_depth).result()


def check_depth() -> None:
    for value in (nested(MAX_DEPTH), {1: nested(MAX_DEPTH - 1)}, Slotted(nested(MAX_DEPTH - 1))):
        assert from_json(b'{"d":%b}' % STRICT.encode(value, "x"))
        assert STRICT.encode_small(value, "x") == STRICT.encode(value, "x")
    for value in (nested(MAX_DEPTH + 1), {1: nested(MAX_DEPTH)}, nested(100_000), {1: nested(100_000)}):
        with pytest.raises(EncodingError, match="nested deeper than 190 levels"):
            STRICT.encode(value, "x")
        with pytest.raises(EncodingError, match="nested deeper than 190 levels"):
            STRICT.encode_small(value, "x")


def test_values_that_contain_themselves() -> None:
    ring: list[object] = []
    ring.append({"a": ring})
    with pytest.raises(EncodingError, match=r"^x\[0\]\.a: list contains itself$"):
        STRICT.encode(ring, "x")
    place = Place("n", None)
    place.point = [place]
    with pytest.raises(EncodingError, match=r"^x\.point\[0\]: .*Place contains itself$"):
        STRICT.encode(place, "x")
    twice = [1]
    assert STRICT.encode({1: twice, 2: twice}, "x") == b'{"1":[1],"2":[1]}'


def test_a_stack_that_is_nearly_used_up_is_no_recursion_error() -> None:
    def deep(levels: int) -> None:
        if levels:
            return deep(levels - 1)
        with pytest.raises(EncodingError, match="nested too deeply for the stack"):
            STRICT.encode({1: nested(150)}, "x")
        return None

    deep(700)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON)
def test_json_stays_as_it_is(value: object) -> None:
    assert from_json(STRICT.encode(value, "x")) == value
    assert from_json(STRICT.encode([{1: 2}, value], "x"))[1] == value
    assert orjson.loads(STRICT.encode_small(value, "x")) is not NotImplemented


def test_checkpoints_keep_the_public_part_of_the_config() -> None:
    config = {
        "configurable": {"thread_id": "t", "__pregel_read": 1, "client": object(), "user": {"id": 1}},
        "callbacks": object(),
    }
    payload = {"config": config, "parent_config": None, "values": {"a": 1}}
    public = {"configurable": {"thread_id": "t", "user": {"id": 1}}}
    assert from_json(STRICT.encode_data("checkpoints", payload)) == {**payload, "config": public}
    ids = {"thread_id": "t", "checkpoint_ns": None, "checkpoint_id": None}
    assert from_json(STRICT.encode_data("debug", {"type": "checkpoint", "step": 1, "payload": payload})) == {
        "type": "checkpoint",
        "step": 1,
        "payload": {**payload, "config": public, "checkpoint": ids, "parent_checkpoint": None},
    }
    assert payload["config"] is config, "what the graph emitted is left as it was"
