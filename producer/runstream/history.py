"""What one reader has been given of a run, as far as it takes to notice that Redis has lost it.

A Redis that comes back with less than it had acknowledged may go on differently under the same ids. The reader notices
by the worker of an attempt, since a worker uses no number twice. Where the stream names another worker than the reader
was given, or stands behind an event that the reader was not given, the reader reads that attempt again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from runstream.model import Event, EventId
from runstream.voids import Voids, stands_behind

_LAST_SEQ = 2**64 - 1
_TASKS_KEPT = 1024


@dataclass(slots=True)
class _Given:
    """What a reader was given of one attempt: its worker, None where its first event was not given, and how far."""

    worker: str | None
    last: int


@dataclass(frozen=True, slots=True)
class Place:
    """How far a run has got, as its record says.

    Attributes:
        last: the id of its last event.
        end: the id of its end event, once it has ended.
        attempt: the number of its last attempt.
        worker: the worker of that attempt.
        is_running: whether that worker is at work.
    """

    last: EventId
    end: EventId | None
    attempt: int = 0
    worker: str | None = None
    is_running: bool = False


class History:
    """The attempts that a reader was given events of. Logic only: the reader feeds it and does the I/O.

    Args:
        after: the event behind which the reader begins; nothing else is known of what it was given.
    """

    def __init__(self, after: EventId | None = None) -> None:
        self._attempts: dict[int, _Given] = {}
        # Of each task that has published chunks of messages, the first and the last of them.
        self._tasks: OrderedDict[str, tuple[EventId, EventId]] = OrderedDict()
        self._cause: tuple[str, object] | None = None
        if after is not None and after > (0, 0):
            self._attempts[after.attempt] = _Given(None, after.seq)

    @property
    def last(self) -> EventId:
        """The highest id that the reader was given; 0-0 for none."""
        latest = max(self._attempts, default=0)
        return EventId(latest, self._attempts[latest].last) if latest else EventId(0, 0)

    def take(self, event: Event) -> None:
        """Note an event that the reader is given."""
        here = EventId.of(event.id)
        follows = stands_behind(event)
        if follows is not None:
            self._forget_behind(follows)
        if event.mode == "attempt":
            self._attempts[here.attempt] = _Given(event.data.get("worker"), here.seq)
        else:
            self._attempts.setdefault(here.attempt, _Given(None, here.seq)).last = here.seq
        if event.mode == "messages" and event.task is not None:
            first, _ = self._tasks.get(event.task, (here, here))
            self._tasks[event.task] = (first, here)
            if len(self._tasks) > _TASKS_KEPT:
                self._tasks.popitem(last=False)

    def lost_from(self, event: Event) -> int | None:
        """Return the attempt from which on the reader was given something else than what the stream has.

        None where what it was given and the event that comes now are of one history.
        """
        here = EventId.of(event.id)
        follows = stands_behind(event)
        if follows is not None:
            lost, cause = self._lost_before(event, follows), (event.id, event.data.get("after_worker"))
        elif event.mode == "end":
            worker = event.data.get("worker")
            lost, cause = here.attempt if self._is_others(here.attempt, worker) else None, (event.id, worker)
        else:
            return None
        if lost is None or cause == self._cause:
            # What has been read again and says the same is how the stream is.
            return None
        self._cause = cause
        return lost

    def lost_by(self, place: Place) -> int | None:
        """The same for a record that says how far the run has got, when nothing more comes from the stream."""
        latest = max(self._attempts, default=0)
        if latest == 0 or self._attempts[latest].worker is None:
            # Of a reader that began at an id, or of one that was given nothing, it cannot be told.
            return None
        if place.end is not None:
            return place.end.attempt if self.last >= place.end else None
        if not place.is_running:
            # Before the next attempt begins, Redis may get back what it has lost.
            return None
        if place.attempt < latest:
            return place.last.attempt or None
        return latest if place.attempt == latest and self._is_others(latest, place.worker) else None

    def read_again(self, attempt: int) -> EventId:
        """Forget this attempt and those behind it; return the id behind which the reader goes on."""
        self._forget_behind(EventId(attempt - 1, _LAST_SEQ))
        return EventId(attempt - 1, _LAST_SEQ)

    def _lost_before(self, event: Event, follows: EventId) -> int | None:
        """The same for the first event of an attempt, which stands behind another event."""
        if not self._attempts or follows.attempt == 0:
            return None
        latest, given = max(self._attempts), self._attempts.get(follows.attempt)
        if given is None:
            lost = follows.attempt < latest
        else:
            lacks = follows.attempt < latest and given.last < follows.seq
            is_others = self._is_others(follows.attempt, event.data.get("after_worker"))
            lost = is_others or lacks or self._breaks_a_message(follows, event)
        return follows.attempt if lost else None

    def _is_others(self, attempt: int, worker: object) -> bool:
        given = self._attempts.get(attempt)
        return given is not None and given.worker is not None and bool(worker) and worker != given.worker

    def _breaks_a_message(self, follows: EventId, event: Event) -> bool:
        """Whether the stream has lost the rest of a message that stands: the attempt publishes that rest again."""
        voids = Voids.of(event)
        gone = frozenset[str]() if voids is None else voids.tasks
        everything = voids is not None and voids.everything
        return not everything and any(
            first <= follows < last and task not in gone for task, (first, last) in self._tasks.items()
        )

    def _forget_behind(self, place: EventId) -> None:
        self._attempts = {number: given for number, given in self._attempts.items() if number <= place.attempt}
        if place.attempt in self._attempts:
            self._attempts[place.attempt].last = min(self._attempts[place.attempt].last, place.seq)
        self._tasks = OrderedDict(
            (task, (first, min(last, place))) for task, (first, last) in self._tasks.items() if first <= place
        )
