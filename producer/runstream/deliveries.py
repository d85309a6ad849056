"""What a service in front of runstream is to tell somebody when a run has ended, and has not told yet.

The wish is written before the run is, so it outlives whoever was asked. A process looks after a delivery for a while,
and renews that; when it has died, another takes the delivery over. So each is attended at least once, and by one
process at a time unless one has been away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

from runstream.missing import Call
from runstream.scripts import Scripts

_LEASE = 10.0
_TTL = 7 * 24 * 3600.0
_TOLD_FOR = 24 * 3600.0
_ROOM = 1000
_SHARES_OF_AN_OWNER = 16
_SHARES_OF_NOBODY = 256


def share_of(owner: str, host: str) -> str:
    """Return the share that a delivery belongs to: shares are handed out in turn.

    The hosts of an owner are spread over 16 shares, so that a silent one delays few of the others, and an owner gets no
    more turns by having more hosts. Without owners there are 256.

    Args:
        owner: for whom the run was created, a word without a slash; empty where callers are not known.
        host: of the receiver.
    """
    shares = _SHARES_OF_AN_OWNER if owner else _SHARES_OF_NOBODY
    return f"{owner}/{int.from_bytes(hashlib.sha256(host.encode()).digest()[:4]) % shares}"


class Delivery(NamedTuple):
    """A delivery: its id is that of its run, and what is to be known of it stands in its fields."""

    id: str
    fields: Mapping[str, str]


class Attended(NamedTuple):
    """What became of deliveries.

    Attributes:
        lost: the ids of those that another process looks after now, or that have gone.
        taken: those that this process is to look after from now on.
    """

    lost: frozenset[str]
    taken: list[Delivery]


class Deliveries:
    """The deliveries of a cell, for one process that looks after some of them.

    Args:
        scripts: the cell's scripts.
        call: makes a call to Redis, with such patience as its owner has.
        holder: the process's name, which no other has.
        lease: for how long a process looks after a delivery before another may take it over, in seconds.
    """

    def __init__(self, scripts: Scripts, call: Call, holder: str, *, lease: float = _LEASE) -> None:
        self._scripts = scripts
        self._call = call
        self._holder = holder
        self._lease = round(lease * 1000)

    async def add(self, delivery: Delivery) -> None:
        """Write a delivery, which this process looks after at first; its field `share` is what `share_of` returns."""
        await self._write(delivery.id, "new", self._lease, _TTL, delivery.fields)

    async def attend(self, held: Collection[str], more: int, *, room: int = _ROOM) -> Attended:
        """Go on looking after deliveries, and take on what nobody looks after: of each share in turn.

        Args:
            held: the ids of those that this process looks after.
            more: how many are taken on at most.
            room: how many this process looks after at most. An owner gets a quarter of what is left of it, a share an
                eighth.
        """
        lost, taken = await self._call(
            lambda: self._scripts.attend(
                self._holder, list(held), lease=self._lease, ttl=_ms(_TTL), more=more, room=room
            )
        )
        return Attended(frozenset(lost), [Delivery(one, fields) for one, fields in taken])

    async def get(self, delivery_id: str) -> Delivery | None:
        """A delivery, also one that was given up within the last day; None where there is none."""
        fields = await self._call(lambda: self._scripts.read_delivery(delivery_id))
        return Delivery(delivery_id, fields) if fields else None

    async def payload(self, delivery_id: str) -> bytes | None:
        """The field `payload` of a delivery, which `attend` leaves out; None where there is none."""
        payload: bytes | None = await self._call(lambda: self._scripts.read_payload(delivery_id))
        return payload

    async def change(self, delivery_id: str, fields: Mapping[str, str], *, after: float | None = None) -> bool:
        """Write fields of a delivery that this process looks after; whether it does still.

        Args:
            delivery_id: which.
            fields: what is new.
            after: leave it, and have somebody look after it in so many seconds; it stays this process's when left out.
        """
        wait = -1 if after is None else _ms(after)
        return await self._write(delivery_id, "mine", wait, _TTL, fields) == "ok"

    async def supply(self, delivery_id: str, fields: Mapping[str, str]) -> None:
        """Write fields that a delivery has not yet, whoever looks after it; nothing if there is none."""
        await self._write(delivery_id, "known", -1, _TTL, fields)

    async def give_up(self, delivery_id: str, fields: Mapping[str, str]) -> bool:
        """Have nobody look after a delivery any more; it can be read for a day. Whether it was this process's."""
        return await self._write(delivery_id, "mine", -2, _TOLD_FOR, fields) == "ok"

    async def remove(self, delivery_id: str) -> None:
        """Forget a delivery that this process looks after: it is done, or there is nothing to be told."""
        await self._write(delivery_id, "mine", -2, 0, {})

    async def _write(
        self, delivery_id: str, which: Literal["new", "mine", "known"], wait: int, ttl: float, fields: Mapping[str, str]
    ) -> str:
        outcome: str = await self._call(
            lambda: self._scripts.put_delivery(
                delivery_id, which, self._holder, wait=wait, ttl=_ms(ttl), fields=dict(fields)
            )
        )
        return outcome


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
