"""The JSON forms of classes that `orjson` has none for, one level at a time. The table is in `encoding`.

A form follows the value, not the class that happens to carry it: what stands for "nothing" (NaN, NaT, NA, an infinite
number) is null in every library's spelling, and a scalar of numpy or pandas is what the same value of Python is.
"""

from __future__ import annotations

import array
import base64
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import os
import pathlib
import re
import sys
import uuid
import zoneinfo
from collections import UserList, UserString, deque
from collections.abc import Callable, ItemsView, KeysView, Mapping, ValuesView
from functools import singledispatch
from typing import Any, Final

import orjson
from langchain_core.messages import BaseMessage
from langgraph.types import Send
from pydantic import AnyUrl, BaseModel

_LONGEST_RANGE: Final = 1_000_000
_MOST_DIMENSIONS: Final = 4
"""Arrays with more are written level by level, so that their depth is counted."""
_COARSE_UNITS: Final = frozenset(("Y", "M", "W", "D", "h", "m"))
_UNITS_WITHOUT_SECONDS: Final = frozenset(("Y", "M", "generic"))


class NoForm(TypeError):
    """A value has no JSON form; the message says why, without the value."""


def plain(value: object) -> object:
    """Return the form of a value that orjson has none for: one level of it, the parts are asked for in turn.

    Raises:
        NoForm: there is none.
        Exception: whatever the value's own code raises.
    """
    # By the type itself: an object may pretend to be of another class.
    return _by_class.dispatch(type(value))(value)


@singledispatch
def _by_class(value: Any) -> object:
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        return _of_numpy(numpy, value)
    pandas = sys.modules.get("pandas")
    if pandas is not None:
        if value is getattr(pandas, "NA", None):
            return None
        if isinstance(value, getattr(pandas, "Period", ())):
            return str(value)
    if (fields := getattr(type(value), "__attrs_attrs__", None)) is not None:
        names = (field.name for field in fields)
        return {name: getattr(value, name) for name in names if not name.startswith("_")}
    v1: Any = getattr(sys.modules.get("pydantic.v1"), "BaseModel", ())
    if isinstance(value, v1):
        return dict(value)
    raise NoForm(
        "use plain data, a message, a dataclass or a Pydantic model, or keep it out of the stream: objects such as "
        "clients and connections belong in the graph's context, not in its state"
    )


# --- LangChain, LangGraph, Pydantic -----------------------------------------------------------------------------------


@_by_class.register
def _message(value: BaseMessage) -> object:
    return value.model_dump()


@_by_class.register
def _model(value: BaseModel) -> object:
    # By declared type, a list[BaseMessage] would lose everything that a subclass adds, such as tool_calls.
    return value.model_dump(serialize_as_any=True)


@_by_class.register
def _url(value: AnyUrl) -> object:
    if value.password is not None:
        raise NoForm("it holds a password")
    return str(value)


@_by_class.register
def _send(value: Send) -> object:
    return {"node": value.node, "input": value.arg}


# --- Python -----------------------------------------------------------------------------------------------------------


@_by_class.register
def _exception(value: BaseException) -> object:
    return {"error": type(value).__name__, "message": str(value)}


@_by_class.register
def _tuple(value: tuple) -> object:  # type: ignore[type-arg]  # singledispatch takes the bare class only
    as_dict: Callable[[], dict[str, object]] | None = getattr(value, "_asdict", None)
    return list(value) if as_dict is None else as_dict()


@_by_class.register(set)
@_by_class.register(frozenset)
def _set(value: set[Any] | frozenset[Any]) -> object:
    try:
        return sorted(value)
    except Exception:  # noqa: BLE001 - user code: what compares the items may raise anything
        return list(value)


@_by_class.register
def _range(value: range) -> object:
    # Not len(), which stops at what fits into a machine word.
    if (value.stop - value.start) // value.step > _LONGEST_RANGE:
        raise NoForm(f"a range of more than {_LONGEST_RANGE:,} numbers")
    return list(value)


@_by_class.register
def _array(value: array.array) -> object:  # type: ignore[type-arg]  # singledispatch takes the bare class only
    return value.tolist()


@_by_class.register
def _float(value: float) -> object:
    return float.__float__(value)  # orjson takes no subclasses of it


@_by_class.register
def _decimal(value: decimal.Decimal) -> object:
    return str(value) if value.is_finite() else None


@_by_class.register
def _timedelta(value: dt.timedelta) -> object:
    return value.total_seconds()


@_by_class.register(dt.date)
@_by_class.register(dt.time)
def _isoformat(value: dt.date | dt.time) -> object:
    # pandas' NaT is a datetime, and like NaN is not equal to itself.
    return value.isoformat() if value == value else None  # noqa: PLR0124


@_by_class.register
def _enum(value: enum.Enum) -> object:
    return value.value


@_by_class.register
def _pattern(value: re.Pattern) -> object:  # type: ignore[type-arg]  # singledispatch takes the bare class only
    return value.pattern


@_by_class.register(bytes)
@_by_class.register(bytearray)
@_by_class.register(memoryview)
def _bytes(value: bytes | bytearray | memoryview) -> object:
    return base64.b64encode(bytes(value)).decode("ascii")


@_by_class.register
def _environment(_: os._Environ) -> object:  # type: ignore[type-arg]  # singledispatch takes the bare class only
    raise NoForm("it holds secrets")


@_by_class.register
def _text(value: UserString) -> object:
    return value.data


@_by_class.register
def _list(value: UserList) -> object:  # type: ignore[type-arg]  # singledispatch takes the bare class only
    return list(value.data)


_by_class.register(Mapping, dict)
for _written_as_array in (deque, KeysView, ValuesView, ItemsView):
    _by_class.register(_written_as_array, list)
for _written_as_text in (
    fractions.Fraction,
    uuid.UUID,
    pathlib.PurePath,
    dt.timezone,
    zoneinfo.ZoneInfo,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
):
    _by_class.register(_written_as_text, str)


# --- numpy ------------------------------------------------------------------------------------------------------------


def _of_numpy(numpy: Any, value: Any) -> object:
    kind = value.dtype.kind
    if isinstance(value, numpy.ma.MaskedArray):
        return list(value) if value.ndim else value.tolist()
    if kind in "mM":
        return _times(numpy, value)
    if kind == "V":
        return _structured(value)
    if type(value) is numpy.ndarray or isinstance(value, numpy.generic):
        if kind in "biuf" and value.dtype.itemsize <= 8 and value.ndim <= _MOST_DIMENSIONS:
            return _numbers(numpy, value)
        if kind == "f" and isinstance(value, numpy.generic):
            return float(value)  # a longdouble, of which tolist() and item() make a longdouble
    if kind == "c" and isinstance(value, numpy.generic):
        raise NoForm("JSON has no complex numbers")
    return value.tolist()


def _numbers(numpy: Any, value: Any) -> object:
    """Numbers of the sizes that orjson knows, in the digits of their own precision."""
    native = numpy.ascontiguousarray(value, value.dtype.newbyteorder("=")).reshape(value.shape)
    if native.ndim:
        return orjson.Fragment(orjson.dumps(native, option=orjson.OPT_SERIALIZE_NUMPY))
    return orjson.Fragment(orjson.dumps(native.reshape(1), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])


def _times(numpy: Any, value: Any) -> object:
    """Points in time as ISO 8601, spans as seconds; NaT as null."""
    if isinstance(value, numpy.ndarray) and value.ndim:
        return [_times(numpy, item) for item in value]
    if numpy.isnat(value):
        return None
    unit, _ = numpy.datetime_data(value.dtype)
    if value.dtype.kind == "M":
        text = str(numpy.datetime_as_string(value, unit="s" if unit in _COARSE_UNITS else unit))
        head, _, fraction = text.partition(".")
        fraction = fraction.rstrip("0")
        return f"{head}.{fraction:0<6}" if fraction else head
    if unit in _UNITS_WITHOUT_SECONDS:
        raise NoForm("a span of months, years or no unit has no length in seconds")
    return float(value / numpy.timedelta64(1, "s"))


def _structured(value: Any) -> object:
    """Records as objects of their fields; raw bytes as bytes."""
    if value.ndim:
        return [_structured(item) for item in value]
    names = value.dtype.names
    return value.tobytes() if names is None else {name: value[name] for name in names}
