"""What a request shows of who makes it."""

from __future__ import annotations

from starlette.requests import HTTPConnection


def bearer(connection: HTTPConnection) -> str | None:
    """The token of `Authorization: Bearer TOKEN`; None without one."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None
