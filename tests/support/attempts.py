"""An attempt executed by hand: what a worker would publish, event by event."""

from __future__ import annotations

from runstream import Client
from runstream.scripts import Append, AppendReply, Scripts


class HandAttempt:
    """Claims one run and publishes what it is told to."""

    def __init__(self, client: Client, scripts: Scripts, run_id: str, graph: str) -> None:
        self.client = client
        self.run_id = run_id
        self._scripts = scripts
        self._graph = graph
        self._seq = 0

    async def claim(self) -> None:
        """Begin the attempt."""
        reply = await self._scripts.claim("hand", [self._graph], limit=1, lease=60_000, running_ttl=60_000)
        assert [claimed.run_id for claimed in reply.claimed] == [self.run_id]

    async def append(self, *events: bytes) -> None:
        """Publish events as they are."""
        (reply,) = await self._scripts.append([Append(self.run_id, 1, self._seq + 1, events)], byte_limit=1 << 30)
        assert isinstance(reply, AppendReply)
        assert reply.outcome == "ok"
        self._seq += len(events)

    async def emit(self, count: int) -> None:
        """Publish events that carry their number."""
        await self.append(*(b'{"m":"custom","d":%d}' % (self._seq + n + 1) for n in range(count)))

    async def end(self) -> None:
        """End the run with success."""
        self._seq += 1
        event = b'{"m":"end","d":{"status":"success"}}'
        assert await self._scripts.finish(
            self.run_id, 1, end_seq=self._seq, event=event, status="success", record={"result": b"null"}
        )
