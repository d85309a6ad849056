"""How events, runs and tables look. Nothing here does I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from runstream.cli.terminal import Output, Style, cells, clipped, padded, printable
from runstream.model import Event, EventId, RunInfo, Status

_STATUS_STYLES: dict[Status, Style] = {
    Status.QUEUED: "yellow",
    Status.RUNNING: "cyan",
    Status.SUCCESS: "green",
    Status.INTERRUPTED: "yellow",
}
_MODE_WIDTH = len("checkpoints")
_ID_WIDTH = 7


def event_json(event: Event) -> dict[str, Any]:
    """An event as the JSON that a pipe gets."""
    told: dict[str, Any] = {"id": event.id, "mode": event.mode, "ns": list(event.ns), "data": event.data}
    if event.interrupts is not None:
        told["interrupts"] = list(event.interrupts)
    return told


def event_line(event: Event, output: Output) -> str:
    """An event as one line of a terminal: id, mode, namespace, and as much of its data as fits."""
    head = f"{event.id:<{_ID_WIDTH}} {event.mode:<{_MODE_WIDTH}} "
    namespace = f"{'|'.join(part.partition(':')[0] for part in event.ns)} " if event.ns else ""
    room = max(output.width - cells(head) - cells(namespace), 20)
    data = clipped(_summary(event), room)
    styles: tuple[Style, ...] = () if event.is_chunk else ("bold",)
    return output.styled(head, "dim") + output.styled(printable(namespace), "cyan") + output.styled(data, *styles)


def _summary(event: Event) -> str:
    match event.mode, event.data:
        case "messages", [{"type": str(kind), "content": content}, {"langgraph_node": node}]:
            return f"{node} {kind} {_compact(content)}"
        case "attempt", _:
            return f"attempt {EventId.of(event.id).attempt} begins"
        case "end", {"status": status, "error": {"type": kind, "message": message}}:
            return f"{status}: {kind}: {message}"
        case "end", {"status": status, **rest}:
            return f"{status}: {rest['reason']}" if rest.get("reason") else str(status)
        case "gap", {"after": after}:
            return f"the events after {after} have been removed"
        case _:
            return _compact(event.data)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def table(rows: Sequence[Sequence[str]], head: Sequence[str], output: Output) -> list[str]:
    """Rows under a head, in columns as wide as they have to be; the last column is clipped at the line's end."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(cells(row[at]) for row in [head, *shown]) for at in range(len(head))]
    lines = [
        clipped("  ".join(padded(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip(), output.width)
        for row in [head, *shown]
    ]
    return [output.styled(lines[0], "bold"), *lines[1:]]


def fields(pairs: Mapping[str, str], output: Output) -> list[str]:
    """Names and values, one pair a line."""
    width = max(map(len, pairs))
    return [f"{output.styled(name.ljust(width), 'dim')}  {printable(value)}" for name, value in pairs.items()]


def status_text(status: Status, output: Output) -> str:
    """A status in its colour."""
    return output.styled(status, _STATUS_STYLES.get(status, "red"))


def run_row(info: RunInfo, now: datetime) -> list[str]:
    """A run as a row of `RUN_HEAD`."""
    return [info.run_id, info.status, ago(info.created_at, now), _took(info, now), info.graph]


RUN_HEAD = ("RUN", "STATUS", "AGE", "TOOK", "GRAPH")


def run_fields(info: RunInfo, output: Output) -> dict[str, str]:
    """A run's record as names and values."""
    now = datetime.now(UTC)
    pairs = {
        "run": info.run_id,
        "graph": info.graph,
        "thread": info.thread_id,
        "status": info.status,
        "attempt": str(info.attempt),
        "worker": info.worker,
        "modes": ", ".join(info.stream_mode),
        "created": f"{_clock(info.created_at)} ({ago(info.created_at, now)} ago)",
        "due": _clock(info.due_at) if info.due_at > info.created_at else None,
        "started": _clock(info.started_at) if info.started_at else None,
        "ended": f"{_clock(info.ended_at)} (after {_took(info, now)})" if info.ended_at else None,
        "error": f"{info.error.type}: {info.error.message}" if info.error else None,
        "stop": info.stop_reason,
        "last event": info.last_event_id,
        "stream": f"{info.stream_bytes:,} bytes",
        "metadata": _compact(info.metadata) if info.metadata else None,
    }
    return {name: clipped(value, max(output.width - 14, 40)) for name, value in pairs.items() if value is not None}


def ago(then: datetime, now: datetime) -> str:
    """How long ago something was, in its largest unit."""
    seconds = max((now - then).total_seconds(), 0.0)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{seconds:.0f}s"


def _took(info: RunInfo, now: datetime) -> str:
    if info.started_at is None:
        return "-"
    return f"{((info.ended_at or now) - info.started_at).total_seconds():.2f}s"


def _clock(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="milliseconds")
