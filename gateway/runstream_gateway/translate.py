"""From a run's events to the frames of LangGraph's protocol.

Most events become one frame, the same for every reader: a `FrameCache` makes it once for all of a process. What is
one reader's own: the mode `messages` tells sums of chunks, and what an attempt voids depends on what was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runstream import Event, EventId, Voids
from runstream.messages import Messages, is_chunk, is_removal
from runstream_gateway.frames import Frame, frame
from runstream_gateway.jsonbytes import dumps
from runstream_gateway.marks import ApiMode
from runstream_gateway.told_errors import error_of, told_data

_MOST_CACHED = 4096
_MOST_CACHED_BYTES = 8 * 1024 * 1024


class FrameCache:
    """The frames of the events that the process has met last: many readers of one run are sent the same bytes.

    Args:
        size: how many are kept at most.
        size_bytes: how many bytes of them; the last one is kept in any case.
        show_errors: tell the messages of all exceptions.
    """

    def __init__(
        self, size: int = _MOST_CACHED, size_bytes: int = _MOST_CACHED_BYTES, *, show_errors: bool = False
    ) -> None:
        self._show_errors = show_errors
        self._size = size
        self._size_bytes = size_bytes
        self._bytes = 0
        self._frames: dict[tuple[str, str, str], Frame] = {}

    def of(self, run_id: str, event: Event, worker: str = "") -> Frame:
        """An event as the frame of its mode.

        Args:
            run_id: the run.
            event: the event.
            worker: the worker of its attempt, where the reader knows it: another one may have used the same id for
                something that Redis has lost.
        """
        key = (run_id, event.id, worker)
        known = self._frames.get(key)
        if known is None:
            data = event.data if self._show_errors else told_data(event.mode, event.data)
            # Records tell where they come from by themselves, and LangGraph's server puts no namespace behind `events`.
            name = event.mode if not event.ns or event.mode == "events" else "|".join((event.mode, *event.ns))
            known = self._frames[key] = Frame(name, dumps(data), event.id)
            self._bytes += len(known.data)
            while len(self._frames) > self._size or (self._bytes > self._size_bytes and len(self._frames) > 1):
                self._bytes -= len(self._frames.pop(next(iter(self._frames))).data)
        return known


class Translator:
    """Translates the events of one run for one reader.

    Args:
        run_id: the run.
        modes: what the reader wants, by the names of the API.
        cache: the process's.
        show_errors: tell the messages of all exceptions.
    """

    def __init__(self, run_id: str, modes: Sequence[ApiMode], cache: FrameCache, *, show_errors: bool = False) -> None:
        self._run_id = run_id
        self._cache = cache
        self._show_errors = show_errors
        as_tuples = "messages-tuple" in modes
        self._plain = frozenset(modes) - {"messages", "messages-tuple"} | ({"messages"} if as_tuples else set())
        # Where both are asked for, the tuples win, as they do on LangGraph's server.
        self._worker = ""
        self._sums = _Sums() if "messages" in modes and not as_tuples else None

    @property
    def needs_all(self) -> bool:
        """Whether an event can only be told by who has seen all before it."""
        return self._sums is not None

    @property
    def wants_values(self) -> bool:
        """Whether the reader is told the state."""
        return "values" in self._plain

    @property
    def wants_tuples(self) -> bool:
        """Whether the reader adds up chunks of messages by itself."""
        return "messages" in self._plain

    @property
    def tells_interrupts(self) -> bool:
        """Whether the modes asked for tell of interrupts by themselves."""
        return not self._plain.isdisjoint(("values", "updates"))

    def frames(self, event: Event) -> Sequence[Frame]:
        """What an event is to the reader: nothing, a frame, or several of which the last one has the id."""
        if event.mode in self._plain:
            return (self._cache.of(self._run_id, event, self._worker),)
        match event.mode:
            case "messages" if self._sums is not None:
                return self._sums.frames(event)
            case "attempt":
                return self._begin(event)
            case "end":
                return self._end(event)
            case "gap":
                return (frame("gap", event.data),)
        return ()

    def _begin(self, event: Event) -> Sequence[Frame]:
        """The `metadata` frame; of a later attempt it also tells what of the stream is void."""
        removals: Sequence[Frame] = ()
        data: dict[str, Any] = {"run_id": self._run_id, "attempt": EventId.of(event.id).attempt}
        if data["attempt"] > 1:
            data["voids"] = event.data.get("voids")
        if "rewinds" in event.data:
            data["rewinds"] = event.data["rewinds"]
        self._worker = event.data.get("worker", "")
        voids = Voids.of(event)
        if self._sums is not None and voids is not None:
            removals = self._sums.leave_out(voids)
        return (*removals, frame("metadata", data, event.id))

    def _end(self, event: Event) -> Sequence[Frame]:
        error = error_of(event.data.get("status"), event.data.get("error"), show=self._show_errors)
        if error is None:
            return (frame("end", None, event.id),)
        # Who keeps count by ids is to miss the error least of all; who has seen it needs no `end`.
        return (frame("error", error, event.id), frame("end", None))


class _Sums:
    """The mode `messages`: of each message what there is of it so far."""

    def __init__(self) -> None:
        self._messages = Messages()
        self._told: set[str] = set()
        self._id_of_call: dict[str | None, str] = {}

    def frames(self, event: Event) -> Sequence[Frame]:
        self._messages.add(event)
        message, metadata = event.data
        if is_removal(message):
            return (frame("messages/complete", [message], event.id),)
        told = self._messages.of(event)
        message_id = None if told is None else told.get("id")
        if told is None or message_id is None:
            return ()
        whole = {**told, "type": "ai"} if told.get("type") == "AIMessageChunk" else told
        sum_ = frame("messages/partial" if is_chunk(message) else "messages/complete", [whole], event.id)
        before = [] if event.call is None else self._renamed(event.call, message_id)
        if message_id in self._told:
            return (*before, sum_)
        self._told.add(message_id)
        return (*before, frame("messages/metadata", {message_id: {"metadata": metadata}}), sum_)

    def _renamed(self, call: str, message_id: str) -> list[Frame]:
        """Take a message back that was shown under LangChain's id before its provider's came."""
        shown = self._id_of_call.get(call, message_id)
        self._id_of_call[call] = message_id
        return [] if shown == message_id else [frame("messages/complete", [removal(shown)])]

    def leave_out(self, voids: Voids) -> Sequence[Frame]:
        """Take out what is void; return the frames that take back the messages of which nothing stands."""
        shown = {message_id for message_id in self._told if self._messages.message(message_id) is not None}
        self._messages.leave_out(voids)
        gone = sorted(message_id for message_id in shown if self._messages.message(message_id) is None)
        return [frame("messages/complete", [removal(message_id)]) for message_id in gone]


def removal(message_id: str) -> dict[str, Any]:
    """LangGraph's `RemoveMessage`, as JSON: it takes back the message with this id."""
    empty: dict[str, Any] = {"content": "", "additional_kwargs": {}, "response_metadata": {}}
    return {**empty, "type": "remove", "name": None, "id": message_id}
