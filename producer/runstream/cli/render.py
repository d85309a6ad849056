"""How events, runs and tables look. Nothing here does I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from runstream.cli.terminal import Output, Style, cells, clipped, padded, printable
from runstream.model import Event, EventId, Holder, RunInfo, Status
from runstream.voids import Voids
from runstream.waiting import Waiting

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
    if event.task is not None:
        told["task"] = event.task
    if event.call is not None:
        told["call"] = event.call
    return told


def event_line(event: Event, output: Output, *, worker_before: str | None = None) -> str:
    """An event as one line of a terminal: id, mode, namespace, and as much of its data as fits.

    Args:
        event: the event.
        output: where it is to be written.
        worker_before: the worker of the attempt before, where that is known.
    """
    head = f"{event.id:<{_ID_WIDTH}} {event.mode:<{_MODE_WIDTH}} "
    namespace = f"{'|'.join(part.partition(':')[0] for part in event.ns)} " if event.ns else ""
    room = max(output.width - cells(head) - cells(namespace), 20)
    data = clipped(_summary(event, worker_before), room)
    styles: tuple[Style, ...] = () if event.is_chunk else ("bold",)
    return output.styled(head, "dim") + output.styled(printable(namespace), "cyan") + output.styled(data, *styles)


def _summary(event: Event, worker_before: str | None) -> str:
    match event.mode, event.data:
        case "messages", [{"type": str(kind), "content": content}, {"langgraph_node": node}]:
            return f"{node} {kind} {_compact(content)}"
        case "attempt", data:
            begins = f"attempt {EventId.of(event.id).attempt} begins"
            if "rewinds" in data:
                begins += f" again: Redis has lost what was shown up to {data['rewinds']}"
            return f"{begins}: {_taken_over(event, worker_before)}" if "left" in data else begins
        case "end", {"status": status, "error": {"type": kind, "message": message}}:
            return f"{status}: {kind}: {message}"
        case "end", {"status": status, **rest}:
            return f"{status}: {rest['reason']}" if rest.get("reason") else str(status)
        case "gap", {"after": after}:
            return f"the events after {after} have been removed"
        case _:
            return _compact(event.data)


_LEFT = {"lost": "was lost", "drained": "was shut down", "fault": "gave it back after a fault"}


def _taken_over(event: Event, worker_before: str | None) -> str:
    """Why an attempt goes on for another, and what it leaves out."""
    who = f"worker {worker_before}" if worker_before else "the worker before"
    left = _LEFT.get(event.data["left"], event.data["left"])
    voids = Voids.of(event)
    count = voids.count if voids is not None else 0
    what = "1 event is" if count == 1 else f"{count:,} events are" if count else "nothing is"
    return f"{who} {left}; {what} void"


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


def dead_row(info: RunInfo, now: datetime) -> list[str]:
    """A dead letter as a row of `DEAD_HEAD`."""
    ended = ago(info.ended_at, now) if info.ended_at else "-"
    error = f"{info.error.type}: {info.error.message}" if info.error else "-"
    return [info.run_id, ended, str(info.attempts), info.graph, " ".join(error.split())]


DEAD_HEAD = ("RUN", "ENDED", "ATTEMPTS", "GRAPH", "ERROR")


def run_fields(info: RunInfo, waiting: Waiting | None, output: Output) -> dict[str, str]:
    """A run's record, and what it waits for, as names and values."""
    now = datetime.now(UTC)
    failures = f" ({info.failures} of {info.max_attempts} failed)" if info.failures else ""
    pairs = {
        "run": info.run_id,
        "graph": info.graph,
        "thread": info.thread_id,
        "status": info.status,
        "waits": str(waiting) if waiting is not None else None,
        "attempts": f"{info.attempts}{failures}",
        "worker": info.worker,
        **{f"attempt {holder.attempt}": _held(holder) for holder in info.holders},
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


def _held(holder: Holder) -> str:
    seconds = (holder.ended_at - holder.started_at).total_seconds()
    return f"worker {holder.worker}, {holder.cause} at {_clock(holder.ended_at)} (after {seconds:.2f}s)"


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
