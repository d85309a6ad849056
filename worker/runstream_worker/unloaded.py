"""Graphs that a worker could not load: their runs fail with the reason, unless another worker has them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from runstream.records import Records
from runstream_worker.graphs import GraphSource


def loaded(graphs: Mapping[str, GraphSource]) -> list[str]:
    """Return the names of those that could be loaded."""
    return [name for name, source in graphs.items() if source.problem is None]


class Orphans:
    """The graphs that this worker could not load and that no live worker has.

    A run that waits for one of them would wait for nothing, so this worker takes it and ends it with the reason. While
    a deployment rolls out, or where one host lacks a package, others have the graph, and its runs are left to them.

    Args:
        graphs: the worker's, by name.
        records: what the live workers say of themselves.
        every: how often to look, in seconds.
    """

    def __init__(self, graphs: Mapping[str, GraphSource], records: Records, *, every: float) -> None:
        self._unloaded = [name for name, source in graphs.items() if source.problem is not None]
        self._records = records
        self._every = every
        self._look_at = 0.0
        self._names: list[str] = []

    async def names(self) -> Sequence[str]:
        """Return their names.

        Raises:
            redis.exceptions.RedisError: Redis does not answer.
        """
        if self._unloaded and time.monotonic() >= self._look_at:
            workers = await self._records.workers()
            elsewhere = {name for worker in workers for name in worker.graphs}
            self._names = [name for name in self._unloaded if name not in elsewhere]
            self._look_at = time.monotonic() + self._every
        return self._names
