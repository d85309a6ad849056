"""Places that are shared fairly: a caller that fills its share leaves room for every other one.

A limit is a part of what is free, not of the total (the dynamic thresholds of packet switches). Alone, an owner may
take a fifth of all places; with every further owner that takes as many as it can, each gets less, and some remain free.
So the next one that comes finds a place at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple, TypeAlias

_OWNER_PART = 4
_RECEIVER_PART = 8
_OWNER_AT_RECEIVER_PART = 2
_IPV6_NETWORK = 64


class Share(NamedTuple):
    """A limit that a holder of a place counts against.

    Attributes:
        name: for whom or what it is counted.
        part: one holder's share may be as large as the free places divided by this, and is never less than one place.
        within: the share whose free places are divided; all of them when left out.
    """

    name: str
    part: int
    within: Share | None = None


Claim: TypeAlias = tuple[Share, ...]
"""All the shares that one holder counts against."""


class Places:
    """A number of places, each of which one holder has at a time.

    Args:
        total: how many there are.
    """

    def __init__(self, total: int) -> None:
        self._free = total
        self._used: Counter[str] = Counter()
        self._waiting: OrderedDict[Claim, deque[asyncio.Future[None]]] = OrderedDict()

    def try_take(self, claim: Claim) -> bool:
        """Take a place if all of its shares admit that; `release` gives it back."""
        if self._free <= 0 or not all(self._used[share.name] < self._limit(share) for share in claim):
            return False
        self.take(claim)
        return True

    def take(self, claim: Claim) -> None:
        """Take a place, even if the shares are full: for a holder that cannot be refused."""
        self._free -= 1
        self._used.update(share.name for share in claim)

    def release(self, claim: Claim) -> None:
        """Give a place back."""
        self._free += 1
        for share in claim:
            self._used[share.name] -= 1
            if not self._used[share.name]:
                del self._used[share.name]
        self._wake()

    async def acquire(self, claim: Claim) -> None:
        """Wait for a place, and take it. Claims get places in turn, and those with the same claim in their order."""
        if claim not in self._waiting and self.try_take(claim):
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(claim, deque())
        queue.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release(claim)
            else:
                with suppress(ValueError):
                    queue.remove(waiter)
                if not queue and self._waiting.get(claim) is queue:
                    del self._waiting[claim]
            raise

    @asynccontextmanager
    async def hold(self, claim: Claim) -> AsyncIterator[None]:
        """Hold a place for as long as the block lasts."""
        await self.acquire(claim)
        try:
            yield
        finally:
            self.release(claim)

    def _limit(self, share: Share) -> int:
        within = share.within
        free = self._free if within is None else self._limit(within) - self._used[within.name]
        return max(1, free // share.part)

    def _wake(self) -> None:
        """Give free places to those that wait and may have one, one for each claim in turn."""
        claims = list(self._waiting)
        while claims and self._free > 0:
            claims = [claim for claim in claims if self._wake_one(claim)]

    def _wake_one(self, claim: Claim) -> bool:
        queue = self._waiting[claim]
        # One that was cancelled takes itself out of the queue, and may not have done so yet.
        while queue and queue[0].done():
            queue.popleft()
        if not queue:
            del self._waiting[claim]
            return False
        if not self.try_take(claim):
            return False
        queue.popleft().set_result(None)
        if queue:
            self._waiting.move_to_end(claim)
        else:
            del self._waiting[claim]
        return bool(queue)


def owner_key(identity: str) -> str:
    """Return the name under which a caller's deliveries are counted; empty for a caller that is not known.

    The identity itself, such as an address of mail, does not belong in Redis.
    """
    return hashlib.sha256(identity.encode()).hexdigest()[:16] if identity else ""


def of_owner(owner: str) -> Claim:
    """The claim of an owner alone. Callers that are not known have no limit of their own."""
    return (Share(f"owner {owner}", _OWNER_PART),) if owner else ()


def of_share(owner: str, share: str) -> Claim:
    """The claim of a delivery to a place among those that a gateway attends to, as `attend.lua` counts them."""
    return (*of_owner(owner), Share(f"share {share}", _RECEIVER_PART))


def of_receiver(owner: str, host: str, addresses: Sequence[str] = ()) -> Claim:
    """The claim of a try: of its owner, of the host, and of the address that many hosts may stand for.

    Within a host or an address, an owner gets half of what the others leave: many owners may have the same receiver.
    """
    receivers = [f"host {host}"]
    if addresses:
        receivers.append(f"address {_network(min(addresses))}")
    shares = list(of_owner(owner))
    for name in receivers:
        receiver = Share(name, _RECEIVER_PART)
        shares.append(receiver)
        if owner:
            shares.append(Share(f"{name} owner {owner}", _OWNER_AT_RECEIVER_PART, receiver))
    return tuple(shares)


def _network(address: str) -> str:
    """An address, or the network that whoever has one IPv6 address has as a rule."""
    read = ipaddress.ip_address(address)
    if isinstance(read, ipaddress.IPv4Address):
        return address
    return str(ipaddress.IPv6Network((int(read), _IPV6_NETWORK), strict=False).network_address)
