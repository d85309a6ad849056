"""Looks after deliveries: waits for the ends of runs, and tells them until they are taken or given up.

What is to be told is in Redis from before the run is, so a gateway that dies takes nothing along: the others find what
it has left when its time for it is over. They look every two seconds, in one call for all deliveries. A gateway that
has enqueued a run waits for its end as every reader does.

Everything of which a gateway has only so much is shared by owner and by receiver (`sharing`): the deliveries that it
attends to, the runs whose ends it waits for, the payloads that it makes, the tries at a time. So a receiver that is
silent or slow delays nobody but itself.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from runstream import Client, RunFailedError, RunInfo, RunNotFound, RunstreamError, Status
from runstream.deliveries import Deliveries, Delivery, share_of
from runstream.tasks import cancel
from runstream_gateway.errors import ApiError
from runstream_gateway.ids import now
from runstream_gateway.webhooks.addresses import (
    Addresses,
    WebhookBusy,
    WebhookRefused,
    WebhookUnresolved,
    read_url,
    shown_url,
)
from runstream_gateway.webhooks.payload import Payloads
from runstream_gateway.webhooks.sending import Answer, Sender
from runstream_gateway.webhooks.sharing import Claim, Places, of_owner, of_receiver, of_share

AT_ONCE = 128
"""How many tries a gateway makes at a time."""
LARGE = 256 * 1024
"""A payload of more bytes is large,"""
LARGE_AT_ONCE = 8
"""and so many of them are sent at a time, so that those that are sent have 112 MiB at most."""
_MADE_AT_ONCE = 8
_LOOK_EVERY = 2.0
_LOOK_AGAIN = 5.0
_TAKEN_AT_A_TIME = 100
_MOST = 1000
_MOST_WAITED_FOR = 500
_NEVER_WAS = 120.0
"""A run that is not there so many seconds after it was to be enqueued never was: its gateway died between the two."""
_SOON = 60.0
_LONGEST_WAIT = 3600.0
_NO_ROOM = 2.0
"""Seconds until a try is made for which the gateway had no room."""
_FACTOR = 2.5

_logger = logging.getLogger("runstream.gateway.webhooks")


class Courier:
    """The deliveries that one process looks after; an async context manager.

    Args:
        client: knows the runs.
        deliveries: what is to be told.
        payloads: makes what is told.
        addresses: says who is called.
        sender: calls them.
        tries: after how many a delivery is given up.
        first_wait: seconds between the first two tries; each wait is two and a half times as long as the one before.
        is_open: whether new ones are taken on.
    """

    def __init__(
        self,
        client: Client,
        deliveries: Deliveries,
        payloads: Payloads,
        addresses: Addresses,
        sender: Sender,
        *,
        tries: int,
        first_wait: float,
        is_open: bool = True,
    ) -> None:
        self._client = client
        self._deliveries = deliveries
        self._payloads = payloads
        self._addresses = addresses
        self._sender = sender
        self._tries = tries
        self._first_wait = first_wait
        self._is_open = is_open
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._attended = Places(_MOST)
        self._waited_for = Places(_MOST_WAITED_FOR)
        self._making = Places(_MADE_AT_ONCE)
        self._large = Places(LARGE_AT_ONCE)
        self._sending = Places(AT_ONCE)
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._looking = asyncio.create_task(self._look_around(), name="gateway-webhooks")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave what is not done to the other gateways."""
        held = dict(self._tasks)
        await cancel([self._looking, *held.values()])
        try:
            await asyncio.gather(*(self._deliveries.change(one, {}, after=0) for one in held))
        except RedisError as away:
            _logger.warning("other gateways look after %d webhooks in some seconds only: %s", len(held), away)

    async def check(self, url: str | None, checked: set[str] | None = None, *, owner: str = "") -> None:
        """Look whether a webhook would be called.

        Args:
            url: of the webhook; None for none.
            checked: hosts that were found right a moment ago, to which this one is added.
            owner: whose share of the lookups it counts for, as `owner_key` returns it.

        Raises:
            ApiError: 422, it would not; 503, too many hosts are being looked up.
        """
        if url is None:
            return
        if not self._is_open:
            raise ApiError(422, "webhook: this server has no webhooks (http.disable_webhooks)")
        try:
            await self._addresses.check(url, checked, owner=owner)
        except WebhookBusy as busy:
            raise ApiError(503, f"webhook: {busy}", {"retry-after": "1"}) from None
        except (WebhookRefused, WebhookUnresolved) as refused:
            raise ApiError(422, f"webhook: {refused}") from None

    @asynccontextmanager
    async def expecting(self, run_id: str, url: str | None, *, owner: str = "") -> AsyncIterator[None]:
        """Have somebody told of a run's end; the run is enqueued in the block.

        Args:
            run_id: the id that it will have.
            url: what is called; None for nothing.
            owner: whose share it counts for, as `owner_key` returns it.
        """
        if url is None:
            yield
            return
        share = share_of(owner, _host_of(url))
        fields = {"url": url, "owner": owner, "share": share, "created": f"{time.time():.3f}", "tries": "0"}
        delivery = Delivery(run_id, fields)
        await self._deliveries.add(delivery)
        try:
            yield
        except (ApiError, RunstreamError):
            # It was refused. After any other error it may be there: whoever looks after the delivery will see.
            with suppress(RedisError):
                await self._deliveries.remove(run_id)
            raise
        claim = of_share(owner, share)
        if self._attended.try_take(claim):
            self._begin(delivery, claim)

    async def _look_around(self) -> None:
        every = min(_LOOK_EVERY, self._first_wait)
        while True:
            await asyncio.sleep(every * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
            try:
                await self._look()
            except RedisError as error:
                _logger.warning("webhooks wait for Redis: %s", error)
            except Exception:
                # Whatever it is: nobody would look again, and what this gateway holds would be taken from it.
                _logger.exception("webhooks could not be looked after; that is tried again")

    async def _look(self) -> None:
        held = list(self._tasks)
        more = max(0, min(_TAKEN_AT_A_TIME, _MOST - len(held)))
        attended = await self._deliveries.attend(held, more, room=_MOST)
        for lost in attended.lost:
            if (task := self._tasks.get(lost)) is not None:
                task.cancel()
        for delivery in attended.taken:
            claim = of_share(delivery.fields.get("owner", ""), delivery.fields.get("share", "/"))
            self._attended.take(claim)
            self._begin(delivery, claim)

    def _begin(self, delivery: Delivery, claim: Claim) -> None:
        """Attend to a delivery in a task of its own; the claim is given back at its end."""
        if delivery.id in self._tasks:
            self._attended.release(claim)
            return
        task = asyncio.create_task(self._see_to(delivery), name=f"gateway-webhook-{delivery.id}")
        self._tasks[delivery.id] = task

        def ended(_: asyncio.Task[None]) -> None:
            del self._tasks[delivery.id]
            self._attended.release(claim)

        task.add_done_callback(ended)

    async def _see_to(self, delivery: Delivery) -> None:
        try:
            answer = await self._tried(delivery)
            if answer is not None:
                await self._settle(delivery, answer)
        except RedisError as error:
            # Whoever looks after it when its time is over goes on.
            _logger.warning("run %s: its webhook waits for Redis: %s", delivery.id, error)
        except Exception:
            _logger.exception("run %s: its webhook waits until a gateway takes it up again", delivery.id)

    async def _tried(self, delivery: Delivery) -> Answer | None:
        """What a try has come to; None if there is none to be made now."""
        try:
            size = int(delivery.fields.get("payload_bytes", 0)) or await self._prepare(delivery)
            return None if size is None else await self._send(delivery, size)
        except RedisError:
            raise
        except Exception as error:
            # Such as checkpoints that cannot be read; one that nobody can send is not tried for ever, either.
            _logger.exception("run %s: its webhook could not be sent", delivery.id)
            return Answer(done=False, again=True, told=f"in the gateway: {type(error).__name__}")

    async def _prepare(self, delivery: Delivery) -> int | None:
        """Have the payload in Redis, once the run has ended; its size, or None if there is nothing to do for now."""
        try:
            info = await self._client.get(delivery.id)
            if not info.status.ended and not await self._ended(delivery, info):
                return None
            async with self._making.hold(of_owner(delivery.fields.get("owner", ""))):
                made = await self._payloads.fields_of(delivery.id)
                still_mine = await self._deliveries.change(delivery.id, made)
        except RunNotFound:
            return await self._size_of_missing(delivery)
        return int(made["payload_bytes"]) if still_mine else None

    async def _ended(self, delivery: Delivery, info: RunInfo) -> bool:
        """Wait for a run's end; False if that is left for later."""
        due_in = info.due_at.timestamp() - time.time()
        if info.status is Status.QUEUED and due_in > _SOON:
            await self._deliveries.change(info.run_id, {}, after=min(due_in, _LONGEST_WAIT))
            return False
        claim = of_share(delivery.fields.get("owner", ""), delivery.fields.get("share", "/"))
        if not self._waited_for.try_take(claim):
            await self._deliveries.change(info.run_id, {}, after=_LOOK_AGAIN)
            return False
        try:
            with suppress(RunFailedError):
                await self._client.wait(info.run_id)
        finally:
            self._waited_for.release(claim)
        return True

    async def _size_of_missing(self, delivery: Delivery) -> int | None:
        """The size of what was kept of a run that is not there, because it was deleted after its end."""
        known = await self._deliveries.get(delivery.id)
        if known is None:
            return None
        if (kept := known.fields.get("payload_bytes")) is not None:
            return int(kept)
        if time.time() - float(delivery.fields["created"]) < _NEVER_WAS:
            await self._deliveries.change(delivery.id, {}, after=_LOOK_AGAIN)
        else:
            _logger.warning("run %s: there is no such run, so nobody is told of it", delivery.id)
            await self._deliveries.remove(delivery.id)
        return None

    async def _send(self, delivery: Delivery, size: int) -> Answer | None:
        """Make a try when its turn has come; the payload is in memory for no longer than that."""
        owner = delivery.fields.get("owner", "")
        route = await self._sender.route(delivery.fields["url"], owner)
        if isinstance(route, Answer):
            return route
        claim = of_receiver(owner, route.host, route.addresses)
        async with AsyncExitStack() as places:
            if size > LARGE:
                await places.enter_async_context(self._large.hold(claim))
            await places.enter_async_context(self._sending.hold(claim))
            payload = await self._deliveries.payload(delivery.id)
            if payload is None:
                return None
            # An object that is not empty gets one more member.
            body = b'%s,"webhook_sent_at":"%s"}' % (payload[:-1], now().encode())
            del payload
            return await self._sender.post(delivery.id, route, body)

    async def _settle(self, delivery: Delivery, answer: Answer) -> None:
        """Write down what a try has come to."""
        if answer.done:
            await self._deliveries.remove(delivery.id)
            return
        if not answer.counts:
            await self._deliveries.change(delivery.id, {"told": answer.told}, after=_NO_ROOM)
            return
        tries = int(delivery.fields["tries"]) + 1
        fields = {"tries": str(tries), "told": answer.told}
        if answer.again and tries < self._tries:
            wait = max(self._wait_after(tries), min(answer.after, _LONGEST_WAIT))
            await self._deliveries.change(delivery.id, fields, after=wait)
            return
        if await self._deliveries.give_up(delivery.id, {**fields, "given_up": now()}):
            place = shown_url(delivery.fields["url"])
            _logger.warning(
                "run %s: its webhook %s was given up after %d tries: %s", delivery.id, place, tries, answer.told
            )

    def _wait_after(self, tries: int) -> float:
        longest = float(self._first_wait * _FACTOR ** (tries - 1))
        return longest * random.uniform(0.5, 1)  # noqa: S311 - no secret


def _host_of(url: str) -> str:
    return read_url(url).raw_host.decode("ascii")
