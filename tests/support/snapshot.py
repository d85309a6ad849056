"""All that is in Redis of one cell, at one moment, in the words of `docs/PROTOCOL.md`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runstream.keys import Keys
from runstream.model import EventId

_EVERYTHING = """
local found = {}
for _, key in ipairs(redis.call('KEYS', '*' .. ARGV[1] .. '*')) do
  local kind, value = redis.call('TYPE', key).ok, nil
  if kind == 'hash' then value = redis.call('HGETALL', key)
  elseif kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'set' then value = redis.call('SMEMBERS', key)
  elseif kind == 'list' then value = redis.call('LRANGE', key, 0, -1)
  elseif kind == 'stream' then value = redis.call('XRANGE', key, '-', '+')
  else value = redis.call('GET', key) end
  found[#found + 1] = {key, redis.call('PTTL', key), value}
end
return {redis.call('TIME'), found}
"""


@dataclass
class Snapshot:
    """Keys by name, and how long they live, ms. `now` is Redis' clock, ms."""

    keys: Keys
    now: float
    values: dict[str, Any]
    lives: dict[str, int]

    @property
    def run_ids(self) -> list[str]:
        """The runs that have a record."""
        names = (self.keys.run_id(name) for name in self._named(self.keys.run("")))
        return sorted(name for name in names if not name.endswith(":events"))

    def record(self, run_id: str) -> dict[str, str]:
        """A run's record."""
        return self._pairs(self.keys.run(run_id))

    def events(self, run_id: str) -> list[tuple[EventId, dict[str, Any]]]:
        """A run's events."""
        entries = self.values.get(self.keys.events(run_id), [])
        return [(EventId.of(event_id), json.loads(fields[1])) for event_id, fields in entries]

    def lines(self) -> dict[str, list[tuple[str, bool]]]:
        """The lines of the threads: the runs in them, and whether they have begun."""
        lines = {thread: self._scored(key) for thread, key in self._all(self.keys.thread(""))}
        return {thread: [(run_id, score == 0) for run_id, score in line] for thread, line in lines.items()}

    def thread_of(self, run_id: str) -> str:
        """A run's thread."""
        return self.record(run_id)["line"].removeprefix(self.keys.thread(""))

    def runs_by_thread(self) -> dict[str, list[str]]:
        """The runs of each thread, as their records tell."""
        threads: dict[str, list[str]] = {}
        for run_id in self.run_ids:
            threads.setdefault(self.thread_of(run_id), []).append(run_id)
        return threads

    def thread_runs(self) -> dict[str, list[str]]:
        """The runs of each thread, as the thread's index has them, but for those that have expired."""
        there = set(self.run_ids)
        indexes = {thread: self.values[key][::2] for thread, key in self._all(self.keys.thread_runs(""))}
        kept = {thread: sorted(there.intersection(run_ids)) for thread, run_ids in indexes.items()}
        return {thread: run_ids for thread, run_ids in kept.items() if run_ids}

    def queues(self) -> dict[str, list[str]]:
        """The queues of the graphs."""
        return {graph: [run_id for run_id, _ in self._scored(key)] for graph, key in self._all(self.keys.queue(""))}

    def strokes(self, graph: str) -> int:
        """How many strokes wait for idle workers."""
        return len(self.values.get(self.keys.bell(graph), []))

    def leases(self) -> dict[str, float]:
        """When each run has to be looked after: ms from now."""
        return {run_id: score - self.now for run_id, score in self._scored(self.keys.leases)}

    def held(self) -> dict[str, list[str]]:
        """What was handed to each worker."""
        named = (name.removesuffix(":held") for name in self._named(self.keys.worker("")) if name.endswith(":held"))
        workers = [name.removeprefix(self.keys.worker("")) for name in named]
        return {worker: sorted(map(self.keys.run_id, self.values[self.keys.held(worker)])) for worker in workers}

    def undo(self) -> dict[str, list[str]]:
        """What is to be undone on each thread."""
        return {thread: sorted(self.values[key]) for thread, key in self._all(self.keys.undo(""))}

    def dead(self) -> list[str]:
        """The dead letters."""
        return sorted(self.values.get(self.keys.dead, [])[::2])

    def view(self) -> dict[str, Any]:
        """What a model can be compared with; leases in ms from now."""
        return {
            "runs": {run_id: self._run(run_id) for run_id in self.run_ids},
            "lines": self.lines(),
            "queues": self.queues(),
            "leases": self.leases(),
            "held": self.held(),
            "undo": self.undo(),
            "dead": self.dead(),
        }

    def _run(self, run_id: str) -> dict[str, Any]:
        record = self.record(run_id)
        holders = json.loads(record.get("holders", "[]"))
        return {
            "status": record["status"],
            "attempt": int(record["attempt"]),
            "last": f"{record['attempt']}-{record['seq']}" if record["seq"] != "-1" else record.get("after", ""),
            "worker": record.get("worker", ""),
            "left": record.get("left", ""),
            "failures": int(record.get("failures", 0)),
            "holders": [(holder["attempt"], holder["worker"], holder["cause"]) for holder in holders],
            "stop": (record["stop"], record["stop_action"]) if "stop" in record else None,
            "size": int(record["bytes"]),
            "error": json.loads(record["error"])["type"] if "error" in record else "",
            "events": [str(event_id) for event_id, _ in self.events(run_id)],
        }

    def _named(self, beginning: str) -> list[str]:
        return [name for name in self.values if name.startswith(beginning)]

    def _all(self, beginning: str) -> Iterator[tuple[str, str]]:
        for name in self._named(beginning):
            yield name.removeprefix(beginning), name

    def _pairs(self, name: str) -> dict[str, str]:
        flat = self.values.get(name, [])
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def _scored(self, name: str) -> list[tuple[str, float]]:
        return [(self.keys.run_id(member), float(score)) for member, score in self._pairs(name).items()]


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return [_text(part) for part in value] if isinstance(value, list) else value


async def take_snapshot(redis: Any, keys: Keys) -> Snapshot:
    """Read everything, at once."""
    (seconds, micros), found = _text(await redis.eval(_EVERYTHING, 0, keys.tag))
    values = {name: value for name, _, value in found}
    return Snapshot(keys, int(seconds) * 1000 + int(micros) / 1000, values, {name: left for name, left, _ in found})
