"""JSON in pieces: values that are encoded already, so that they need not be decoded to be answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from runstream_worker.encoding import JsonEncoder


class Piece:
    """A value as its JSON.

    Args:
        data: the JSON.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def value(self) -> Any:
        """Decode it."""
        return from_json(self.data)


def opened(value: Any) -> Any:
    """Return a value, decoded if it is a piece."""
    return value.value() if isinstance(value, Piece) else value


def in_pieces(values: Any, path: str) -> Any:
    """Encode a state's values: a piece for each of them, and for each entry of a list.

    Decoding a large state at once would hold the interpreter's lock for as long as that takes, and most of it is never
    looked at.
    """
    json = JsonEncoder()
    if not isinstance(values, Mapping) or not all(type(key) is str for key in values):
        return Piece(json.encode(values, path))
    return {key: _entries(value, f"{path}.{key}", json) for key, value in values.items()}


def _entries(value: Any, path: str, json: JsonEncoder) -> Any:
    if type(value) is not list:
        return Piece(json.encode(value, path))
    return [Piece(json.encode_small(entry, f"{path}[{index}]")) for index, entry in enumerate(value)]
