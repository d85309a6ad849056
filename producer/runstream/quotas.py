"""How much somebody may do, counted in Redis: so for all processes of a service in front together.

Two things are counted: requests, by the rate at which they come; and what there may be so many of at a time. What
somebody holds is given back, or it lapses by itself, for its holder may be dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runstream.keys import Keys
from runstream.missing import Call
from runstream.scripts import Scripts
from runstream.settings import check_number

_RUNS = "runs"
_ENQUEUED_WITHIN = 60.0
_RUNS_KNOWN = 30 * 24 * 3600.0


class Quotas:
    """The quotas of a cell. Whoever they are for is a subject: a word that the caller chooses.

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

    async def spend(self, subject: str, *, rate: float, burst: int, wanted: int = 1) -> float:
        """Take requests off what the subject may make: `burst` at once, which fill up again by `rate` a second.

        Returns:
            0 where they were taken; else the seconds after which there are as many, and none was taken.

        Raises:
            InvalidRequest: fewer than one is wanted, which would give some back.
        """
        check_number("wanted", wanted, least=1, whole=True)
        wait = await self._call(lambda: self._scripts.spend(subject, rate=rate, burst=burst, wanted=wanted))
        return float(wait) / 1000

    async def hold(self, kind: str, subject: str, names: Sequence[str], *, most: int | None, seconds: float) -> bool:
        """Take places, all of these or none; who has one keeps it for longer.

        Args:
            kind: of what, a word.
            subject: who has them.
            names: of each place's holder, of its own.
            most: how many places there are; None for any number.
            seconds: for how long they are held, unless this is called again or they are released.

        Returns:
            Whether they were given; else there are not as many.
        """
        held = round(seconds * 1000)
        limit = -1 if most is None else most
        given = await self._call(
            lambda: self._scripts.hold(kind, subject, names, most=limit, held=held, known=held + 1000)
        )
        return bool(given)

    async def release(self, kind: str, subject: str, names: Sequence[str]) -> None:
        """Give places back."""
        await self._call(lambda: self._redis.zrem(self._keys.places(kind, subject), *names))

    async def hold_runs(self, subject: str, run_ids: Sequence[str], *, most: int) -> bool:
        """Take places for runs that are about to be enqueued, all of these or none.

        A run has its place until it has ended. One that has not been enqueued within a minute loses it.
        """
        names = [self._keys.run(run_id) for run_id in run_ids]
        held, known = round(_ENQUEUED_WITHIN * 1000), round(_RUNS_KNOWN * 1000)
        given = await self._call(lambda: self._scripts.hold(_RUNS, subject, names, most=most, held=held, known=known))
        return bool(given)

    async def release_runs(self, subject: str, run_ids: Sequence[str]) -> None:
        """Give the places of those of these runs back that have not been enqueued."""
        names = [self._keys.run(run_id) for run_id in run_ids]

        async def known() -> list[int]:
            pipe = self._redis.pipeline(transaction=False)
            for name in names:
                pipe.exists(name)
            found: list[int] = await pipe.execute()
            return found

        missing = [name for name, found in zip(names, await self._call(known), strict=True) if not found]
        if missing:
            await self.release(_RUNS, subject, missing)
