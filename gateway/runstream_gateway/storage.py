"""What a caller may keep in Redis: counted before it is written, for all gateways together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from redis.exceptions import RedisError

from runstream.usage import Full, Item, Kind, Usage, owner_subject
from runstream_gateway.auth.caller import Caller, Limits
from runstream_gateway.errors import ApiError

_log = logging.getLogger(__name__)

DEFAULT_BYTES: Final = 16 * 1024**3
"""What a caller may keep where Redis says nothing of its own limit; else half of that."""
STORAGE_LIMITS: Final = Limits(
    stored_bytes=DEFAULT_BYTES,
    thread_bytes=256 * 1024**2,
    threads=1_000_000,
    assistants=100_000,
    kept_runs=1_000_000,
    webhooks=100_000,
)

_MEASURED_EVERY: Final = 10.0
_MOST_REMEMBERED: Final = 10_000
_LIMIT_OF: Final = {"thread": "threads", "assistant": "assistants", "run": "kept_runs", "webhook": "webhooks"}
_WORDS: Final = {
    "thread": ("threads are kept", "delete threads (POST /threads/prune)"),
    "assistant": ("assistants are kept", "delete assistants"),
    "run": ("runs are kept", "delete runs, or wait until they expire"),
    "webhook": ("webhooks have not been taken yet", "wait until they have"),
    "bytes": ("bytes are stored", "delete threads, runs or assistants"),
}


class Storage:
    """Holds callers to what they may keep.

    Args:
        usage: counts it.
        ttl: for how long threads are kept, in seconds.
        assistant_ttl: the same for assistants.
    """

    def __init__(self, usage: Usage, *, ttl: float, assistant_ttl: float) -> None:
        self._usage = usage
        self._ttl = {"assistant": assistant_ttl}
        self._default_ttl = ttl
        self._measured: OrderedDict[str, float] = OrderedDict()
        self._measuring: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def adding(self, caller: Caller, *sizes: tuple[Kind, str, int]) -> AsyncIterator[None]:
        """Count things that are written in the block; if that fails, they have not been.

        Args:
            caller: who keeps them.
            sizes: kind, id, and how many bytes are to come.

        Raises:
            ApiError: 403, the caller keeps too much.
        """
        items = [_item(caller.limits, *size) for size in sizes]
        if not items or _is_unlimited(caller.limits):
            yield
            return
        subject = owner_subject(caller.identity)
        await self._add(subject, caller.limits, items)
        try:
            yield
        except BaseException:
            await self._take_back(subject, items)
            raise

    async def removed(self, caller: Caller, kind: Kind, item_id: str) -> None:
        """Count a thing no more that has been removed."""
        if not _is_unlimited(caller.limits):
            await self._usage.forget(owner_subject(caller.identity), [Item(kind, item_id)])

    async def shrunk(self, caller: Caller, kind: Kind, item_id: str) -> None:
        """Measure a thing of which a part has been removed."""
        if not _is_unlimited(caller.limits):
            items = [Item(kind, item_id)]
            await self._usage.look(owner_subject(caller.identity), items, ttl=self._ttl_of(items))

    async def _take_back(self, subject: str, items: Sequence[Item]) -> None:
        """Count as it is what was to be written: what was there before stays."""
        try:
            await self._usage.forget(subject, items)
            await self._usage.look(subject, items, ttl=self._ttl_of(items))
        except RedisError as error:
            _log.warning("what was not written counts for a minute: %s", error)

    async def _add(self, subject: str, limits: Limits, items: Sequence[Item]) -> None:
        full = await self._try(subject, limits, items)
        if full is None:
            return
        if full.what != "size" and await self._measure(subject):
            full = await self._try(subject, limits, items)
        if full is not None:
            raise _refusal(full)

    async def _try(self, subject: str, limits: Limits, items: Sequence[Item]) -> Full | None:
        ttl = self._ttl_of(items)
        return await self._usage.add(subject, items, most_bytes=limits.stored_bytes, ttl=ttl)

    def _ttl_of(self, items: Sequence[Item]) -> float:
        return max(self._ttl.get(item.kind, self._default_ttl) for item in items)

    async def _measure(self, subject: str) -> bool:
        """Measure all that a caller keeps, unless that was done a moment ago; return whether it was done."""
        asked = time.monotonic()
        async with self._measuring.setdefault(subject, asyncio.Lock()):
            measured = self._measured.get(subject, -_MEASURED_EVERY)
            if measured > asked:
                return True
            if asked - measured < _MEASURED_EVERY:
                return False
            try:
                await self._usage.measure(subject)
                self._measured[subject] = time.monotonic()
                self._measured.move_to_end(subject)
                while len(self._measured) > _MOST_REMEMBERED:
                    self._measuring.pop(self._measured.popitem(last=False)[0], None)
            except BaseException:
                if subject not in self._measured:
                    self._measuring.pop(subject, None)
                raise
        return True


def _item(limits: Limits, kind: Kind, item_id: str, more: int) -> Item:
    largest = limits.thread_bytes if kind == "thread" else None
    return Item(kind, item_id, more, getattr(limits, _LIMIT_OF[kind]), largest)


def _is_unlimited(limits: Limits) -> bool:
    return all(
        limit is None
        for limit in (
            limits.stored_bytes,
            limits.thread_bytes,
            limits.threads,
            limits.assistants,
            limits.kept_runs,
            limits.webhooks,
        )
    )


def _refusal(full: Full) -> ApiError:
    if full.what == "size":
        return ApiError(
            403,
            f"thread_bytes: the thread would have {full.use:,} bytes, and may have {full.most:,}; remove its older "
            "states (POST /threads/prune with keep_latest), or go on in a new thread",
        )
    name = _LIMIT_OF.get(full.what, "stored_bytes")
    what, do = _WORDS[full.what]
    return ApiError(403, f"{name}: {full.use:,} {what}, and this caller may have {full.most:,}; {do}")
