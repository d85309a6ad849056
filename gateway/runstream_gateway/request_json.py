"""The JSON of request bodies: weighed before it is parsed.

What a body costs depends on how many values it has rather than on its bytes: 10 MiB of text are parsed in a
millisecond, and 10 MiB of `[],[],...` take seconds to parse, check, copy and encode again, with the interpreter's lock
held.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic_core import from_json
from starlette.exceptions import HTTPException

from runstream_gateway.errors import ApiError

LONGEST_NUMBER: Final = 400
"""Digits; the time that Python takes to write a whole number grows with their square."""

_OPENING = bytes.maketrans(b"[{:", b",,,")
_CLOSING_AND_BLANK = b"]} \t\r\n"


def weigh(body: bytes, most: int) -> int:
    """Return how many values (objects, lists, texts, numbers, literals) a body has at most, without parsing it.

    Objects and lists count twice. Of what is not JSON it counts what stands before the error, at least.

    Args:
        body: what is to be parsed.
        most: how many values it may have.

    Raises:
        ApiError: 413, it has more values, or a number of too many digits.
    """
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Each text is a key or a value, and there are no more keys than values.
    if body.count(b'"') > 4 * most:
        raise _too_many(most)
    outside = b"".join(body.split(b'"')[::2])
    values = 1 + outside.count(b",") + outside.count(b"[") + outside.count(b"{")
    if max(values, outside.count(b":")) > most:
        raise _too_many(most)
    if max(map(len, outside.translate(_OPENING, _CLOSING_AND_BLANK).split(b","))) > LONGEST_NUMBER:
        raise ApiError(413, f"the body has a number of more than {LONGEST_NUMBER} digits; send it as text")
    return values


def parse(body: bytes) -> Any:
    """Parse what is JSON for everybody: no NaN, no half of a surrogate pair, no more than 200 levels.

    Raises:
        HTTPException: 422, it is no JSON. FastAPI lets no other exception pass where it reads a body.
    """
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise HTTPException(422, f"body: is not JSON, or is nested too deep: {error}") from None


def _too_many(most: int) -> ApiError:
    what = "texts, numbers, and objects and lists, which count twice"
    return ApiError(413, f"the body has more than {most:,} values ({what}); send less at once")
