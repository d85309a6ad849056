"""What is wrong with a request's body or parameters, on one line, in words that say what would be right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from json import JSONEncoder
from typing import Any

from runstream_gateway.jsonbytes import dumps

_LONGEST_VALUE = 60
_MOST_TOLD = 10
_SAID = (
    (re.compile(r"^(Input|String|List|Dictionary|Value) should "), "must "),
    (re.compile(r"a valid dictionary or object to extract fields from|a valid dictionary"), "an object"),
    (re.compile(r"an object or instance of \w+"), "an object"),
    (re.compile(r"a valid list"), "a list"),
    (re.compile(r", unable to (interpret|parse) .*"), ""),
    (re.compile(r"^Field required$"), "is missing"),
)


def told(problems: Sequence[Mapping[str, Any]], body: object) -> str:
    """Pydantic's list of problems as one line: each field with what it is and what it must be.

    Args:
        problems: as `RequestValidationError.errors()` gives them.
        body: what was sent.
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for problem in problems:
        place = _place(problem["loc"], body, is_missing=problem["type"] == "missing")
        if place not in found:
            is_told = problem["type"] != "missing" and len(found) < _MOST_TOLD
            found[place] = _short(problem.get("input")) if is_told else "", []
        said = found[place][1]
        words = _words(str(problem["msg"]))
        if words not in said:
            said.append(words)
    lines = [
        f"{place}: {value} {' or '.join(said)}" if value else f"{place}: {' or '.join(said)}"
        for place, (value, said) in list(found.items())[:_MOST_TOLD]
    ]
    more = len(found) - len(lines)
    return "; ".join([*lines, f"and {more} more"] if more > 0 else lines)


def _place(location: Sequence[str | int], body: object, *, is_missing: bool) -> str:
    """The path of a field. Pydantic names the alternatives of a union on the way, which are no part of it."""
    base, *parts = location
    if base != "body":
        return ".".join(str(part) for part in parts) or str(base)
    path: list[str] = []
    here = body
    for position, part in enumerate(parts):
        if _has(here, part):
            here = here[part]  # type: ignore[index] # it has it
        elif not (is_missing and position == len(parts) - 1):
            continue
        path.append(str(part))
    return ".".join(path) or "body"


def _has(value: object, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def _words(message: str) -> str:
    for pattern, words in _SAID:
        message = pattern.sub(words, message)
    return " ".join(message.split())


def _short(value: object) -> str:
    """The beginning of a value as JSON; of what is large, no more than that is encoded."""
    if isinstance(value, str):
        return _cut(dumps(value[: _LONGEST_VALUE + 1]).decode())
    if not (value is None or isinstance(value, int | float | list | dict)):
        # What cannot be shown is a value that came from no JSON.
        return _cut(repr(value))
    text = ""
    for piece in JSONEncoder(separators=(",", ":"), ensure_ascii=False).iterencode(value):
        text += piece[: _LONGEST_VALUE + 1]
        if len(text) > _LONGEST_VALUE:
            break
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
