"""One of the demo's readers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from runstream.cli.terminal import printable
from runstream.client import Client
from runstream.fold import Fold
from runstream.model import Event, EventId
from runstream.spoken import Retraction, SpokenText
from runstream.text import text_of, text_of_message
from runstream.voids import Voids
from runstream_worker.commands.demo.screen import Screen


class Reader:
    """Tails the run from its first event, with a client of its own, as another process would.

    Attributes:
        label: what it is called on the screen.
        events: what it has seen.
        fold: what stands of that.
        text: what the model has said, as far as it stands; put together from pieces.
        attempts: when each attempt's event came, by `time.monotonic`.
        workers: who has had the run, one for each attempt.
        pieces: how many of the events were text of the model.
        pieces_of_step: how many of the task that spoke last.
        void_pieces: how many have become void.
        first_text_at: when the first of them came.
        is_done: whether nothing more will come.
    """

    def __init__(self, label: str, screen: Screen) -> None:
        self.label = label
        self.events: list[Event] = []
        self.fold = Fold()
        self.text = ""
        self.attempts: list[float] = []
        self.workers: list[str] = []
        self.pieces = 0
        self.pieces_of_step = 0
        self.void_pieces = 0
        self.first_text_at: float | None = None
        self.is_done = False
        self._spoken = SpokenText()
        self._by_task: Counter[str | None] = Counter()
        self._news = asyncio.Event()
        self._screen = screen

    async def read(self, client: Client, run_id: str) -> None:
        """Read until the run's end."""
        try:
            async with client:
                async for event in client.tail(run_id):
                    self._take(event)
                    self._news.set()
        finally:
            self.is_done = True
            self._news.set()

    async def until(self, fact: Callable[[Reader], bool]) -> None:
        """Wait until something is so, or nothing more will come."""
        while not (fact(self) or self.is_done):
            self._news.clear()
            await self._news.wait()

    def _take(self, event: Event) -> None:
        if event.mode == "attempt":
            self._begin_attempt(event)
        elif text_of(event):
            self._count(event)
        self.events.append(event)
        if (piece := self._spoken.apply(event)) is not None:
            self.text = piece.text if isinstance(piece, Retraction) else self.text + piece
        if "messages" in self.fold.apply(event):
            self._screen.show(self.label, printable("\n".join(_shown(self.fold.messages))))

    def _count(self, event: Event) -> None:
        self.first_text_at = self.first_text_at or time.monotonic()
        self.pieces += 1
        self._by_task[event.task] += 1
        self.pieces_of_step = self._by_task[event.task]

    def _begin_attempt(self, event: Event) -> None:
        self.attempts.append(time.monotonic())
        self.workers.append(event.data["worker"])
        self.pieces_of_step = 0
        self._by_task.clear()
        if EventId.of(event.id).attempt > 1:
            void = _void_pieces(self.events, Voids.of(event))
            self.void_pieces += void
            self._screen.tell(self.label, printable(_taken_over(event, self.workers, void)))


def _void_pieces(events: Sequence[Event], voids: Voids | None) -> int:
    return 0 if voids is None else sum(voids.covers(event) and bool(text_of(event)) for event in events)


def _taken_over(event: Event, workers: Sequence[str], void: int) -> str:
    """What a reader learns of a take-over; all of it is in the attempt event."""
    killed, following = workers[-2:]
    tokens = {0: "no token is", 1: "1 token is"}.get(void, f"{void} tokens are")
    return f"worker {killed} was killed: {tokens} void. Worker {following} {_goes_on(event.data)}"


def _goes_on(told: dict[str, Any]) -> str:
    if not told["checkpoint"]:
        return "starts over."
    steps = sorted({task["name"] for task in told["voids"].get("tasks", ())})
    at = f", at step {' and '.join(steps)}" if steps else ""
    return f"goes on from checkpoint {told['checkpoint'].partition('-')[0]}{at}."


def _shown(messages: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What is shown of messages: what the model says, and the tools that it calls once it has said which."""
    for message in messages:
        if not message["type"].startswith(("ai", "AI")):
            continue
        if text := text_of_message(message):
            yield text
        if message["type"] == "ai" and (calls := message.get("tool_calls")):
            yield f"[calls {', '.join(map(_call, calls))}]"


def _call(call: dict[str, Any]) -> str:
    return f"{call['name']}({', '.join(map(str, call['args'].values()))})"
