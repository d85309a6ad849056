"""What owners keep: threads, assistants, runs and webhooks, and their bytes.

A writer adds a thing here before it writes it. The comparison with the limit is in the same step, so requests at the
same time cannot pass a limit together. What a thing takes is measured: with each addition two of the known things are,
and where there is no room, all of them. So what has grown, expired or gone is counted as it is, and what a process had
reserved that was killed lapses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

from redis.exceptions import RedisError

from runstream.keys import Keys
from runstream.missing import Call
from runstream.scripts import Scripts

Kind: TypeAlias = Literal["thread", "assistant", "run", "webhook"]
KINDS: Final[tuple[Kind, ...]] = ("thread", "assistant", "run", "webhook")

_RESERVED_FOR = 60.0
_PAGE = 200


class Item(NamedTuple):
    """A thing that an owner keeps, or is to keep.

    Attributes:
        kind: what it is.
        id: its id; a run's also for its webhook.
        more: the bytes that it is to have, or to have more.
        most: how many of the kind the owner may have; None for any number.
        largest: how many bytes the thing itself may have; None for any number.
    """

    kind: Kind
    id: str
    more: int = 0
    most: int | None = None
    largest: int | None = None


class Full(NamedTuple):
    """There is no room.

    Attributes:
        what: a kind; `bytes`, of all together; or `size`, of a single thing.
        use: how much of it the owner has, or the thing would have.
        most: how much that may be.
    """

    what: Kind | Literal["bytes", "size"]
    use: int
    most: int


@dataclass(frozen=True)
class Stored:
    """What an owner keeps."""

    bytes: int = 0
    threads: int = 0
    assistants: int = 0
    runs: int = 0
    webhooks: int = 0


def owner_subject(identity: str) -> str:
    """Return the name that an owner has in keys: what an identity says has no business there."""
    return hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()[:32]


class Usage:
    """The use of a cell's owners.

    Args:
        redis: a client with `decode_responses=False`.
        keys: the cell's keys.
        scripts: the cell's scripts.
        call: makes a call to Redis, with such patience as its owner has.
    """

    def __init__(self, redis: Any, keys: Keys, scripts: Scripts, call: Call) -> None:
        # Any: the types of redis-py 5 say that its asynchronous commands may be synchronous.
        self._redis = redis
        self._keys = keys
        self._scripts = scripts
        self._call = call

    async def add(self, subject: str, items: Sequence[Item], *, most_bytes: int | None, ttl: float) -> Full | None:
        """Count things that are about to be written, all of them or none.

        Args:
            subject: whose they are.
            items: the things; of those that are there what they really take is counted, and what is to come.
            most_bytes: how many bytes the owner may keep; None for any number.
            ttl: for how long the things are kept, in seconds.

        Returns:
            None where they were counted; else what there is no room for, and nothing was counted.
        """
        found = await self._call(
            lambda: self._scripts.account(
                "add", subject, items, ttl=_ms(ttl), reserved=_ms(_RESERVED_FOR), most=_or_any(most_bytes)
            )
        )
        return None if found is None else Full(*found)

    async def look(self, subject: str, items: Sequence[Item], *, ttl: float) -> None:
        """Measure things that have become smaller, or are there already; `ttl` is as for `add`."""
        await self._call(lambda: self._scripts.account("look", subject, items, ttl=_ms(ttl)))

    async def forget(self, subject: str, items: Sequence[Item]) -> None:
        """Count things no more that were removed, or have not been written after all."""
        await self._call(lambda: self._scripts.account("forget", subject, items))

    async def measure(self, subject: str) -> Stored:
        """Measure all that an owner keeps, and return it."""
        cursor = 0
        while True:
            cursor = await self._measure_page(subject, cursor)
            if not cursor:
                return await self.known(subject)

    async def _measure_page(self, subject: str, cursor: int) -> int:
        """Measure some of what an owner keeps; return where to go on, 0 at the end."""
        key = self._keys.stored(subject)
        following, found = await self._call(lambda: self._redis.zscan(key, cursor, count=_PAGE))
        names = [name.decode().partition(":") for name, _ in found]
        items = [Item(cast("Kind", kind), id_) for kind, _, id_ in names if kind in KINDS]
        if items:
            await self._call(lambda: self._scripts.account("look", subject, items))
        return int(following)

    async def known(self, subject: str) -> Stored:
        """Return what an owner keeps, as far as it is known."""
        key = self._keys.stored(subject)
        names = ["#bytes", *(f"#{kind}" for kind in KINDS)]
        scores = await self._call(lambda: self._redis.zmscore(key, names))
        return Stored(*(int(score or 0) for score in scores))

    async def room(self) -> int | None:
        """Return how many bytes Redis may have (`maxmemory`); None where that is open, or it does not say."""
        try:
            found = await self._call(lambda: self._redis.info("memory"))
        except RedisError:
            return None
        return int(found.get("maxmemory", 0)) or None


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _or_any(most: int | None) -> int:
    return -1 if most is None else most
