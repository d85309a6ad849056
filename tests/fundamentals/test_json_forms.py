"""One value must not cost a run: what has no JSON gets a marker, and a form follows the value, not its class."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import json
import os
import pathlib
import threading
import types
import uuid
import zoneinfo
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from langchain_core.runnables import RunnableConfig
from pydantic import AnyUrl, BaseModel, ConfigDict, SecretBytes, SecretStr
from pydantic_core import from_json

from runstream_worker.encoding import JsonEncoder

SHOWN_NOWHERE = "sk-do-not-show"


def encoded(value: object) -> Any:
    return from_json(JsonEncoder().encode(value, "x"))


def marker(module: str, name: str) -> dict[str, object]:
    return {"lc": 1, "type": "not_implemented", "id": [*module.split("."), name]}


class Side(enum.Flag):
    LEFT = 1
    RIGHT = 2


class Held(enum.Enum):
    LOCK = threading.Lock()
    PLACE = ("a", 1)
    WORD = "w"


class Word(enum.StrEnum):
    HI = "hi"


class Words(str):
    __slots__ = ()


class Count(int):
    pass


SCALARS: list[tuple[object, object]] = [
    (np.int64(3), 3),
    (np.uint8(3), 3),
    (np.longlong(3), 3),
    (np.float16(0.5), 0.5),
    (np.float32(0.1), 0.1),
    (np.float64(0.1), 0.1),
    (np.longdouble(1.5), 1.5),
    (np.float64("nan"), None),
    (np.longdouble("inf"), None),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (np.bytes_(b"a"), "YQ=="),
    (np.datetime64("2026-01-02"), "2026-01-02T00:00:00"),
    (np.datetime64("2026", "Y"), "2026-01-01T00:00:00"),
    (np.datetime64("2026-01-02T03:04:05.123456789", "ns"), "2026-01-02T03:04:05.123456789"),
    (np.datetime64("2026-01-02T03:04:05.500", "ms"), "2026-01-02T03:04:05.500000"),
    (np.datetime64(90_000, "Y"), "91970-01-01T00:00:00"),
    (np.datetime64("NaT"), None),
    (np.datetime64("NaT", "ns"), None),
    (np.timedelta64(1500, "ms"), 1.5),
    (np.timedelta64(2, "W"), 1_209_600.0),
    (np.timedelta64("NaT", "s"), None),
    (np.ma.masked, None),
    (float("nan"), None),
    (decimal.Decimal("NaN"), None),
    (decimal.Decimal("sNaN"), None),
    (decimal.Decimal("-Infinity"), None),
    (decimal.Decimal("1E+3"), "1E+3"),
    (fractions.Fraction(1, 3), "1/3"),
    (2**200, 2**200),
    (Count(3), 3),
    (Words("a"), "a"),
    (Side.LEFT | Side.RIGHT, 3),
    (Word.HI, "hi"),
    (Held.WORD, "w"),
    (dt.datetime(2026, 1, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Zurich")), "2026-01-02T00:00:00+01:00"),
    (dt.date(2026, 1, 2), "2026-01-02"),
    (dt.time(1, 2, tzinfo=dt.UTC), "01:02:00+00:00"),
    (dt.timedelta(seconds=-1.5), -1.5),
    (dt.timezone(dt.timedelta(hours=1)), "UTC+01:00"),
    (zoneinfo.ZoneInfo("UTC"), "UTC"),
    (uuid.UUID(int=1), str(uuid.UUID(int=1))),
    (pathlib.PurePosixPath("a/b"), "a/b"),
    (pathlib.PureWindowsPath("a\\b"), "a\\b"),
    (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
    (ipaddress.ip_interface("10.0.0.1/8"), "10.0.0.1/8"),
    (ipaddress.ip_network("::/0"), "::/0"),
    (AnyUrl("https://example.org/a"), "https://example.org/a"),
    (b"a", "YQ=="),
    (bytearray(b"a"), "YQ=="),
    (collections.UserString("a"), "a"),
]
NAMES = [f"{type(value).__name__}-{number}" for number, (value, _) in enumerate(SCALARS)]


def key_of(form: object) -> str:
    return form if isinstance(form, str) else json.dumps(form)


def can_be_a_key(value: object) -> bool:
    try:
        return hash(value) is not None
    except TypeError:
        return False


@pytest.mark.parametrize(("value", "form"), SCALARS, ids=NAMES)
def test_a_scalar_has_the_form_of_its_value_as_a_value_and_as_a_key(value: Any, form: object) -> None:
    assert encoded(value) == form
    assert encoded([value, object()])[0] == form, "also beside what has no form"
    if can_be_a_key(value):
        assert encoded({value: 1}) == {key_of(form): 1}


PARTS: list[tuple[object, object]] = [
    (np.arange(4).reshape(2, 2).T, [[0, 2], [1, 3]]),
    (np.array([1.5, np.nan], dtype=np.longdouble), [1.5, None]),
    (np.array([1.5], dtype=np.float16), [1.5]),
    (np.array([1, 2], dtype=">i4"), [1, 2]),
    (np.array(5), 5),
    (np.zeros((1, 1, 1, 1, 1, 1)), [[[[[[0.0]]]]]]),
    (np.array(["2026", "NaT"], dtype="M8[ns]"), ["2026-01-01T00:00:00", None]),
    (np.array(["2026", "NaT"], dtype="M8[ns]")[::-1], [None, "2026-01-01T00:00:00"]),
    (np.array([1, "NaT"], dtype="m8[h]"), [3600.0, None]),
    (np.ma.masked_array([1, 2], [False, True]), [1, None]),
    (np.array([(1, 2.5)], dtype=[("a", int), ("b", float)]), [{"a": 1, "b": 2.5}]),
    (np.array([(1, 2.5)], dtype=[("a", int), ("b", float)])[0], {"a": 1, "b": 2.5}),
    (np.void(b"ab"), "YWI="),
    (np.array(["a", "b"]), ["a", "b"]),
    (np.array([b"a"]), ["YQ=="]),
    (np.array([dt.date(2026, 1, 2), None], dtype=object), ["2026-01-02", None]),
    (range(3), [0, 1, 2]),
    (range(3, 0, -1), [3, 2, 1]),
    (array.array("d", [1.5]), [1.5]),
    (memoryview(b"abcd")[::2], "YWM="),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.defaultdict(list, a=[1]), {"a": [1]}),
    (collections.ChainMap({"a": 1}, {"b": 2}), {"a": 1, "b": 2}),
    (collections.UserList([1]), [1]),
    (types.MappingProxyType({1: {2: 3}}), {"1": {"2": 3}}),
    ({"a": 1}.keys(), ["a"]),
    ({"a": 1}.items(), [["a", 1]]),
    (Held.PLACE, ["a", 1]),
]


@pytest.mark.parametrize(("value", "form"), PARTS, ids=[f"{type(v).__name__}-{n}" for n, (v, _) in enumerate(PARTS)])
def test_a_container_has_the_form_of_what_it_holds(value: object, form: object) -> None:
    assert encoded(value) == form
    assert encoded([value, object()])[0] == form, "also beside what has no form"


class Raising:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(SHOWN_NOWHERE)

    @property  # type: ignore[misc]  # that is the point
    def __class__(self) -> Any:
        raise RuntimeError(SHOWN_NOWHERE)

    def __iter__(self) -> Iterator[int]:
        raise RuntimeError(SHOWN_NOWHERE)

    def __repr__(self) -> str:
        raise RuntimeError(SHOWN_NOWHERE)


class Refusing(BaseModel):
    token: str = SHOWN_NOWHERE

    def model_dump(self, **_: Any) -> dict[str, Any]:
        raise RuntimeError(self.token)


class Holding(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    lock: Any
    secret: SecretStr
    word: str = "w"


class Meta(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError(SHOWN_NOWHERE)


class Nameless(metaclass=Meta):
    pass


@dataclasses.dataclass
class Place:
    lock: object
    word: str = "w"


CONSUMED = iter([1])


def numbers() -> Iterator[int]:
    yield next(CONSUMED)


WITHOUT_A_FORM: list[tuple[object, tuple[str, str]]] = [
    (threading.Lock(), ("_thread", "lock")),
    (object(), ("builtins", "object")),
    (numbers(), ("builtins", "generator")),
    (complex(1, 2), ("builtins", "complex")),
    (np.complex64(1), ("numpy", "complex64")),
    (np.timedelta64(3, "Y"), ("numpy", "timedelta64")),
    (range(10**30), ("builtins", "range")),
    (10**5000, ("builtins", "int")),
    (Held.LOCK, (__name__, "Held")),
    (SecretStr(SHOWN_NOWHERE), ("pydantic.types", "SecretStr")),
    (SecretBytes(SHOWN_NOWHERE.encode()), ("pydantic.types", "SecretBytes")),
    (AnyUrl(f"https://me:{SHOWN_NOWHERE}@example.org/"), ("pydantic.networks", "AnyUrl")),
    (os.environ, ("os", "_Environ")),
    (numbers, (__name__, "numbers")),
    (Place, (__name__, "Place")),
    (Raising(), (__name__, "Raising")),
    (Refusing(), (__name__, "Refusing")),
    (Nameless(), ("builtins", "object")),
    ({("a", SHOWN_NOWHERE): 1}, ("builtins", "dict")),
    ({SecretStr(SHOWN_NOWHERE): 1}, ("builtins", "dict")),
    ({"configurable": {"key": SHOWN_NOWHERE}, "callbacks": None, "x": object()}, ("builtins", "dict")),
    ({"__pregel_send": print, "key": SHOWN_NOWHERE}, ("builtins", "dict")),
    (RunnableConfig(configurable={"key": SHOWN_NOWHERE}, callbacks=[object()]), ("builtins", "dict")),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("value", "identity"), WITHOUT_A_FORM, ids=[name for _, (_, name) in WITHOUT_A_FORM])
def test_what_has_no_form_has_langchains_marker_in_its_place(value: Any, identity: tuple[str, str]) -> None:
    encoder = JsonEncoder()
    written = encoder.encode({"a": [value], "b": 1}, "values")
    assert from_json(written) == {"a": [marker(*identity)], "b": 1}
    assert encoder.replaced == {"values.a[0]": ".".join(identity)}
    assert SHOWN_NOWHERE.encode() not in written
    assert SHOWN_NOWHERE not in str(encoder.replaced)


def test_what_a_model_or_a_dataclass_holds_does_not_cost_the_rest_of_it() -> None:
    lock = marker("_thread", "lock")
    held = Holding(lock=threading.Lock(), secret=SecretStr(SHOWN_NOWHERE))
    assert encoded(held) == {"lock": lock, "secret": marker("pydantic.types", "SecretStr"), "word": "w"}
    assert encoded(Place(threading.Lock())) == {"lock": lock, "word": "w"}


def test_a_value_that_contains_itself_or_is_too_deep_is_cut_there() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    assert encoded(ring) == [1, marker("builtins", "list")]
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    assert b"not_implemented" in JsonEncoder().encode(deep, "x")


def test_of_two_keys_that_are_the_same_in_json_the_later_one_stands() -> None:
    encoder = JsonEncoder()
    assert from_json(encoder.encode({"a": {1: "first", "1": "second"}}, "values")) == {"a": {"1": "second"}}
    assert encoder.replaced == {"values.a": "two keys that are '1' in JSON"}


def test_places_are_counted_to_a_limit() -> None:
    encoder = JsonEncoder()
    encoder.encode([{"k" * 1000: object()} for _ in range(100)], "values")
    assert len(encoder.replaced) == 20
    assert encoder.has_replaced_more
    assert max(map(len, encoder.replaced)) == 200


def test_an_iterator_is_not_consumed() -> None:
    given = iter([1, 2])
    assert encoded({"a": given}) == {"a": marker("builtins", "list_iterator")}
    assert list(given) == [1, 2]


def test_classes_of_attrs_and_of_pydantics_version_1_are_objects_of_their_fields() -> None:
    attrs, v1 = import_module("attrs"), import_module("pydantic.v1")
    point = attrs.make_class("Point", ["x", "lock", "_hidden"])(1, threading.Lock(), 2)
    assert encoded(point) == {"x": 1, "lock": marker("_thread", "lock")}
    model = v1.create_model("Model", x=1, key=(v1.SecretStr, v1.SecretStr(SHOWN_NOWHERE)))()
    assert encoded(model) == {"x": 1, "key": marker("pydantic.v1.types", "SecretStr")}
