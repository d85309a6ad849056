"""XREAD over very many streams.

redis-py takes about 2 us for each stream each time that it packs the command, which for 1,000 streams is more than all
else that a reader does. The command is put together here from parts that seldom change: each stream's key is packed
once, and its position only when it has moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from redis.asyncio import Redis

Entry: TypeAlias = tuple[bytes, Mapping[bytes, bytes]]


def packed(argument: bytes) -> bytes:
    """An argument of a command as it goes over the wire (RESP)."""
    return b"$%d\r\n%b\r\n" % (len(argument), argument)


async def xread(
    redis: Redis, keys: Sequence[bytes], positions: Iterable[bytes], *, count: int, block_ms: int | None
) -> list[tuple[bytes, Iterator[Entry]]]:
    """Wait for entries of any of the streams behind its position.

    Args:
        redis: a client with `decode_responses=False` and RESP2. It is not asked to try again.
        keys: the streams' keys, packed.
        positions: for each of them the id of the last entry that is known, packed.
        count: how many entries of each stream are wanted at most.
        block_ms: how long to wait; None for not at all.
    """
    options = [b"COUNT", b"%d" % count, *(() if block_ms is None else (b"BLOCK", b"%d" % block_ms)), b"STREAMS"]
    command = b"*%d\r\n" % (1 + len(options) + 2 * len(keys)) + b"".join(map(packed, (b"XREAD", *options)))
    async with redis.client() as holder:
        # The holder has one connection of the pool to itself; redis-py's types say that it might have none.
        connection: Any = holder.connection
        await connection.send_packed_command(b"".join((command, *keys, *positions)))
        reply = await connection.read_response()
    return [(key, entries_of(entries)) for key, entries in reply or ()]


def entries_of(raw: Iterable[tuple[bytes, Sequence[bytes]]]) -> Iterator[Entry]:
    """Return a stream's entries as they come over the wire, with the fields of each by their names."""
    for entry_id, fields in raw:
        yield entry_id, dict(zip(fields[::2], fields[1::2], strict=True)) if len(fields) > 2 else {fields[0]: fields[1]}
