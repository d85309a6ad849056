"""What clients are told of exceptions: the type, and the message where it cannot hold what is nobody's business.

The types whose messages are told are those of LangGraph's own server, and runstream's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TOLD = frozenset(
    {"ValueError", "TypeError", "KeyError", "AttributeError", "RuntimeError", "RecursionError", "TimeoutError"}
    | {"HTTPException", "GraphRecursionError", "InvalidUpdateError", "EmptyInputError", "EmptyChannelError"}
    | {"TaskNotFound", "NodeTimeoutError", "EncodingError", "WorkerLost", "ProtocolError", "InvalidRequest"}
    | {"NothingToGoOnFrom", "StreamTooLarge", "ResultTooLarge", "PublishRefused", "WorkerShutdown", "GraphExited"}
    | {"NoStore"}
)
UNTOLD = "An internal error occurred"


def error_of(status: str | None, error: Mapping[str, Any] | None, *, show: bool) -> dict[str, str] | None:
    """What went wrong with a run, as the API tells it; None where nothing did."""
    if status == "timeout":
        return {"error": "TimeoutError", "message": (error or {}).get("message") or "the run took too long"}
    if status not in ("error", "lost") or error is None:
        return None
    kind = str(error.get("type"))
    return {"error": kind, "message": str(error.get("message", "")) if show or kind in _TOLD else UNTOLD}


def told_error(error: Any) -> Any:
    """An error among data, as `{"error", "message"}` or as the `repr` of an exception, without what is not told."""
    if isinstance(error, dict):
        return error if error.get("error") in _TOLD else {**error, "message": UNTOLD}
    if isinstance(error, str):
        kind = error.partition("(")[0]
        return error if kind in _TOLD else f"{kind}({UNTOLD!r})"
    return error


def told_data(mode: str, data: Any) -> Any:
    """An event's data without the messages that are not told: those of tasks that failed."""
    if not isinstance(data, dict):
        return data
    if mode == "debug":
        kind = {"task_result": "tasks", "checkpoint": "checkpoints"}.get(str(data.get("type")), "")
        return {**data, "payload": told_data(kind, data.get("payload"))} if kind else data
    if mode == "tasks" and data.get("error") is not None:
        return {**data, "error": told_error(data["error"])}
    if mode == "checkpoints" and isinstance(data.get("tasks"), list):
        return {**data, "tasks": [told_data("tasks", task) for task in data["tasks"]]}
    return data
