"""What a run's stream has of earlier attempts: read by the attempt that takes the run over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic_core import from_json

from runstream.codec import FORMAT
from runstream.errors import ProtocolError
from runstream.text import text_of_message
from runstream_worker.origins import Namespace, Placed

Mark: TypeAlias = tuple[object, ...]
"""What makes an event the same as one of another attempt: LangGraph emits some of them again on resuming."""


@dataclass
class Entry:
    """One complete event of the stream, with the further chunks of its message.

    Attributes:
        ids: its id, and theirs.
        mode: its mode.
        ns: its namespace.
        task: its task, where known.
        steps: see `Placed`.
        name: of the task's node, where the event tells it.
        mark: its mark; None for what never is emitted twice.
        message: the message's id; empty for other modes.
        removes: whether the message is LangGraph's `RemoveMessage`.
        call: of chunks of a message, the model's call, where it is known.
        texts: of a message, what each of these events adds to its text.
        metadata: of a message.
    """

    ids: list[str]
    mode: str
    ns: Namespace
    task: str | None
    steps: tuple[int | None, ...]
    name: str | None = None
    mark: Mark | None = None
    message: str = ""
    removes: bool = False
    call: str | None = None
    texts: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)


class Past:
    """The events of earlier attempts that still stand, in the stream's order."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    @classmethod
    def of(cls, entries: Iterable[tuple[bytes, Mapping[bytes, bytes]]]) -> Past:
        """Read a stream.

        Raises:
            ProtocolError: something in it was not written by a version that this one can read.
        """
        past = cls()
        for event_id, fields in entries:
            try:
                past._add(event_id.decode(), from_json(fields[FORMAT]))
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                raise ProtocolError(f"event {event_id.decode()} is not an event of format 1: {error}") from error
        return past

    def _add(self, event_id: str, wire: dict[str, Any]) -> None:
        if "b" in wire:
            entry = self._entries.get(wire["b"])
            if entry is not None:
                entry.ids.append(event_id)
                entry.texts.append(wire["t"] if "t" in wire else text_of_message(wire["d"]))
        elif wire["m"] == "attempt":
            self.leave_out(wire["d"].get("voids", {}))
        elif wire["m"] != "end":
            self._entries[event_id] = _entry(event_id, wire)

    def leave_out(self, voids: Mapping[str, Any]) -> None:
        """Take out what is void."""
        if voids.get("all"):
            self._entries.clear()
        tasks = {task["id"] for task in voids.get("tasks", ())}
        events = set(voids.get("events", ()))
        gone = [
            event_id
            for event_id, entry in self._entries.items()
            if entry.task in tasks or not events.isdisjoint(entry.ids)
        ]
        for event_id in gone:
            del self._entries[event_id]

    def __len__(self) -> int:
        """How many events there are."""
        return sum(len(entry.ids) for entry in self)


def _entry(event_id: str, wire: Mapping[str, Any]) -> Entry:
    mode, data = wire["m"], wire["d"]
    task, steps = wire.get("k"), tuple(wire.get("s", ()))
    entry = Entry([event_id], mode, tuple(wire.get("n", ())), task, steps)
    entry.mark = _mark(mode, entry.ns, task, steps, data)
    if mode == "messages":
        message, entry.metadata = data
        entry.message = message.get("id") or ""
        entry.removes = message.get("type") == "remove"
        entry.call = wire.get("c")
        entry.name = entry.metadata.get("langgraph_node")
        entry.texts.append(text_of_message(message))
    elif mode == "tasks":
        entry.name = data["name"]
    elif mode == "events":
        entry.name = data["metadata"].get("langgraph_node")
    elif mode == "updates" and isinstance(data, dict) and task is not None:
        entry.name = next(iter(data), None)
    return entry


def mark_of(placed: Placed) -> Mark | None:
    """The mark of a chunk that is about to be published."""
    chunk = placed.chunk
    if chunk.mode == "messages":
        message = chunk.data[0]  # type: ignore[index] # the pair of message and metadata
        # The chunks of a message come from a model that is at work; a whole message may be of a finished subgraph.
        is_whole = not type(message).__name__.endswith("Chunk")
        return mark_of_message(message.id) if is_whole else None
    return _mark(chunk.mode, chunk.ns, placed.task, placed.steps, chunk.data)


def mark_of_message(message_id: str | None) -> Mark:
    """The mark of a message."""
    return ("messages", message_id)


def _mark(mode: str, ns: Namespace, task: str | None, steps: tuple[int | None, ...], data: Any) -> Mark | None:
    match mode:
        case "values" | "checkpoints":
            return (mode, ns, steps[-1]) if steps and steps[-1] is not None else None
        case "updates":
            return (mode, task) if task is not None else None
        case "tasks":
            return (mode, task, "result" in data)
        case "debug":
            return (mode, data["type"], ns, task, steps[-1:])
        case "messages":
            return mark_of_message(data[0].get("id"))
        case _:
            return None
