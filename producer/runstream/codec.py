"""Bytes to events. The format is told in `docs/PROTOCOL.md`, "Events"; the worker's encoder writes it.

An entry of the stream has one field, whose name is the version of the format and whose value is JSON:

- `{"m": mode, "n": [namespace], "k": task, "s": [steps], "c": call, "d": data, "i": [interrupts]}`, where `n` is left
  out at the root, `k`, `s` and `c` where they are not known, and `i` is there with `version="v2"` values only; or
- a further chunk of a message, told as its difference from the message's first event, the base:
  `{"b": base id, "t": text}` replaces the base's `content`, `{"b": base id, "d": {...}}` the fields in it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from runstream.errors import ProtocolError
from runstream.model import Event

FORMAT = b"1"
_KEPT_BASES = 1024
_KEPT_BYTES = 256 * 1024
_VALUE_BYTES = 64
"""What a value takes as an object of Python's, beside its text."""


class MissingBase(Exception):
    """An event refers to a base that this decoder has not seen. Caught by the reader, which fetches the base."""

    def __init__(self, base_id: str) -> None:
        super().__init__(base_id)
        self.base_id = base_id


class Decoder:
    """Decodes the events of one run, in order; remembers the bases that later events refer to."""

    __slots__ = ("_bases", "_bytes")

    def __init__(self) -> None:
        self._bases: OrderedDict[str, Event] = OrderedDict()
        self._bytes = 0

    def decode(self, event_id: str, fields: Mapping[bytes, bytes]) -> Event:
        """Decode an entry of the stream.

        Raises:
            MissingBase: the base has to be added with `add_base` first; nothing was remembered.
            ProtocolError: the entry was written by a version that this one cannot read, or by something else.
        """
        payload = fields.get(FORMAT)
        if payload is None:
            known = FORMAT.decode()
            raise ProtocolError(
                f"event {event_id} is in format {b', '.join(fields).decode(errors='replace')!r}, "
                f"this version reads format {known!r}: it was written by another version of runstream"
            )
        try:
            wire = from_json(payload)
            base_id, size = wire.get("b"), _size_of(payload)
            if base_id is None:
                event = self._full(event_id, wire, size)
            else:
                event = self._further(event_id, wire, base_id, size)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ProtocolError(f"event {event_id} is not an event of format 1: {error}") from error
        return event

    def add_base(self, event_id: str, fields: Mapping[bytes, bytes] | None) -> None:
        """Remember a base that was fetched; None when the stream no longer has it."""
        if fields is None:
            self._remember(Event(event_id, "messages", (), [{"type": "AIMessageChunk", "content": ""}, {}]))
        else:
            self.decode(event_id, fields)

    def adopt(self, other: Decoder) -> None:
        """Take over the bases of another decoder of the same run."""
        for base in other._bases.values():
            self._remember(base)

    def _full(self, event_id: str, wire: Any, size: int) -> Event:
        interrupts = wire.get("i")
        event = Event(
            event_id,
            wire["m"],
            tuple(wire.get("n", ())),
            wire["d"],
            None if interrupts is None else tuple(interrupts),
            wire.get("k"),
            wire.get("c"),
            size,
        )
        if event.mode == "messages":
            self._remember(event)
        return event

    def _further(self, event_id: str, wire: Any, base_id: str, size: int) -> Event:
        base = self._bases.get(base_id)
        if base is None:
            raise MissingBase(base_id)
        message, metadata = base.data
        changes = {"content": wire["t"]} if "t" in wire else wire["d"]
        return Event(event_id, base.mode, base.ns, [{**message, **changes}, metadata], None, base.task, base.call, size)

    def _remember(self, base: Event) -> None:
        if base.id in self._bases:
            return
        self._bases[base.id] = base
        self._bytes += base.size
        while len(self._bases) > _KEPT_BASES or (self._bytes > _KEPT_BYTES and len(self._bases) > 1):
            self._bytes -= self._bases.popitem(last=False)[1].size


def _size_of(payload: bytes) -> int:
    # Each value but the first of an object or a list stands behind a comma.
    return len(payload) + _VALUE_BYTES * payload.count(b",")
