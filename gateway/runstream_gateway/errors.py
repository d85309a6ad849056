"""What a request is answered with when it cannot be done: a status and `{"detail": text}`, as LangGraph's server does."""

from __future__ import annotations

from collections.abc import Mapping


class ApiError(Exception):
    """A request is refused.

    Attributes:
        status: the HTTP status.
        detail: why, for people to read.
        headers: what else the answer says.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


def not_found(what: str, name: str) -> ApiError:
    """There is no such thing, or the caller is not to know of it."""
    return ApiError(404, f"{what} {name!r} not found")
