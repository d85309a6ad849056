"""Which attempt of which run the code that writes a checkpoint belongs to.

It is a context variable: Python hands those down to tasks, and LangGraph to the threads of synchronous nodes, so that
subgraphs have it, and graphs that a node calls on threads of their own. The graph's config would not reach the latter:
a `configurable` that is given replaces the one around it. And a config is shown, in streams and in snapshots.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from runstream.errors import RunstreamError
from runstream.scripts import Hold

_holder: ContextVar[Fence | None] = ContextVar("runstream_fence", default=None)


class EventsLost(RunstreamError):
    """Redis has come back with less than it had acknowledged, and lacks events that come before what was to be saved.

    Attributes:
        last_seq: the sequence number of the attempt's last event that it knows.
    """

    def __init__(self, last_seq: int) -> None:
        super().__init__(f"Redis knows the attempt's events up to {last_seq} only")
        self.last_seq = last_seq


class Fence(NamedTuple):
    """An attempt, which may write as long as it holds its run.

    Attributes:
        run_id: the run.
        attempt: its number.
        worker_id: who executes it.
        last_seq: the sequence number of an event that Redis must have before the attempt writes; -1 for none.
    """

    run_id: str
    attempt: int
    worker_id: str
    last_seq: int = -1

    @classmethod
    def of(cls, hold: Hold, last_seq: int = -1) -> Fence:
        """The fence of a run's holder."""
        return cls(*hold, last_seq)

    @property
    def token(self) -> str:
        """What the scripts compare with the run's record."""
        return f"{self.attempt}:{self.worker_id}"

    @contextmanager
    def around(self) -> Iterator[None]:
        """What is written from within the block is this attempt's."""
        token = _holder.set(self)
        try:
            yield
        finally:
            _holder.reset(token)

    @staticmethod
    def here() -> Fence | None:
        """The fence around the code that calls; None outside of a run."""
        return _holder.get()
