"""A Redis that comes back with less than it had acknowledged: with what it knew at some moment, and nothing else.

As after a crash with `appendfsync everysec`, or a failover to a replica that was behind; but at a moment of the test's
choice, and with nobody's connection cut.
"""

from __future__ import annotations

from typing import Any

from runstream.keys import Keys

_PUT_BACK = """
for _, key in ipairs(redis.call('KEYS', '*' .. ARGV[1] .. '*')) do redis.call('DEL', key) end
for i = 2, #ARGV, 3 do redis.call('RESTORE', ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
"""


class Memory:
    """All that Redis knew of a cell at one moment; `of` takes it, `put_back` makes it all that Redis knows."""

    def __init__(self, redis: Any, keys: Keys, dumped: dict[bytes, tuple[int, bytes]]) -> None:
        self._redis = redis
        self._keys = keys
        self._dumped = dumped

    @classmethod
    async def of(cls, redis: Any, keys: Keys) -> Memory:
        """What there is now; `redis` is a client with `decode_responses=False`."""
        names = [name async for name in redis.scan_iter(f"*{keys.tag}*", count=1000)]
        pipe = redis.pipeline(transaction=True)
        for name in names:
            pipe.pttl(name)
            pipe.dump(name)
        replies = await pipe.execute()
        found = zip(names, replies[::2], replies[1::2], strict=True)
        return cls(redis, keys, {name: (max(ttl, 0), dump) for name, ttl, dump in found if dump is not None})

    def without(self, *names: str) -> Memory:
        """The same, but for these keys."""
        gone = {name.encode() for name in names}
        return Memory(self._redis, self._keys, {name: told for name, told in self._dumped.items() if name not in gone})

    async def put_back(self) -> None:
        """Forget everything that came later, all at once."""
        flat = [part for name, (ttl, dump) in self._dumped.items() for part in (name, ttl, dump)]
        await self._redis.eval(_PUT_BACK, 0, self._keys.tag, *flat)
