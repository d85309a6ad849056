"""Puts what a producer passes in the JSON in which it travels, and refuses what would arrive as something else.

What arrives is what a graph gets, so nothing is converted that the graph could not tell from the original: a datetime
is refused, since it would arrive as text. Pydantic models say themselves what their JSON is.

This package does not import LangChain or LangGraph. It does not need to: whoever passes one of their objects has
loaded the module that the object's class is in.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import BaseModel, JsonValue

from runstream.errors import InvalidRequest

MAX_DEPTH: Final = 100
"""How deep a value may be nested; JSON parsers have a limit, and the request adds some levels."""

_MAX_INT_BITS: Final = 13_000  # the readers' parser takes 4,300 digits

_USE_INSTEAD: Final = {
    "datetime": "value.isoformat()",
    "date": "value.isoformat()",
    "time": "value.isoformat()",
    "timedelta": "value.total_seconds()",
    "UUID": "str(value)",
    "Decimal": "str(value), or float(value) if rounding does no harm",
    "PosixPath": "str(value)",
    "WindowsPath": "str(value)",
    "bytes": "base64.b64encode(value).decode()",
    "bytearray": "base64.b64encode(value).decode()",
    "set": "a list, such as sorted(value)",
    "frozenset": "a list, such as sorted(value)",
    "deque": "list(value)",
    "generator": "list(value)",
    "mappingproxy": "dict(value)",
    "ndarray": "value.tolist()",
}

# What model_dump() gives of a message and LangChain's convert_to_messages takes back as what it was. It would put the
# other fields into additional_kwargs, from where they would be sent to the model.
_MESSAGE_FIELDS: Final = frozenset(
    ("type", "content", "name", "id", "additional_kwargs", "response_metadata", "tool_calls", "tool_call_id")
)
_TOOL_FIELDS: Final = frozenset(("artifact", "status"))
# What a model once told about its answer, and does not need to hear.
_DROPPED_FIELDS: Final = frozenset(("usage_metadata", "invalid_tool_calls", "tool_call_chunks", "chunk_position"))
_MESSAGE_TYPES: Final = frozenset(("human", "ai", "system", "tool", "function", "remove"))


def to_jsonable(value: object, field: str) -> JsonValue:
    """Put a value in JSON.

    JSON values stay as they are, tuples become lists, enums of str or int their value, dataclasses and Pydantic models
    objects, and LangChain messages the dicts of which LangChain makes equal messages again, but for an AI message's
    `usage_metadata` and `invalid_tool_calls`, for which those dicts have no place. Chunks of messages become messages.

    Args:
        value: what the producer passed.
        field: what to call it in error messages.

    Raises:
        InvalidRequest: something in it is not JSON; `field` is the path to it (`input.messages[0].when`).
    """
    try:
        return _Conversion(field).convert(value)
    except RecursionError as error:
        raise InvalidRequest(field, "nested too deeply for the stack that is left") from error


def is_instance(value: object, module: str, name: str) -> bool:
    """Tell whether a value is an instance of a class, without importing the module that the class is in."""
    cls = getattr(sys.modules.get(module), name, None)
    return isinstance(cls, type) and isinstance(value, cls)


def _is_message(value: object) -> bool:
    return is_instance(value, "langchain_core.messages.base", "BaseMessage")


def _holds_messages(value: object) -> bool:
    return _is_message(value) or (isinstance(value, list | tuple) and any(_is_message(item) for item in value))


def _is_command(value: object) -> bool:
    return any(is_instance(value, m, n) for m in ("runstream.command", "langgraph.types") for n in ("Command", "Send"))


class _Conversion:
    """One call of `to_jsonable`: knows where in the value it is."""

    def __init__(self, root: str) -> None:
        self._path = [root]
        self._open: set[int] = set()

    def convert(self, value: object) -> JsonValue:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str | int | float):
            return self._scalar(value.value if isinstance(value, enum.Enum) else value)
        if isinstance(value, dict):
            return self._inside(value, self._object)
        if isinstance(value, list | tuple):
            return self._inside(value, self._array)
        return self._inside(value, self._instance)

    def _scalar(self, value: str | float) -> JsonValue:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int):
            if value.bit_length() > _MAX_INT_BITS:
                raise self._invalid(f"a whole number of {value.bit_length()} bits is too large for JSON: pass a string")
            return int(value)
        if not math.isfinite(value):
            raise self._invalid(f"{value} is not JSON: pass None or a string")
        return float(value)

    def _text(self, value: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self._invalid(
                f"half of a surrogate pair at index {error.start} cannot be written as UTF-8: pass "
                "value.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
            ) from error
        return str.__str__(value)

    def _inside(self, value: object, convert: Callable[[Any], JsonValue]) -> JsonValue:
        if id(value) in self._open:
            raise self._invalid(f"{_name(value)} contains itself")
        if len(self._path) > MAX_DEPTH:
            raise self._invalid(f"nested deeper than {MAX_DEPTH} levels")
        self._open.add(id(value))
        converted = convert(value)
        self._open.remove(id(value))
        return converted

    def _object(self, value: Mapping[object, object]) -> JsonValue:
        converted: dict[str, JsonValue] = {}
        for key, item in value.items():
            name = key.value if isinstance(key, enum.Enum) else key
            if not isinstance(name, str):
                raise self._invalid(f"the key {key!r} is a {_name(key)}, and JSON has str keys only: pass {str(key)!r}")
            converted[self._text(name)] = self._child(f".{name}" if name.isidentifier() else f"[{name!r}]", item)
        return converted

    def _array(self, value: list[object] | tuple[object, ...]) -> JsonValue:
        return [self._child(f"[{index}]", item) for index, item in enumerate(value)]

    def _child(self, step: str, value: object) -> JsonValue:
        self._path.append(step)
        converted = self.convert(value)
        self._path.pop()
        return converted

    def _instance(self, value: Any) -> JsonValue:
        if _is_command(value):
            raise self._invalid(f"a {type(value).__name__} cannot be part of data: pass a Command as the whole input")
        if _is_message(value):
            return self._object(self._message(value))
        if isinstance(value, BaseModel):
            return self._model(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._object({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
        use = _USE_INSTEAD.get(type(value).__name__, "plain data, a dataclass, a Pydantic model or a LangChain message")
        raise self._invalid(f"{_name(value)} is not JSON: pass {use}")

    def _model(self, model: BaseModel) -> JsonValue:
        dumped = self._dump(model, mode="json", serialize_as_any=True)
        if not isinstance(dumped, dict):
            return self.convert(dumped)  # a RootModel
        # Messages would be written with the fields that LangChain does not take back.
        held = {name: getattr(model, name) for name in type(model).model_fields if name in dumped}
        return self._object({**dumped, **{name: item for name, item in held.items() if _holds_messages(item)}})

    def _message(self, message: Any) -> dict[object, object]:
        dumped = self._dump(message)
        kind = str(dumped["type"]).removesuffix("MessageChunk").lower()
        if kind not in _MESSAGE_TYPES:
            raise self._invalid(f"LangChain makes no {type(message).__name__} of a dict again: pass a HumanMessage")
        taken = _MESSAGE_FIELDS | _TOOL_FIELDS if kind == "tool" else _MESSAGE_FIELDS
        if unknown := sorted(dumped.keys() - taken - _DROPPED_FIELDS):
            raise self._invalid(f"{type(message).__name__} has no field {unknown[0]!r}: put it in additional_kwargs")
        return {key: item for key, item in {**dumped, "type": kind}.items() if key in taken}

    def _dump(self, model: Any, **options: Any) -> Any:
        try:
            return model.model_dump(**options)
        except Exception as error:
            raise self._invalid(f"{_name(model)} could not be turned into JSON: {error}") from error

    def _invalid(self, problem: str) -> InvalidRequest:
        return InvalidRequest("".join(self._path), problem)


def _name(value: object) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
