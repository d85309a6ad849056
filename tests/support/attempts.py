"""An attempt executed by hand: what a worker would publish, event by event."""

from __future__ import annotations

import json
from typing import Any

from runstream import Client
from runstream.scripts import Append, AppendReply, Cause, Claimed, Hold, Scripts


class HandAttempt:
    """Claims one run, again and again if need be, and publishes what it is told to."""

    def __init__(self, client: Client, scripts: Scripts, run_id: str, graph: str) -> None:
        self.client = client
        self.run_id = run_id
        self._scripts = scripts
        self._graph = graph
        self._claimed = Claimed(run_id, 0, b"")
        self._seq = -1

    @property
    def hold(self) -> Hold:
        """The fence of the last attempt."""
        return Hold(self.run_id, self._claimed.attempt, "hand")

    async def claim(self) -> None:
        """Begin the next attempt. The first one's event is there then; a later one's is `open`'s to write."""
        reply = await self._scripts.claim("hand", [self._graph], limit=1, lease=60_000, running_ttl=60_000)
        (self._claimed,) = reply.claimed
        assert self._claimed.run_id == self.run_id
        self._seq = 0 if self._claimed.attempt == 1 else -1

    async def open(self, **more: Any) -> None:
        """Write the event of an attempt that is not the first."""
        claimed = self._claimed
        data = {"attempt": claimed.attempt, "worker": "hand", "after": claimed.after, "left": claimed.left, **more}
        await self.append(json.dumps({"m": "attempt", "d": data}).encode())

    async def append(self, *events: bytes) -> None:
        """Publish events as they are."""
        (reply,) = await self._scripts.append([Append(self.hold, self._seq + 1, events)], byte_limit=1 << 30)
        assert isinstance(reply, AppendReply)
        assert reply.outcome == "ok"
        self._seq += len(events)

    async def emit(self, count: int) -> None:
        """Publish events that carry their number."""
        await self.append(*(b'{"m":"custom","d":%d}' % (self._seq + n + 1) for n in range(count)))

    async def leave(self, cause: Cause = "drained") -> None:
        """Give the run back."""
        assert await self._scripts.release(self.hold, cause) == "queued"

    async def end(self) -> None:
        """End the run with success."""
        self._seq += 1
        data = {"status": "success"} | ({"after": self._claimed.after} if self._seq == 0 else {})
        event = json.dumps({"m": "end", "d": data}).encode()
        reply = await self._scripts.finish(
            self.hold, end_seq=self._seq, event=event, status="success", record={"result": b"null"}
        )
        assert reply.outcome == "ok"
