"""JSON as bytes, on one line."""

from __future__ import annotations

import json
from typing import Any

import orjson

from runstream_gateway.pieces import Piece


def dumps(value: Any) -> bytes:
    """Encode what was decoded from JSON, or pieces of it; whole numbers may be too large for orjson."""
    try:
        return orjson.dumps(value, default=_as_it_is)
    except TypeError:
        return json.dumps(value, default=_decoded, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _as_it_is(value: Any) -> orjson.Fragment:
    if isinstance(value, Piece):
        return orjson.Fragment(value.data)
    raise TypeError


def _decoded(value: Any) -> Any:
    if isinstance(value, Piece):
        return value.value()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
