"""What is wrong with a request's body or parameters, on one line, in words that say what would be right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.responses import Response

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


class StrictRequest(Request):
    """Takes only what is JSON for everybody: no NaN, no half of a surrogate pair, no ten thousand levels."""

    async def json(self) -> Any:
        """The body.

        Raises:
            HTTPException: 422, it is no JSON. FastAPI lets no other exception pass here.
        """
        if not hasattr(self, "_json"):
            try:
                self._json = from_json(await self.body(), allow_inf_nan=False)
            except ValueError as error:
                raise HTTPException(422, f"body: is not JSON, or is nested too deep: {error}") from None
        return self._json


class StrictRoute(APIRoute):
    """A route whose requests are `StrictRequest`."""

    def get_route_handler(self) -> Any:
        """As FastAPI documents it for requests of one's own."""
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strictly


def told(problems: Sequence[Mapping[str, Any]], body: object) -> str:
    """Pydantic's list of problems as one line: each field with what it is and what it must be.

    Args:
        problems: as `RequestValidationError.errors()` gives them.
        body: what was sent.
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for problem in problems:
        place = _place(problem["loc"], body, is_missing=problem["type"] == "missing")
        value = "" if problem["type"] == "missing" else _short(problem.get("input"))
        said = found.setdefault(place, (value, []))[1]
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
    # What cannot be shown is a value that came from no JSON.
    text = dumps(value).decode() if value is None or isinstance(value, str | int | float | list | dict) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
