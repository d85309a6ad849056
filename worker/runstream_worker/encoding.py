"""Turns what a graph emits into JSON, in the shapes of LangGraph's own API.

`orjson` does the work; what it has no form for is given one here, and what nothing has a form for is refused with the
path to it. Nothing is ever turned into its `repr`: a reader could not tell such text from data.

| Python                                           | JSON                                                              |
|--------------------------------------------------|-------------------------------------------------------------------|
| dict with keys that are not str                  | keys as orjson's `OPT_NON_STR_KEYS` writes them (`1` -> `"1"`)    |
| int of any size                                  | number (JavaScript rounds beyond 2^53)                            |
| NaN, Infinity                                    | null                                                              |
| str with lone surrogates                         | each of them becomes U+FFFD                                       |
| LangChain message                                | `message.model_dump()`                                            |
| Pydantic model                                   | `model.model_dump()`, fields by the class of what they hold       |
| dataclass                                        | object of its fields, without those whose name begins with `_`    |
| NamedTuple                                       | object of its fields                                              |
| other Mapping                                    | object                                                            |
| tuple, deque, set, frozenset                     | array; sets sorted where their items can be                       |
| Enum                                             | its value                                                         |
| datetime, date, time                             | ISO 8601                                                          |
| timedelta                                        | number of seconds                                                 |
| Decimal                                          | string: a number would lose digits                                |
| bytes, bytearray, memoryview                     | base64                                                            |
| UUID, path, IP address or network, ZoneInfo      | string                                                            |
| re.Pattern                                       | string, the pattern                                               |
| exception                                        | `{"error": class name, "message": str(exception)}`                |
| numpy array or scalar                            | array or number                                                   |
| langgraph `Interrupt`                            | `{"value", "id", "response_schema"}`                              |
| langgraph `Send`                                 | `{"node", "input"}`                                               |
| langgraph `Command`                              | `{"graph", "update", "resume", "goto"}`                           |
| langgraph `Overwrite`                            | `{"value", "type": "__overwrite__"}`                              |

Refused: every other class, dict keys that orjson refuses or that would be the same key in JSON, values that contain
themselves, and values nested deeper than `MAX_DEPTH`.

Not so in records of mode `events`: they tell what passes between the parts of a graph, which may be anything. There
`{"type": "not_implemented", "id": ["module", "path", "Class"]}` stands in the place of what is refused, as LangChain
has it, but without a `repr`; and in that of configs and runtimes, which hold what nobody should see.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import pathlib
import re
import sys
import uuid
import zoneinfo
from collections import deque
from collections.abc import Callable, Mapping
from functools import singledispatch
from typing import Any, Final

import orjson
from langchain_core.messages import BaseMessage
from langgraph.prebuilt import ToolRuntime
from langgraph.runtime import Runtime
from langgraph.types import Send
from pydantic import BaseModel

from runstream.errors import EncodingError

MAX_DEPTH: Final = 190
"""How deep data may be nested. The readers' parser (pydantic_core's) stops at 201 levels, and the event adds some."""

_ORJSON_DEPTH: Final = 254
_HEADROOM: Final = _ORJSON_DEPTH - MAX_DEPTH
_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY
_PRIVATE: Final = "__pregel_"


def encode_data(mode: str, data: object) -> bytes:
    """Encode the data of one chunk.

    Args:
        mode: the chunk's stream mode. `checkpoints` and `debug` carry the run's config, of whose `configurable` only
            what JSON can carry and what is not LangGraph's own (`__pregel_*`) is kept. In `events` nothing is refused.
        data: what LangGraph emitted in this mode.

    Raises:
        EncodingError: something in it has no JSON form; the message names its place (`updates.agent.conn`) and class.
    """
    if mode == "events":
        return _encode_leniently(data)
    if mode == "checkpoints":
        data = _with_public_configs(data)
    elif mode == "debug" and isinstance(data, dict) and data.get("type") == "checkpoint":
        data = {**data, "payload": _with_checkpoint_ids(_with_public_configs(data["payload"]))}
    return encode(data, mode)


def encode(value: object, path: str) -> bytes:
    """Encode any value.

    Args:
        value: what to encode.
        path: what to call the value in error messages.

    Raises:
        EncodingError: something in it has no JSON form.
    """
    try:
        return _dump_within_depth(value)
    except orjson.JSONEncodeError:
        # Rare, so it may be slow: walk the value, mend what orjson is too strict for, and name what cannot be mended.
        return _dump_within_depth(_rebuild(value, path))


def _encode_leniently(value: object) -> bytes:
    try:
        return _dump_within_depth(value)
    except orjson.JSONEncodeError:
        return _dump_within_depth(_Lenient("events").rebuild(value))


def encode_small(value: object, path: str) -> bytes:
    """Do what `encode` does, faster for values of a few hundred bytes and slower for bigger ones."""
    try:
        encoded = orjson.dumps(value, default=plain, option=_OPTIONS)
    except orjson.JSONEncodeError:
        return encode(value, path)
    # A level takes two brackets, so a short text cannot be too deep.
    return encoded if len(encoded) <= 2 * MAX_DEPTH else encode(value, path)


def _dump_within_depth(value: object) -> bytes:
    """Let orjson count the depth: wrapped in lists, the value has only `MAX_DEPTH` of orjson's levels left."""
    for _ in range(_HEADROOM):
        value = [value]
    return orjson.dumps(value, default=plain, option=_OPTIONS)[_HEADROOM:-_HEADROOM]


# --- one class at a time ----------------------------------------------------------------------------------------------


@singledispatch
def plain(value: object) -> object:
    """Give the form of a value that orjson has none for: one level of it, the rest is asked for in turn.

    Raises:
        TypeError: there is none.
    """
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        return value.tolist()  # the arrays that orjson leaves: not contiguous, or of a dtype that it does not know
    raise TypeError(
        "use plain data, a message, a dataclass or a Pydantic model, or keep it out of the stream: objects such as "
        "clients and connections belong in the graph's context, not in its state"
    )


@plain.register
def _message(value: BaseMessage) -> object:
    return value.model_dump()


@plain.register
def _model(value: BaseModel) -> object:
    # By declared type, a list[BaseMessage] would lose everything that a subclass adds, such as tool_calls.
    return value.model_dump(serialize_as_any=True)


@plain.register
def _send(value: Send) -> object:
    return {"node": value.node, "input": value.arg}


@plain.register
def _exception(value: BaseException) -> object:
    return {"error": type(value).__name__, "message": str(value)}


@plain.register
def _tuple(value: tuple) -> object:  # type: ignore[type-arg]  # singledispatch takes the bare class only
    as_dict: Callable[[], dict[str, object]] | None = getattr(value, "_asdict", None)
    return list(value) if as_dict is None else as_dict()


@plain.register(set)
@plain.register(frozenset)
def _set(value: set[Any] | frozenset[Any]) -> object:
    try:
        return sorted(value)
    except TypeError:
        return list(value)


@plain.register
def _float(value: float) -> object:
    return float(value)  # orjson takes no subclasses of it


@plain.register
def _timedelta(value: dt.timedelta) -> object:
    return value.total_seconds()


@plain.register(dt.date)
@plain.register(dt.time)
def _isoformat(value: dt.date | dt.time) -> object:
    return value.isoformat()


@plain.register
def _enum(value: enum.Enum) -> object:
    return value.value


@plain.register
def _pattern(value: re.Pattern) -> object:  # type: ignore[type-arg]  # singledispatch takes the bare class only
    return value.pattern


@plain.register(bytes)
@plain.register(bytearray)
@plain.register(memoryview)
def _bytes(value: bytes | bytearray | memoryview) -> object:
    return base64.b64encode(value).decode("ascii")


plain.register(deque, list)
plain.register(Mapping, dict)
for _written_as_text in (
    decimal.Decimal,
    uuid.UUID,
    pathlib.PurePath,
    zoneinfo.ZoneInfo,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
):
    plain.register(_written_as_text, str)


# --- what orjson refused ----------------------------------------------------------------------------------------------


def _rebuild(value: object, path: str) -> object:
    try:
        return _Rebuilding(path).rebuild(value)
    except RecursionError as error:
        raise EncodingError(f"{path}: nested too deeply for the stack that is left") from error


class _Rebuilding:
    """Rebuilds a value from parts that orjson takes, and knows where in the value it is."""

    def __init__(self, root: str) -> None:
        self._path = [root]
        self._open: set[int] = set()

    def rebuild(self, value: object) -> object:
        if isinstance(value, dict):
            return self._inside(value, self._object)
        if isinstance(value, list) or type(value) is tuple:
            return self._inside(value, self._array)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._inside(value, self._dataclass)
        return self._leaf(value)

    def _inside(self, value: object, build: Callable[[Any], object]) -> object:
        if id(value) in self._open:
            raise EncodingError(f"{self._where()}: {_name(value)} contains itself")
        if len(self._path) > MAX_DEPTH:
            raise EncodingError(f"{self._where()}: nested deeper than {MAX_DEPTH} levels")
        self._open.add(id(value))
        try:
            return build(value)
        finally:
            self._open.remove(id(value))

    def _object(self, value: dict[object, object]) -> object:
        built: dict[str, object] = {}
        for key, item in value.items():
            name = self._key(key)
            if name in built:
                raise EncodingError(f"{self._where()}: two of its keys are {name!r} in JSON")
            built[name] = self._child(f".{name}" if name.isidentifier() else f"[{name!r}]", item)
        return built

    def _array(self, value: list[object] | tuple[object, ...]) -> object:
        return [self._child(f"[{index}]", item) for index, item in enumerate(value)]

    def _dataclass(self, value: Any) -> object:
        names = (field.name for field in dataclasses.fields(value))
        return {name: self._child(f".{name}", getattr(value, name)) for name in names if not name.startswith("_")}

    def _child(self, step: str, value: object) -> object:
        self._path.append(step)
        try:
            return self.rebuild(value)
        finally:
            self._path.pop()

    def _key(self, key: object) -> str:
        if isinstance(key, str):
            return _well_formed(key.value if isinstance(key, enum.Enum) else key)
        try:
            name: str = next(iter(orjson.loads(orjson.dumps({key: None}, option=orjson.OPT_NON_STR_KEYS))))
        except orjson.JSONEncodeError as error:
            raise EncodingError(f"{self._where()}: {_name(key)} cannot be a key in JSON ({error})") from error
        return name

    def _leaf(self, value: object) -> object:
        if isinstance(value, str):
            return _well_formed(value)
        if isinstance(value, int):
            return self._number(value)
        try:
            return orjson.Fragment(orjson.dumps(value, option=_OPTIONS))
        except orjson.JSONEncodeError:
            return self._inside(value, lambda value: self.rebuild(self._plain(value)))

    def _number(self, value: int) -> object:
        if isinstance(value, bool):
            return value
        try:
            return orjson.Fragment(int.__repr__(value))
        except ValueError as error:  # CPython's limit on the digits of an int that becomes text
            raise EncodingError(f"{self._where()}: {error}") from error

    def _plain(self, value: object) -> object:
        try:
            return plain(value)
        except Exception as error:
            reason = str(error) if type(error) is TypeError else f"{type(error).__name__}: {error}"
            raise EncodingError(f"{self._where()}: {_name(value)} is not JSON: {reason}") from error

    def _where(self) -> str:
        return "".join(self._path)


class _Lenient(_Rebuilding):
    """Puts something in the place of what JSON cannot carry."""

    def rebuild(self, value: object) -> object:
        if isinstance(value, Runtime | ToolRuntime) or _is_config(value):
            return _not_implemented(value)
        try:
            return super().rebuild(value)
        except Exception:  # noqa: BLE001 - user code: anything may happen when a value is asked for its parts
            return _not_implemented(value)


def _is_config(value: object) -> bool:
    """Whether it is LangChain's config of a run; as long as it has callbacks, JSON cannot carry it."""
    return isinstance(value, dict) and "configurable" in value and "callbacks" in value


def _not_implemented(value: object) -> dict[str, object]:
    cls = type(value)
    return {"type": "not_implemented", "id": [*cls.__module__.split("."), cls.__qualname__]}


def _well_formed(text: str) -> str:
    """Join surrogates that are a pair, replace those that are not: a broken character is no reason to end a run."""
    if text.isascii():
        return str.__str__(text)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _name(value: object) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


# --- checkpoints ------------------------------------------------------------------------------------------------------


def _with_public_configs(payload: object) -> object:
    if not isinstance(payload, dict):
        return payload
    configs = {key: _public(payload[key]) for key in ("config", "parent_config") if payload.get(key) is not None}
    return {**payload, **configs}


def _public(config: Mapping[str, Any]) -> dict[str, object]:
    configurable = config.get("configurable") or {}
    return {"configurable": {k: v for k, v in configurable.items() if not k.startswith(_PRIVATE) and _is_json(v)}}


def _is_json(value: object) -> bool:
    try:
        encode(value, "configurable")
    except EncodingError:
        return False
    return True


def _with_checkpoint_ids(payload: object) -> object:
    """Add what LangGraph's API adds to the checkpoints of `debug`: where they are, without the rest of the config."""
    if not isinstance(payload, dict):
        return payload
    ids = {"checkpoint": _checkpoint_ids(payload.get("config"))}
    return {**payload, **ids, "parent_checkpoint": _checkpoint_ids(payload.get("parent_config"))}


def _checkpoint_ids(config: Mapping[str, Any] | None) -> dict[str, object] | None:
    if config is None:
        return None
    configurable = config["configurable"]
    return {key: configurable.get(key) for key in ("thread_id", "checkpoint_ns", "checkpoint_id")}
