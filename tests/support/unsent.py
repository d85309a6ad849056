"""Commands that fail in the client before they are sent, by errors that are none of redis-py's own.

uvloop raises RuntimeError for a transport that was closed under its user, and redis-py passes that on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection


@contextmanager
def unsent(part: str, error: Exception) -> Iterator[list[Exception]]:
    """Have each command of this process in which a text stands fail in the block; what has failed so far."""
    failed: list[Exception] = []
    send = AbstractConnection.send_packed_command

    async def fail(self: AbstractConnection, command: Any, *rest: Any, **others: Any) -> None:
        if part.encode() in b"".join([command] if isinstance(command, bytes) else command):
            failed.append(error)
            raise error
        await send(self, command, *rest, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AbstractConnection, "send_packed_command", fail)
        yield failed
