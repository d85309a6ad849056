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

from runstream.scripts import Hold

_holder: ContextVar[Fence | None] = ContextVar("runstream_fence", default=None)


class Fence(NamedTuple):
    """An attempt, which may write as long as it holds its run."""

    run_id: str
    attempt: int
    worker_id: str

    @classmethod
    def of(cls, hold: Hold) -> Fence:
        """The fence of a run's holder."""
        return cls(*hold)

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
