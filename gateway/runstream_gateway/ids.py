"""Ids and times, as LangGraph's API writes them."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime

from runstream.model import new_run_id
from runstream_gateway.errors import ApiError

_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def new_id() -> str:
    """A UUID of version 7."""
    return new_run_id()


def check_uuid(value: str, field: str) -> str:
    """A UUID in its one spelling.

    Raises:
        ApiError: 422, it is none.
    """
    # `uuid.UUID` also takes digits of other scripts, and line breaks before them.
    if not _UUID.fullmatch(value):
        raise ApiError(422, f"{field}: {value!r} is not a UUID")
    return str(uuid.UUID(value))


def now() -> str:
    """The time, ISO 8601 with its offset."""
    return datetime.now(UTC).isoformat()


def iso(time: datetime | None) -> str | None:
    """A time as the API writes it."""
    return None if time is None else time.astimezone(UTC).isoformat()
