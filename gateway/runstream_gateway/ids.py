"""Ids and times, as LangGraph's API writes them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from runstream.model import new_run_id
from runstream_gateway.errors import ApiError


def new_id() -> str:
    """A UUID of version 7."""
    return new_run_id()


def check_uuid(value: str, field: str) -> str:
    """A UUID in its one spelling.

    Raises:
        ApiError: 422, it is none.
    """
    try:
        return str(uuid.UUID(value))
    except (ValueError, AttributeError, TypeError):
        raise ApiError(422, f"{field}: {value!r} is not a UUID") from None


def now() -> str:
    """The time, ISO 8601 with its offset."""
    return datetime.now(UTC).isoformat()


def iso(time: datetime | None) -> str | None:
    """A time as the API writes it."""
    return None if time is None else time.astimezone(UTC).isoformat()
