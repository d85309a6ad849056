"""An attempt executed by hand: what a worker would publish, event by event."""

from __future__ import annotations

import json
from typing import Any

from runstream import Client
from runstream.scripts import Append, AppendReply, Cause, Claimed, Hold, Scripts

_LEASE = 60_000


class HandAttempt:
    """Claims one run, again and again if need be, and publishes what it is told to; loses it, and takes it over."""

    def __init__(self, client: Client, scripts: Scripts, run_id: str, graph: str) -> None:
        self.client = client
        self.run_id = run_id
        self.hold = Hold(run_id, 0, "hand")
        self._scripts = scripts
        self._graph = graph
        self._claimed = Claimed(run_id, 0, b"")
        self._next = 0

    async def claim(self, worker: str = "hand") -> Claimed:
        """Begin the next attempt. The first one's event is there then; a later one's is `open`'s to write."""
        reply = await self._scripts.claim(worker, [self._graph], limit=1, lease=_LEASE, running_ttl=_LEASE)
        (self._claimed,) = reply.claimed
        assert self._claimed.run_id == self.run_id
        self.hold = Hold(self.run_id, self._claimed.attempt, worker)
        self._next = 0 if self._claimed.after else 1
        return self._claimed

    async def open(self, **more: Any) -> None:
        """Write the event of an attempt that is not the first."""
        claimed = self._claimed
        told = {"attempt": claimed.attempt, "worker": self.hold.worker_id, "at": 0}
        data = {**told, "after": claimed.after, "left": claimed.left, "checkpoint": None, **more}
        await self.append(json.dumps({"m": "attempt", "d": data}).encode())

    async def append(self, *events: bytes) -> None:
        """Publish events as they are."""
        (reply,) = await self._scripts.append([Append(self.hold, self._next, events)], byte_limit=1 << 30)
        assert isinstance(reply, AppendReply)
        assert reply.outcome == "ok"
        self._next += len(events)

    async def emit(self, count: int) -> None:
        """Publish events that carry their number."""
        await self.append(*(b'{"m":"custom","d":%d}' % (self._next + n) for n in range(count)))

    async def say(self, text: str, task: str = "a", message_id: str | None = None, **fields: Any) -> None:
        """Publish a chunk of an AI message of a task, whose node has its name."""
        message = {"content": text, "type": "AIMessageChunk", "id": message_id or f"message of {task}", **fields}
        event = {"m": "messages", "k": task, "d": [message, {"langgraph_node": task}]}
        await self.append(json.dumps(event).encode())

    async def leave(self, cause: Cause = "drained") -> None:
        """Give the run back."""
        assert await self._scripts.release(self.hold, cause) == "queued"

    async def lose(self) -> None:
        """Die: the lease expires, and somebody notices."""
        await self._scripts.reap(limit=100, lease=_LEASE)  # after a time in which nobody looked, all have another lease
        keys = self._scripts._keys
        await self._scripts._redis.zadd(keys.leases, {keys.run(self.run_id): 1})
        reply = await self._scripts.reap(limit=100, lease=_LEASE)
        assert self.run_id in (*reply.queued, *reply.ended)

    async def take_over(self, worker: str = "another", **voids: Any) -> None:
        """Die, and begin the next attempt on another worker, which voids what it is told to."""
        await self.lose()
        await self.claim(worker)
        await self.open(voids=voids or {"tasks": [], "events": [], "count": 0})

    async def end(self, status: str = "success", **record: str) -> None:
        """End the run."""
        data = {"status": status, "at": 0} | ({"after": self._claimed.after} if self._next == 0 else {})
        event = json.dumps({"m": "end", "d": data}).encode()
        reply = await self._scripts.finish(
            self.hold, end_seq=self._next, event=event, status=status, record={"result": b"null", **record}
        )
        assert reply.outcome == "ok"
