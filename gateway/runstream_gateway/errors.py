"""What a request is refused with: a status and `{"detail": text}`, as LangGraph's own server does."""

from __future__ import annotations

from collections.abc import Mapping

_LONGEST = 1000


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
        self.detail = one_line(detail)
        self.headers = dict(headers or {})


def one_line(text: str) -> str:
    """What a refusal says, on one line, and not for ever: what was asked for may be repeated in it."""
    line = " ".join(text.splitlines())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def not_found(what: str, name: str) -> ApiError:
    """There is no such thing, or the caller is not to know of it."""
    return ApiError(404, f"{what} {name!r} not found")


def not_loaded(graph: str) -> ApiError:
    """This gateway has the graph, and could not load it; what the graph's module raised is for its operator."""
    return ApiError(424, f"graph {graph!r} cannot be loaded; the gateway's log says why")
