"""Turns what a graph emits into JSON, in the shapes of LangGraph's own API.

`orjson` does the work; what it has no form for is given one in `forms`.

| Python                                           | JSON                                                              |
|--------------------------------------------------|-------------------------------------------------------------------|
| dict with keys that are not str                  | keys as the text of what the key is as a value (`1` -> `"1"`)     |
| int of any size                                  | number (JavaScript rounds beyond 2^53)                            |
| NaN, Infinity, also of Decimal; NaT; pandas' NA  | null                                                              |
| str with surrogates                              | pairs are joined, lone ones become U+FFFD                         |
| LangChain message                                | `message.model_dump()`                                            |
| Pydantic model                                   | `model.model_dump()`, fields by the class of what they hold       |
| dataclass, attrs class                           | object of its fields, without those whose name begins with `_`    |
| NamedTuple                                       | object of its fields                                              |
| other Mapping                                    | object                                                            |
| tuple, deque, set, frozenset, range, dict view   | array; sets sorted where their items can be                       |
| Enum                                             | its value                                                         |
| datetime, date, time, `np.datetime64`            | ISO 8601                                                          |
| timedelta, `np.timedelta64`                      | number of seconds                                                 |
| Decimal, Fraction                                | string: a number would lose digits                                |
| bytes, bytearray, memoryview                     | base64                                                            |
| UUID, path, IP address or network, time zone     | string                                                            |
| Pydantic URL without a password, pandas Period   | string                                                            |
| re.Pattern                                       | string, the pattern                                               |
| exception                                        | `{"error": class name, "message": str(exception)}`                |
| numpy array or scalar                            | array or number; structured: object of its fields                 |
| langgraph `Interrupt`                            | `{"value", "id", "response_schema"}`                              |
| langgraph `Send`                                 | `{"node", "input"}`                                               |
| langgraph `Command`                              | `{"graph", "update", "resume", "goto"}`                           |
| langgraph `Overwrite`                            | `{"value", "type": "__overwrite__"}`                              |

Every other value has no form: objects of other classes (locks, clients, iterators, secrets, pandas' tables), complex
numbers, objects with a key that is no scalar in JSON (a tuple), values that contain themselves or are nested deeper
than `MAX_DEPTH`, and those whose own code raises when it is asked for their parts. LangChain's marker stands in their
place, `{"lc": 1, "type": "not_implemented", "id": ["module", "path", "Class"]}`. It has no `repr`, which would show
secrets, and which a reader could not tell from data. The marker also stands in the place of LangChain's configs and
LangGraph's runtimes, which may hold secrets. Where two keys of an object are the same in JSON, the later one stands, as
JSON parsers have it.

A strict encoder raises `EncodingError` instead, with the path to the value.
"""

from __future__ import annotations

import dataclasses
import enum
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import orjson
from langgraph.prebuilt import ToolRuntime
from langgraph.runtime import Runtime

from runstream.characters import well_formed
from runstream.errors import EncodingError
from runstream_worker.forms import NoForm, plain

MAX_DEPTH: Final = 190
"""How deep data may be nested. The readers' parser (pydantic_core's) stops at 201 levels, and the event adds some."""

_ORJSON_DEPTH: Final = 254
_HEADROOM: Final = _ORJSON_DEPTH - MAX_DEPTH
_PRIVATE: Final = "__pregel_"
_MOST_PLACES: Final = 20
_LONGEST_PLACE: Final = 200
_NOT_A_NAME: Final = ("builtins", "object")
_NAMED_THEMSELVES: Final = (types.FunctionType, types.BuiltinFunctionType)


class JsonEncoder:
    """Encodes the values of one run.

    Args:
        strict: whether a value without a JSON form is refused; otherwise a marker stands in its place. In the records
            of mode `events` nothing is ever refused: they show what passes between the parts of a graph.

    Attributes:
        strict: as above.
        replaced: where markers stand, and the class of what they stand for; the first 20 places. Those in records of
            mode `events` are not counted.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.replaced: dict[str, str] = {}

    @property
    def has_replaced_more(self) -> bool:
        """Whether there may be more such places than `replaced` has."""
        return len(self.replaced) >= _MOST_PLACES

    def encode_data(self, mode: str, data: object) -> bytes:
        """Encode the data of one chunk.

        Args:
            mode: the chunk's stream mode. `checkpoints` and `debug` carry the run's config, of whose `configurable`
                only what JSON can carry and what is not LangGraph's own (`__pregel_*`) is kept.
            data: what LangGraph emitted in this mode.

        Raises:
            EncodingError: the encoder is strict, and something has no JSON form; the message names its place
                (`updates.agent.conn`) and class.
        """
        if mode == "events":
            return _encoded(data, lambda: _Rebuilding("events", {}))
        if mode == "checkpoints":
            data = _with_public_configs(data)
        elif mode == "debug" and isinstance(data, dict) and data.get("type") == "checkpoint":
            data = {**data, "payload": _with_checkpoint_ids(_with_public_configs(data["payload"]))}
        return self.encode(data, mode)

    def encode(self, value: object, path: str) -> bytes:
        """Encode any value.

        Args:
            value: what to encode.
            path: what to call the value in messages.

        Raises:
            EncodingError: the encoder is strict, and something has no JSON form.
        """
        return _encoded(value, lambda: _Rebuilding(path, None if self.strict else self.replaced))

    def encode_small(self, value: object, path: str) -> bytes:
        """Do what `encode` does, faster for values of a few hundred bytes and slower for bigger ones."""
        try:
            encoded = orjson.dumps(value, default=plain)
        except orjson.JSONEncodeError:
            return self.encode(value, path)
        # A level takes two brackets, so a short text cannot be too deep.
        return encoded if len(encoded) <= 2 * MAX_DEPTH else self.encode(value, path)


def _encoded(value: object, rebuilding: Callable[[], _Rebuilding]) -> bytes:
    try:
        return _dump_within_depth(value)
    except orjson.JSONEncodeError:
        # Rare, so it may be slow: walk the value, mend what orjson is too strict for, and name what cannot be mended.
        return _dump_within_depth(rebuilding().whole(value))


def _dump_within_depth(value: object) -> bytes:
    """Let orjson count the depth: wrapped in lists, the value has only `MAX_DEPTH` of orjson's levels left."""
    for _ in range(_HEADROOM):
        value = [value]
    return orjson.dumps(value, default=plain)[_HEADROOM:-_HEADROOM]


class _Rebuilding:
    """Rebuilds a value from parts that orjson takes, and knows where in the value it is.

    Args:
        root: what to call the value.
        replaced: where to note what a marker stands for; None to refuse it.
    """

    def __init__(self, root: str, replaced: dict[str, str] | None) -> None:
        self._path = [root]
        self._open: set[int] = set()
        self._replaced = replaced

    def whole(self, value: object) -> object:
        """Rebuild the whole value.

        Raises:
            EncodingError: something in it has no form, and nothing may stand in its place.
        """
        try:
            return self._rebuilt(value)
        except Exception as error:
            # User code: anything may happen when a value is asked for its parts.
            if self._replaced is not None:
                return self._marker(value)
            if isinstance(error, RecursionError):
                raise EncodingError(f"{self._path[0]}: nested too deeply for the stack that is left") from error
            raise

    def _rebuilt(self, value: object) -> object:
        if self._replaced is not None and (isinstance(value, Runtime | ToolRuntime) or _is_config(value)):
            return self._marker(value)
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
                self._note_collision(name)
            built[name] = self._child(f".{name}" if name.isidentifier() else f"[{name!r}]", item)
        return built

    def _note_collision(self, name: str) -> None:
        if self._replaced is None:
            raise EncodingError(f"{self._where()}: two of its keys are {name!r} in JSON")
        self._note(f"two keys that are {name[:_LONGEST_PLACE]!r} in JSON")

    def _array(self, value: list[object] | tuple[object, ...]) -> object:
        built = []
        for index, item in enumerate(value):  # no comprehension: that would be one more frame on the stack
            built.append(self._child(f"[{index}]", item))
        return built

    def _dataclass(self, value: Any) -> object:
        built: dict[str, object] = {}
        for field in dataclasses.fields(value):
            if not field.name.startswith("_"):
                built[field.name] = self._child(f".{field.name}", getattr(value, field.name))
        return built

    def _child(self, step: str, value: object) -> object:
        self._path.append(step)
        try:
            return self._rebuilt(value)
        except Exception:
            if self._replaced is None:
                raise
            return self._marker(value)
        finally:
            self._path.pop()

    def _key(self, key: object) -> str:
        """The text of what the key is as a value, if that is a scalar."""
        if isinstance(key, str):
            return well_formed(key.value if isinstance(key, enum.Enum) else key)
        try:
            encoded = orjson.dumps(_Rebuilding("key", None).whole(key))
        except EncodingError as error:
            raise EncodingError(f"{self._where()}: {_name(key)} cannot be a key in JSON") from error
        if encoded.startswith((b"{", b"[")):
            raise EncodingError(f"{self._where()}: {_name(key)} cannot be a key in JSON")
        return str(orjson.loads(encoded)) if encoded.startswith(b'"') else encoded.decode()

    def _leaf(self, value: object) -> object:
        if isinstance(value, str):
            return well_formed(value)
        if isinstance(value, int):
            return self._number(value)
        try:
            return orjson.Fragment(orjson.dumps(value))
        except orjson.JSONEncodeError:
            return self._inside(value, lambda value: self._rebuilt(self._plain(value)))

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
            reason = str(error) if isinstance(error, NoForm) else f"{type(error).__name__}: {error}"
            raise EncodingError(f"{self._where()}: {_name(value)} is not JSON: {reason}") from error

    def _marker(self, value: object) -> object:
        """What stands in the place of a value; ready-made, so that orjson does not count its levels."""
        module, name = _identity(value)
        self._note(f"{module}.{name}")
        return orjson.Fragment(orjson.dumps({"lc": 1, "type": "not_implemented", "id": [*module.split("."), name]}))

    def _note(self, what: str) -> None:
        if self._replaced is not None and len(self._replaced) < _MOST_PLACES:
            self._replaced.setdefault(self._where()[:_LONGEST_PLACE], what)

    def _where(self) -> str:
        return "".join(self._path)


def _is_config(value: object) -> bool:
    """Whether it is LangChain's config of a run, or LangGraph's part of it, which hold what nobody should see.

    A config of plain data alone does not come here: JSON can carry it.
    """
    if not isinstance(value, dict):
        return False
    if "configurable" in value and "callbacks" in value:
        return True
    return any(isinstance(key, str) and key.startswith(_PRIVATE) for key in value)


def _identity(value: object) -> tuple[str, str]:
    """The module and the name of a class or function, or of a value's class; as LangChain's marker has them."""
    with suppress(Exception):  # user code: a metaclass may do anything
        own: Any = value if issubclass(type(value), (type, *_NAMED_THEMSELVES)) else type(value)
        return well_formed(str(own.__module__)), well_formed(str(own.__name__))
    return _NOT_A_NAME


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
        JsonEncoder(strict=True).encode(value, "configurable")
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
