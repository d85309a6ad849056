"""How much may be said of threads, runs and assistants: a search has to read it of all that there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from runstream_gateway.errors import ApiError
from runstream_gateway.jsonbytes import dumps

METADATA_MAX: Final = 64_000
"""Bytes of JSON."""


def check_metadata(metadata: Mapping[str, Any], field: str = "metadata") -> None:
    """Check that metadata is not too large, with what it is merged into.

    Args:
        metadata: all of it.
        field: what the request calls it.

    Raises:
        ApiError: 422, it is.
    """
    if problem := _problem(metadata):
        raise ApiError(422, f"{field}: {problem}")


def _small(metadata: dict[str, Any]) -> dict[str, Any]:
    if problem := _problem(metadata):
        raise PydanticCustomError("too_large", "{problem}", {"problem": problem})
    return metadata


def _problem(metadata: Mapping[str, Any]) -> str | None:
    size = len(dumps(metadata))
    return f"must be at most {METADATA_MAX:,} bytes of JSON, and is {size:,}" if size > METADATA_MAX else None


Metadata = Annotated[dict[str, Any], AfterValidator(_small)]
"""What a request says of a thing that is to be kept."""
