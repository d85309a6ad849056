"""Ids and times, as LangGraph's API writes them."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime

from runstream.model import new_run_id
from runstream_gateway.errors import ApiError

_LONGEST_SHOWN = 60
UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def new_id() -> str:
    """A UUID of version 7."""
    return new_run_id()


def check_uuid(value: str, field: str) -> str:
    """A UUID in its one spelling.

    Raises:
        ApiError: 422, it is none.
    """
    # `uuid.UUID` also takes digits of other scripts, and line breaks before them.
    if not UUID.fullmatch(value):
        shown = value if len(value) <= _LONGEST_SHOWN else f"{value[:_LONGEST_SHOWN]}..."
        raise ApiError(422, f"{field}: {shown!r} is not a UUID")
    return one_spelling(value)


def one_spelling(value: str) -> str:
    """Return a UUID with its hyphens, in lower case."""
    return str(uuid.UUID(value))


def now() -> str:
    """The time, ISO 8601 with its offset."""
    return datetime.now(UTC).isoformat()


def iso(time: datetime | None) -> str | None:
    """A time as the API writes it."""
    return None if time is None else time.astimezone(UTC).isoformat()
