"""A thread's checkpoints as bytes: one coroutine per script, and what is read without one."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from runstream.errors import AttemptFenced, RunstreamError
from runstream.faults import is_away, is_passing, patiently
from runstream.keys import Keys
from runstream.scripts import Argument, Script
from runstream_worker.redis_saver.fence import EventsLost, Fence
from runstream_worker.redis_saver.pieces import Sending
from runstream_worker.redis_saver.rows import Loaded, Place

ScriptName: TypeAlias = Literal[
    "checkpoint_put", "checkpoint_writes", "checkpoint_load", "checkpoint_drop", "checkpoint_copy", "checkpoint_size"
]

SHOULD_BE_THERE = b"?"
_INCLUDE = "--#include _thread.lua\n"


@cache
def load_script(name: ScriptName) -> Script:
    """Read a script from the package, with what it includes."""
    folder = files("runstream_worker") / "lua"
    text = (folder / f"{name}.lua").read_text("utf-8")
    text = text.replace(_INCLUDE, (folder / "_thread.lua").read_text("utf-8"))
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class ValuesMissing(RunstreamError):
    """Channel values of earlier checkpoints are not there any more."""


class Store:
    """The checkpoints of the threads of one cell.

    Every call may be made again after a lost reply, and is, while Redis is away.

    Args:
        redis: a client with `decode_responses=False`.
        keys: the cell's keys.
        ttl: how long a thread is kept after it was last written to, in seconds.
        own_thread_ttl: the same for a thread that has the id of the run which writes to it.
        patience: how long to go on trying while Redis is away, in seconds; None is for ever, and while it is full, too;
            0 is not at all.
    """

    def __init__(self, redis: Redis, keys: Keys, *, ttl: float, own_thread_ttl: float, patience: float | None) -> None:
        # redis-py's types differ from release to release, and say `str` where bytes and numbers go as well.
        self._redis: Any = redis
        self._keys = keys
        self._ttl = round(ttl * 1000)
        self._own_thread_ttl = round(own_thread_ttl * 1000)
        self._patience = patience

    async def ping(self) -> None:
        """Ask for a sign of life, once."""
        await self._redis.ping()

    async def _run(self, name: ScriptName, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        script = load_script(name)

        async def call() -> Any:
            try:
                return await self._redis.evalsha(script.sha, len(keys), *keys, *args)
            except NoScriptError:
                return await self._redis.eval(script.text, len(keys), *keys, *args)

        return await self._patiently(call)

    async def _patiently(self, call: Callable[[], Awaitable[Any]]) -> Any:
        if self._patience == 0:
            return await call()
        return await patiently(call, self._patience, outlasts=is_passing if self._patience is None else is_away)

    def _thread(self, thread_id: str) -> list[str]:
        return [self._keys.checkpoints(thread_id), self._keys.checkpoint_index(thread_id)]

    def _written(self, thread_id: str, fence: Fence | None) -> tuple[list[str], list[Argument]]:
        """The keys and first arguments of a script that writes."""
        keys = [*self._thread(thread_id), self._keys.checkpointed]
        if fence is None:
            return keys, [thread_id, self._ttl, "", ""]
        return [*keys, self._keys.run(fence.run_id)], [
            thread_id,
            self._own_thread_ttl if fence.run_id == thread_id else self._ttl,
            fence.token,
            fence.last_seq,
        ]

    async def put(
        self,
        thread_id: str,
        place: Place,
        row: bytes,
        *,
        values: Mapping[bytes, bytes],
        pieces: Sending,
        fence: Fence | None,
    ) -> None:
        """Write a checkpoint; of the pieces, those that are not there. `SHOULD_BE_THERE` may stand for a value.

        Raises:
            AttemptFenced: the attempt does not hold its run.
            EventsLost: Redis has lost events that come before the checkpoint.
            ValuesMissing: a value that should be there is not.
        """
        keys, head = self._written(thread_id, fence)
        head += [place.name, row, len(values), *_flat(values.items())]
        while True:
            reply = await self._run("checkpoint_put", keys, [*head, *_flat(pieces)])
            if reply[0] != b"missing":
                break
            if not values.keys().isdisjoint(reply[1]):
                raise ValuesMissing
            pieces.add(reply[1])
        _check(reply, fence)

    async def put_writes(
        self, thread_id: str, writes: Iterable[tuple[Literal["set", "add"], bytes, bytes]], fence: Fence | None
    ) -> None:
        """Keep a task's writes: how (in the place of what is there, or beside it), name, and value each.

        Raises:
            AttemptFenced: the attempt does not hold its run.
            EventsLost: Redis has lost events that come before them.
        """
        keys, head = self._written(thread_id, fence)
        _check(await self._run("checkpoint_writes", keys, [*head, *_flat(writes)]), fence)

    async def load(self, thread_id: str, names: Sequence[bytes]) -> list[Loaded]:
        """Read checkpoints with all that belongs to them; those that are not there are left out."""
        if not names:
            return []
        # A run goes on from what it reads here; others may read from a replica.
        of_whom = "master" if self._patience is None else ""
        found = await self._run("checkpoint_load", self._thread(thread_id), [of_whom, *names])
        return [Loaded(*one) for one in found]

    async def names(self, thread_id: str, namespace: str, *, before: str | None, limit: int) -> list[bytes]:
        """The names of a namespace's checkpoints, the newest first, from before that of this id."""
        index = self._keys.checkpoint_index(thread_id)
        above = b"(" + (Place(namespace, before).name if before else f"c{namespace}\1".encode())
        below = b"[" + Place(namespace, "").name
        return list(await self._patiently(lambda: self._redis.zrevrangebylex(index, above, below, start=0, num=limit)))

    async def all_names(self, thread_id: str) -> list[bytes]:
        """The names of the checkpoints of all namespaces."""
        index = self._keys.checkpoint_index(thread_id)
        return list(await self._patiently(lambda: self._redis.zrangebylex(index, "[c", "(d")))

    async def all_write_names(self, thread_id: str) -> list[bytes]:
        """The names of the writes at all checkpoints."""
        index = self._keys.checkpoint_index(thread_id)
        return list(await self._patiently(lambda: self._redis.zrangebylex(index, "[w", "(x")))

    async def remove_writes(self, thread_id: str, names: Sequence[bytes]) -> None:
        """Remove writes, and leave the checkpoints that they belong to."""

        async def call() -> None:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hdel(self._keys.checkpoints(thread_id), *names)
                # Without `z` the size is counted anew.
                pipe.zrem(self._keys.checkpoint_index(thread_id), "z", *names)
                await pipe.execute()

        await self._patiently(call)

    async def rows(self, thread_id: str, names: Sequence[bytes]) -> dict[bytes, bytes]:
        """The rows of checkpoints, without their values, or of writes; those that are not there are left out."""
        if not names:
            return {}
        rows = await self._patiently(lambda: self._redis.hmget(self._keys.checkpoints(thread_id), list(names)))
        return {name: row for name, row in zip(names, rows, strict=True) if row is not None}

    async def has(self, thread_id: str, name: bytes) -> bool:
        """Tell whether a checkpoint or a write is there."""
        key = self._keys.checkpoints(thread_id)
        return bool(await self._patiently(lambda: self._redis.hexists(key, name)))

    async def threads(self) -> list[str]:
        """All threads that have checkpoints, the one that was written to last first."""
        found = await self._patiently(lambda: self._redis.zrevrange(self._keys.checkpointed, 0, -1))
        return [thread_id.decode() for thread_id in found]

    async def drop(self, thread_id: str, names: Sequence[bytes]) -> None:
        """Remove checkpoints, and what only they needed."""
        keys = [*self._thread(thread_id), self._keys.checkpointed]
        await self._run("checkpoint_drop", keys, [thread_id, *names])

    async def delete(self, thread_id: str) -> None:
        """Remove a thread."""

        async def call() -> None:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.unlink(*self._thread(thread_id))
                pipe.zrem(self._keys.checkpointed, thread_id)
                await pipe.execute()

        await self._patiently(call)

    async def size(self, thread_id: str) -> int:
        """How many bytes a thread's checkpoints take; 0 where there are none."""
        return int(await self._run("checkpoint_size", self._thread(thread_id), []))

    async def copy(self, source: str, target: str) -> None:
        """Copy a thread's checkpoints to another thread."""
        keys = [*self._thread(target), self._keys.checkpointed, *self._thread(source)]
        await self._run("checkpoint_copy", keys, [target, self._ttl])


def _flat(groups: Iterable[tuple[Any, ...]]) -> list[Any]:
    return [part for group in groups for part in group]


def _check(reply: Sequence[bytes], fence: Fence | None) -> None:
    if reply[0] == b"lost" and fence is not None:
        raise AttemptFenced(fence.run_id, fence.attempt)
    if reply[0] == b"behind":
        raise EventsLost(int(reply[1]))
