"""Tool calls from their chunks, as far as these have come: what LangChain's `AIMessageChunk` makes of them.

The arguments of a call that is still streaming are JSON that breaks off somewhere. The rules for what they amount to
are those of `langchain_core.utils.json.parse_partial_json`; tests compare the two.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeAlias

from runstream.characters import well_formed_in

Calls: TypeAlias = list[dict[str, Any]]

_CLOSER = {"{": "}", "[": "]"}


def tool_calls_of(chunks: Sequence[dict[str, Any]]) -> tuple[Calls, Calls]:
    """The calls that chunks (merged by their index) amount to, and those whose arguments are no JSON object."""
    calls: Calls = []
    invalid: Calls = []
    for chunk in chunks:
        name, text, call_id = chunk.get("name"), chunk.get("args"), chunk.get("id")
        args = _arguments(text)
        if isinstance(args, dict):
            calls.append({"name": name or "", "args": args, "id": call_id, "type": "tool_call"})
        else:
            invalid.append({"name": name, "args": text, "id": call_id, "error": None, "type": "invalid_tool_call"})
    return calls, invalid


def _arguments(text: str | None) -> Any:
    """The arguments, as far as they have come; None where they are no JSON."""
    if not text:
        return {}
    try:
        return well_formed_in(parse_partial(text))
    except (ValueError, RecursionError):
        return None


def parse_partial(text: str) -> Any:
    """JSON that may break off: what is open at its end is closed, what is begun there and says nothing is left out.

    Returns:
        The value; None also where brackets do not match.

    Raises:
        ValueError: there is no JSON in it.
    """
    try:
        return json.loads(text, strict=False)
    except json.JSONDecodeError:
        pass
    scanned = _scan(text)
    if scanned is None:
        return None
    units, closers = scanned
    ends = list(accumulate(map(len, units)))
    while units:
        try:
            return json.loads("".join(units) + closers, strict=False)
        except json.JSONDecodeError as error:
            # What is rejected where it stands is rejected as long as it stands there.
            del units[min(bisect_right(ends, error.pos), len(units) - 1) :]
    return json.loads(text, strict=False)


def _scan(text: str) -> tuple[list[str], str] | None:
    """The text in units that JSON takes, and what closes everything that is open; None where brackets do not match."""
    units: list[str] = []
    open_brackets: list[str] = []
    in_string = escaped = False
    for character in text:
        unit = character
        if in_string:
            if character == '"' and not escaped:
                in_string = False
            elif character == "\n" and not escaped:
                unit = "\\n"
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string = True
        elif character in _CLOSER:
            open_brackets.append(_CLOSER[character])
        elif character in "}]" and (not open_brackets or open_brackets.pop() != character):
            return None
        units.append(unit)
    if in_string:
        if escaped:
            units.pop()
        units.append('"')
    return units, "".join(reversed(open_brackets))
