"""A run's state from its events: for whoever shows a run while it goes on.

    fold = Fold()
    async for event in client.tail(run_id):
        if "messages" in fold.apply(event):
            show(fold.messages)

Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from runstream.messages import Messages, is_removal
from runstream.model import ErrorInfo, Event, EventId, Status
from runstream.sources import Sources
from runstream.voids import Voids, stands_behind

Changed: TypeAlias = Literal["status", "messages", "values", "interrupts"]

_NOTHING: Final[frozenset[Changed]] = frozenset()
_STATUS: Final[frozenset[Changed]] = frozenset({"status"})
_MESSAGES: Final[frozenset[Changed]] = frozenset({"messages"})
_VALUES: Final[frozenset[Changed]] = frozenset({"values"})
_INTERRUPTS: Final[frozenset[Changed]] = frozenset({"interrupts"})


class _Kept(NamedTuple):
    """Something that an event told, and what makes it void."""

    task: str | None
    event_id: str
    value: Any


class Fold:
    """Folds the events of a run, in their order, into what stands.

    What a later attempt voids is left out again: after any event, everything here is as if what is void had never been
    published. The events are those of `Client.tail` from the start. Fed from the middle, it has what came from there
    on: a message that had begun lacks its beginning, and `complete` is False.

    It keeps the values of every step, since any of them may turn out to be void; who does not need them may leave out
    the events of the mode `values`, as those of any mode but `attempt` and `gap`.

    Args:
        nodes: only messages of these nodes (`langgraph_node` of their metadata); all when left out.
        ns: only messages of these namespaces, as in `Client.messages`.

    Attributes:
        status: `queued` before the first event, `running` after an attempt has begun, then the run's end.
        attempt: the number of the last attempt that has begun.
        error: of the ends that are failures.
        reason: why the run was stopped, where somebody said it.
        voided: how many events have been left out.
        complete: whether nothing is missing; False once there was a gap, or if it was not fed from the start.
    """

    def __init__(self, nodes: Container[str] | None = None, *, ns: str | Iterable[str] | None = None) -> None:
        self.status = Status.QUEUED
        self.attempt = 0
        self.error: ErrorInfo | None = None
        self.reason: str | None = None
        self.voided = 0
        self.complete = True
        self._sources = Sources.of(nodes, ns)
        self._has_begun = False
        self._messages = Messages()
        self._values: list[_Kept] = []
        self._interrupts: list[_Kept] = []

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages, in the order in which they appeared, as LangChain's `model_dump()` gives them.

        A streamed message is the sum of its chunks, as LangChain adds them; its type is `AIMessageChunk` until its last
        chunk has come or the run has ended, and `ai` then. A message that comes whole replaces what there was of it.
        What a `RemoveMessage` names is left out: one message, or all of its graph and the graphs below. Read them, do
        not change them; those that do not change stay the same objects.
        """
        return self._messages.tell()

    @property
    def values(self) -> Any:
        """The last values of the graph itself; None before there are any, or if the run does not stream `values`."""
        return self._values[-1].value if self._values else None

    @property
    def interrupts(self) -> list[dict[str, Any]]:
        """What the run asks for (`value`, `id`), as far as it streams `updates` or `values`."""
        by_id: dict[Any, dict[str, Any]] = {}
        for kept in self._interrupts:
            for interrupt in kept.value:
                by_id.setdefault(interrupt.get("id"), interrupt)
        return list(by_id.values())

    def metadata_of(self, message_id: str) -> dict[str, Any] | None:
        """What LangGraph says of a message, `langgraph_node` for one; None where there is no such message."""
        return self._messages.metadata_of(message_id)

    def apply(self, event: Event) -> frozenset[Changed]:
        """Take the next event.

        Returns:
            Which of `messages`, `values`, `interrupts` are not as they were; `status` stands for it and what else
            attempts and ends tell.
        """
        if not self._has_begun:
            self._has_begun = True
            self.complete = stands_behind(event) == (0, 0)
        match event.mode:
            case "messages":
                return self._add_message(event)
            case "values" | "updates":
                return self._add_values(event) if not event.ns else _NOTHING
            case "attempt":
                return self._begin_attempt(event)
            case "end":
                return self._end(event)
            case "gap":
                self.complete = False
        return _NOTHING

    def _add_message(self, event: Event) -> frozenset[Changed]:
        if not self._is_wanted(event):
            return _NOTHING
        self._messages.add(event)
        return _MESSAGES

    def _is_wanted(self, event: Event) -> bool:
        message = event.data[0]
        if is_removal(message) or (message.get("id") is not None and self._messages.knows(message["id"])):
            # Any node may remove a message, or put it back.
            return True
        return self._sources.have(event)

    def _add_values(self, event: Event) -> frozenset[Changed]:
        changed = _NOTHING
        if event.mode == "values":
            self._values.append(_Kept(event.task, event.id, event.data))
            changed |= _VALUES
        if interrupts := list(_interrupts_of(event)):
            self._interrupts.append(_Kept(event.task, event.id, interrupts))
            changed |= _INTERRUPTS
        return changed

    def _begin_attempt(self, event: Event) -> frozenset[Changed]:
        self.status, self.attempt = Status.RUNNING, EventId.of(event.id).attempt
        return _STATUS | self._leave_out(Voids.of(event))

    def _leave_out(self, voids: Voids | None) -> frozenset[Changed]:
        if voids is None:
            return _NOTHING
        self.voided += voids.count
        # What came before a place that is missing is void, and so is what is missing.
        self.complete = self.complete or voids.everything
        changed = _MESSAGES if self._messages.leave_out(voids) else _NOTHING
        for told, what in ((self._values, _VALUES), (self._interrupts, _INTERRUPTS)):
            kept = [one for one in told if not voids.covers_source(one.task, one.event_id, one.event_id)]
            if len(kept) < len(told):
                told[:] = kept
                changed |= what
        return changed

    def _end(self, event: Event) -> frozenset[Changed]:
        told = event.data
        self.status = Status(told["status"])
        self.error = ErrorInfo.model_validate(told["error"]) if "error" in told else None
        self.reason = told.get("reason")
        changed = _STATUS | self._leave_out(Voids.of(event))
        return changed | _MESSAGES if self._messages.end() else changed


def _interrupts_of(event: Event) -> Iterator[dict[str, Any]]:
    """The interrupts that an event tells: beside the values, among them, or as an update."""
    among = event.data.get("__interrupt__") if isinstance(event.data, dict) else None
    for interrupt in (*(event.interrupts or ()), *(among or ())):
        if isinstance(interrupt, dict):
            yield interrupt
