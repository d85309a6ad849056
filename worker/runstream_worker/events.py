"""From a chunk to the bytes of an event, with each message's metadata written only once.

An event is a JSON object, in one of three forms:

    {"m": mode, "n": [ns, ...], "k": task, "s": [steps],             complete
     "c": call, "d": data, "i": [interrupt, ...]}
    {"b": "1-5", "d": {"content": ..., ...}}                         the chunk of a message: what differs from event 1-5
    {"b": "1-5", "t": "token"}                                       the same, if that is the content alone, and text

`n` is absent for the graph itself (an empty namespace), `k` and `s` where it is not known which task a chunk comes from
and in which step. `c` is there for chunks of messages only, where the model's call is known. `i` is there for `values`
of version `v2` only, then always.

A message chunk that refers to `b` has that event's mode, namespace, call and metadata. Its message has the fields of
that event's message, with those in `d` put in their place or added behind them; `t` stands for `{"content": t}`:

    base = {"m": "messages", "d": [message, metadata], ...}          the event whose id is b; it is complete itself
    data = [{**message, **delta["d"]}, metadata]

This gives exactly the JSON that the complete event would have had. `b` is never another reference, always of the same
attempt, and not necessarily the first event of its message: now and then a message is written completely again.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias, cast

import orjson
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.base import BaseMessageChunk

from runstream_worker.encoding import JsonEncoder
from runstream_worker.halves import MessageHalves
from runstream_worker.origins import Placed

_REST_FIELDS: Final = tuple(sorted(AIMessageChunk.model_fields.keys() - {"content"}))
_rest_of = itemgetter(*_REST_FIELDS)

_Key: TypeAlias = tuple[str | None, str, tuple[str, ...]]
"""A model's call, where known, a message's id and a namespace."""

OPEN_MESSAGES: Final = 1024
"""How many messages can be streaming at once before the oldest is written completely again."""


class Full(NamedTuple):
    """Write the chunk completely: these are the bytes of `[message, metadata]`."""

    data: bytes


class Delta(NamedTuple):
    """Write the fields that differ from the message of the event `base`: these are the bytes of each one's value."""

    base: str
    fields: dict[str, bytes]


class TextDelta(NamedTuple):
    """Write the content, which is text, and all that differs from the message of the event `base`."""

    base: str
    text: str


class _Base:
    """A complete event that the following chunks of its message refer to.

    It keeps copies, as bytes where that is enough: whoever got the message from LangGraph may change it meanwhile.

    Attributes:
        event_id: the event's id.
        metadata: the metadata's object, which LangGraph passes with every chunk of one call.
        metadata_json: what it was when it was written.
        fields: the bytes of the message's fields, in their order.
        rest: all fields but the content, for a comparison that takes no time; None where Python's `==` says too little
            (1 == True, but not in JSON).
    """

    __slots__ = ("event_id", "fields", "metadata", "metadata_json", "rest")

    def __init__(
        self, event_id: str, metadata: object, metadata_json: bytes, fields: dict[str, bytes], rest: Any
    ) -> None:
        self.event_id = event_id
        self.metadata = metadata
        self.metadata_json = metadata_json
        self.fields = fields
        self.rest = rest

    def has(self, metadata: object, json: JsonEncoder) -> bool:
        if metadata is self.metadata:
            return True
        if json.encode(metadata, "messages[1]") != self.metadata_json:
            return False
        self.metadata = metadata
        return True


class MessageFolder:
    """Knows what has been written of the messages that are streaming, and so what needs no second writing.

    One per attempt. Every event whose id it was given must be published, since later ones may refer to it.

    Args:
        json: encodes what the messages hold.
        open_messages: how many messages can be streaming at once before the oldest is written completely again.
    """

    def __init__(self, json: JsonEncoder, open_messages: int = OPEN_MESSAGES) -> None:
        self._json = json
        self._open_messages = open_messages
        self._halves = MessageHalves()
        self._bases: dict[_Key, _Base] = {}

    def __len__(self) -> int:
        """The number of messages that it remembers."""
        return len(self._bases)

    def fold(
        self, ns: tuple[str, ...], message: BaseMessage, metadata: object, event_id: str, call: str | None = None
    ) -> Full | Delta | TextDelta:
        """Decide how to write a message.

        Args:
            ns: the chunk's namespace.
            message: a chunk of a message, or a whole one.
            metadata: what LangGraph says of it.
            event_id: the id that the event will have.
            call: the model's call, where it is known.
        """
        if not isinstance(message, BaseMessageChunk) or message.id is None:
            return Full(self._json.encode((message, metadata), "messages"))
        message = self._halves.joined((call or message.id, ns), message)
        key = (call, cast("str", message.id), ns)
        base = self._bases.get(key)
        difference = None if base is None or not base.has(metadata, self._json) else self._difference(base, message)
        folded = difference or self._open(key, message, metadata, event_id)
        if getattr(message, "chunk_position", None) == "last":
            self._bases.pop(key, None)
        return folded

    def _open(self, key: _Key, message: BaseMessageChunk, metadata: object, event_id: str) -> Full:
        metadata_json = self._json.encode(metadata, "messages[1]")
        fields = self._fields(message)
        self._bases.pop(key, None)
        if len(self._bases) >= self._open_messages:
            del self._bases[next(iter(self._bases))]
        # What orjson returns occupies 4 KiB for as long as it is kept, however short it is; a copy has its own size.
        kept = {name: bytes(memoryview(value)) for name, value in fields.items()}
        self._bases[key] = _Base(event_id, metadata, metadata_json, kept, _comparable_rest(message))
        return Full(b"[%b,%b]" % (_object(fields), metadata_json))

    def _difference(self, base: _Base, message: BaseMessageChunk) -> Delta | TextDelta | None:
        """What the message has that the base has not; None if the message is better written completely."""
        if type(message) is AIMessageChunk and not message.__pydantic_extra__:
            values = message.__dict__
            content = values["content"]
            if type(content) is str and base.rest is not None and _rest_of(values) == base.rest:
                return TextDelta(base.event_id, content)
        # A message whose first chunk told more than the usual one does (its usage, say) gets a second, plain base.
        if base.rest is None and _comparable_rest(message) is not None:
            return None
        fields = self._fields(message)
        if list(fields)[: len(base.fields)] != list(base.fields):
            return None
        return Delta(base.event_id, {name: value for name, value in fields.items() if base.fields.get(name) != value})

    def _fields(self, message: BaseMessageChunk) -> dict[str, bytes]:
        """The bytes of a message's fields, in their order."""
        dumped = message.model_dump().items()
        return {name: self._json.encode_small(value, f"messages[0].{name}") for name, value in dumped}


def _comparable_rest(message: BaseMessageChunk) -> Any:
    """All fields but the content, copied, if equal ones are sure to be equal in JSON; otherwise None."""
    if type(message) is not AIMessageChunk or message.__pydantic_extra__:
        return None
    rest = _rest_of(message.__dict__)
    if not all(_is_comparable(value) for value in rest):
        return None
    return tuple(value.copy() if isinstance(value, dict | list) else value for value in rest)


def _is_comparable(value: object) -> bool:
    """Whether it is None, text, an empty list, or a flat object of text."""
    if type(value) is dict:
        return all(type(key) is str and type(item) is str for key, item in value.items())
    return value is None or type(value) is str or (type(value) is list and not value)


class EventEncoder:
    """Turns the chunks of one attempt into the bytes of its events.

    Every event that it encodes must be published under the id that it was given, since later ones may refer to it.

    Args:
        json: encodes what the chunks hold.
        open_messages: how many messages can be streaming at once before the oldest is written completely again.
    """

    def __init__(self, json: JsonEncoder, open_messages: int = OPEN_MESSAGES) -> None:
        self._json = json
        self._folder = MessageFolder(json, open_messages)

    def encode(self, placed: Placed, event_id: str) -> bytes:
        """Encode one chunk.

        Raises:
            EncodingError: something in the chunk has no JSON form, and the run wants that to be an error.
        """
        chunk = placed.chunk
        if chunk.mode != "messages":
            return self._complete(placed, self._json.encode_data(chunk.mode, chunk.data))
        message, metadata = cast("tuple[BaseMessage, object]", chunk.data)
        match self._folder.fold(chunk.ns, message, metadata, event_id, chunk.call):
            case TextDelta(base, text):
                encoded = self._json.encode_small(text, "messages[0].content")
                return b'{"b":"%b","t":%b}' % (base.encode("ascii"), encoded)
            case Delta(base, fields):
                return b'{"b":"%b","d":%b}' % (base.encode("ascii"), _object(fields))
            case Full(data):
                return self._complete(placed, data)

    def _complete(self, placed: Placed, data: bytes) -> bytes:
        chunk = placed.chunk
        parts = {"m": orjson.dumps(chunk.mode)}
        if chunk.ns:
            parts["n"] = self._json.encode_small(chunk.ns, "ns")
        if placed.task is not None:
            parts["k"] = orjson.dumps(placed.task)
        if placed.steps:
            parts["s"] = orjson.dumps(placed.steps)
        if chunk.call is not None:
            parts["c"] = orjson.dumps(chunk.call)
        parts["d"] = data
        if chunk.interrupts is not None:
            parts["i"] = self._json.encode(chunk.interrupts, "interrupts")
        return _object(parts)


def _object(fields: dict[str, bytes]) -> bytes:
    return b"{%b}" % b",".join(b"%b:%b" % (orjson.dumps(name), value) for name, value in fields.items())
