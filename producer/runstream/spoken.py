"""The text of a run, piece by piece, for readers who show it: what a take-over has made void is taken back."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Self

from runstream.merging import Rope
from runstream.model import Event
from runstream.sources import Sources
from runstream.text import is_spoken, text_of_message
from runstream.voids import Voids


class Part(NamedTuple):
    """Text of one message; its id is None where the model gave it none."""

    message_id: str | None
    text: str


class Text(str):
    """A further piece of a run's text.

    Attributes:
        event_id: the id of the event that it comes from: what to pass as `after` to go on behind it.
        parts: the same text by messages, for who shows them apart: one.
    """

    __slots__ = ("event_id", "parts")
    event_id: str
    parts: Sequence[Part]
    replaces: ClassVar[Literal[False]] = False

    def __new__(cls, parts: Sequence[Part], event_id: str) -> Self:
        """Make a piece."""
        piece = super().__new__(cls, _joined(parts))
        piece.event_id = event_id
        piece.parts = parts
        return piece


@dataclass(frozen=True)
class Retraction:
    """The pieces so far are retracted: a take-over has made some of them void. It is no `str`, so no piece of text.

    Attributes:
        parts: the text of the run that stands, by messages; it takes the place of all pieces before, and may be empty.
        event_id: the id of the event that it comes from: what to pass as `after` to go on behind it.
    """

    parts: Sequence[Part]
    event_id: str
    replaces: ClassVar[Literal[True]] = True

    @property
    def text(self) -> str:
        """The whole text of the run that stands."""
        return _joined(self.parts)


def _joined(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts)


class SpokenText:
    """Makes pieces of a run's events, fed in their order from the start.

    A `Retraction` takes back what is void and replaces all pieces before it. In it, the text of each message is in one
    stretch, where it may have come in turns with that of another.

    Args:
        nodes: only text of these nodes; of all when left out.
        ns: only text of these namespaces, as in `Client.text`.
        settled: whether the events are settled ones, so that nothing is ever taken back.
    """

    def __init__(
        self, nodes: Container[str] | None = None, *, ns: str | Iterable[str] | None = None, settled: bool = False
    ) -> None:
        self._sources = Sources.of(nodes, ns)
        self._settled = settled
        self._stretches: list[_Stretch] = []
        self._growing: dict[tuple[str | None, str | None], _Stretch] = {}
        # The first id of each call, and what other ids its chunks came under.
        self._id_of_call: dict[str, str | None] = {}
        self._first_ids: dict[str, str | None] = {}

    def apply(self, event: Event) -> Text | Retraction | None:
        """The piece that an event brings; None where it brings none."""
        if voids := Voids.of(event):
            return self._leave_out(voids, event.id)
        if not is_spoken(event, self._sources):
            return None
        message = event.data[0]
        text = text_of_message(message)
        if message["type"] == "ai":
            return self._take_whole(event, text)
        message_id = self._id_of(event)
        if not text:
            return None
        growing = self._growing.get((message_id, event.task))
        if growing is None:
            self._begin(event, message_id, text)
        else:
            growing.text.add(text)
        return Text([Part(message_id, text)], event.id)

    def tell_all(self, event_id: str) -> Retraction:
        """All that stands, in the place of whatever a reader has."""
        return Retraction(self._standing(), event_id)

    def _id_of(self, event: Event) -> str | None:
        """The id of an event's message: of the chunks of one call, the first that any of them had."""
        message_id: str | None = event.data[0].get("id")
        if event.call is not None:
            first = self._id_of_call.setdefault(event.call, message_id)
            if message_id is not None and message_id != first:
                self._first_ids[message_id] = first
            return first
        return None if message_id is None else self._first_ids.get(message_id, message_id)

    def _begin(self, event: Event, message_id: str | None, text: str, *, whole: bool = False) -> None:
        stretch = _Stretch(event, message_id, text, whole=whole)
        self._stretches.append(stretch)
        if message_id is not None and event.task is not None and not whole:
            self._growing[message_id, event.task] = stretch

    def _take_whole(self, event: Event, text: str) -> Text | Retraction | None:
        """Take a message that is no chunk: it takes the place of what came of it before, or adds what is missing."""
        message_id = self._id_of(event)
        known = _joined(self._standing(message_id)) if message_id is not None else ""
        self._growing = {key: stretch for key, stretch in self._growing.items() if key[0] != message_id}
        self._begin(event, message_id, text, whole=True)
        if not text.startswith(known):
            # A node has rewritten what it had streamed. Where nothing can be taken back, that is more to say.
            return Text([Part(message_id, text)], event.id) if self._settled else self.tell_all(event.id)
        return Text([Part(message_id, text[len(known) :])], event.id) if len(text) > len(known) else None

    def _leave_out(self, voids: Voids, event_id: str) -> Retraction | None:
        before = _joined(self._standing())
        self._stretches = [
            one for one in self._stretches if not voids.covers_source(one.task, one.event_id, one.first_id)
        ]
        left = set(self._stretches)
        self._growing = {key: stretch for key, stretch in self._growing.items() if stretch in left}
        after = self.tell_all(event_id)
        return after if after.text != before and not self._settled else None

    def _standing(self, message_id: str | None = None) -> list[Part]:
        """The text that stands, of one message or of all."""
        texts: dict[str | _Stretch, list[str]] = {}
        for stretch in self._stretches:
            if message_id is None or stretch.message_id == message_id:
                of_message = texts.setdefault(stretch.message_id or stretch, [])
                if stretch.whole:
                    of_message.clear()
                of_message.append(str(stretch.text))
        ids = ((None if isinstance(key, _Stretch) else key, of_message) for key, of_message in texts.items())
        return [Part(id_, "".join(of_message)) for id_, of_message in ids]


class _Stretch:
    """Text of one message that becomes void at once: a task's, or an event's."""

    __slots__ = ("event_id", "first_id", "message_id", "task", "text", "whole")

    def __init__(self, event: Event, message_id: str | None, text: str, *, whole: bool) -> None:
        self.task = event.task
        self.event_id = event.id if whole or event.task is None else None
        self.first_id = event.id
        self.message_id = message_id
        self.text = Rope(text)
        self.whole = whole
