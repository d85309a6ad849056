"""Messages that a take-over has made void. LangGraph takes a message back by another one, of the type `remove`."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from runstream import Client, Event, EventId, Voids
from runstream.tasks import cancel
from runstream_gateway.frames import Frame, frame
from runstream_gateway.translate import removal

_MOST_KEPT = 256
_Key = tuple[tuple[str, ...], str]
"""A message: the namespace that it came in, and its id."""
_Sources = dict[str, tuple[str | None, str | None]]
"""Where chunks of a message come from: the task and, where there is none, the event's id; by the first event's id."""


class VoidMessages:
    """Finds the messages of which nothing stands behind a later attempt's event.

    A reader that came back has not seen all events, so the stream is read from its start: once for all readers of the
    process, since a take-over is rare.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tasks: OrderedDict[tuple[str, str], asyncio.Task[Sequence[Frame]]] = OrderedDict()

    async def frames(self, run_id: str, event: Event) -> Sequence[Frame]:
        """The frames with which a reader that adds up chunks of messages takes back what an attempt's event voids.

        Raises:
            RunNotFound: the run has gone.
            redis.exceptions.RedisError: Redis was away for too long.
        """
        key = (run_id, event.id)
        task = self._tasks.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._tasks[key] = asyncio.create_task(self._find(run_id, event), name="runstream-void-messages")
            while len(self._tasks) > _MOST_KEPT:
                self._tasks.popitem(last=False)
        # One reader that leaves does not end what the others wait for.
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Give up what is still being read."""
        await cancel(self._tasks.values())

    async def _find(self, run_id: str, event: Event) -> Sequence[Frame]:
        voids, at = Voids.of(event), EventId.of(event.id)
        if voids is None:
            return ()
        standing: dict[_Key, _Sources] = {}
        metadata: dict[_Key, Any] = {}
        async with self._client.tail(run_id) as events:
            async for one in events:
                if EventId.of(one.id) >= at:
                    break
                if earlier := Voids.of(one):
                    standing = {key: left for key, sources in standing.items() if (left := _left(sources, earlier))}
                elif one.mode == "messages":
                    _add(standing, one)
                    metadata.setdefault((one.ns, one.data[0].get("id")), one.data[1])
        return [_frame(*key, metadata[key]) for key, sources in standing.items() if not _left(sources, voids)]


def _add(standing: dict[_Key, _Sources], event: Event) -> None:
    message_id = event.data[0].get("id")
    if message_id is None or event.data[0].get("type") == "remove":
        return
    sources = standing.setdefault((event.ns, message_id), {})
    if event.task is None:
        sources[event.id] = (None, event.id)
    elif all(task != event.task for task, _ in sources.values()):
        sources[event.id] = (event.task, None)


def _left(sources: _Sources, voids: Voids) -> _Sources:
    return {
        first_id: (task, event_id)
        for first_id, (task, event_id) in sources.items()
        if not voids.covers_source(task, event_id, first_id)
    }


def _frame(ns: tuple[str, ...], message_id: str, metadata: Any) -> Frame:
    return frame("|".join(("messages", *ns)), [removal(message_id), metadata])
