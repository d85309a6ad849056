"""Where a chunk comes from: the task that emitted it, and the step. Who takes a run over decides by that what is void.

LangGraph tells it in places. A checkpoint comes before the tasks of its step and names them; a task's update comes
right before its result, which has its id; values come right before the checkpoint that they belong to; a message's
metadata has the path of its task; so has that of a record (`events`), and the step. (The order and the shapes are
those of langgraph 1.2, and a test holds them.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from runstream_worker.chunks import Chunk

Namespace = tuple[str, ...]
_INTERRUPT = "__interrupt__"
_METADATA = "__metadata__"


class Placed(NamedTuple):
    """A chunk and where it comes from.

    Attributes:
        chunk: the chunk.
        task: the id of its task; None where it comes from none, or it is not known from which.
        steps: a number for each level of the namespace, then its own: the step of the checkpoint that its task's result
            goes into or that it shows; None in the place of what is not known; empty where nothing is.
    """

    chunk: Chunk
    task: str | None = None
    steps: tuple[int | None, ...] = ()


@dataclass
class _Loop:
    """What is known of one graph's loop.

    Attributes:
        started: whether it has emitted a checkpoint or a task.
        step: of its last checkpoint; None before the first.
        planned: the tasks of the step that runs, by id, with their names.
        called: tasks that others called (functional API).
        running: those without a result so far.
        held: chunks that wait for what tells where they come from.
    """

    started: bool = False
    step: int | None = None
    planned: dict[str, str] = field(default_factory=dict)
    called: dict[str, str] = field(default_factory=dict)
    running: dict[str, str] = field(default_factory=dict)
    held: list[Chunk] = field(default_factory=list)

    @property
    def running_planned(self) -> list[str]:
        return [task for task in self.running if task in self.planned]

    @property
    def running_calls(self) -> list[str]:
        return [task for task in self.running if task in self.called]


class Origins:
    """Places the chunks of one attempt, in their order; needs to see those of the modes `tasks` and `checkpoints`.

    Args:
        finished: the tasks whose results earlier attempts have saved, and that do not run again.
        tells_ns: whether chunks of mode `custom` have the namespace that they come from; without subgraphs, LangGraph's
            version v1 leaves it out.
    """

    def __init__(self, finished: Collection[str] = (), *, tells_ns: bool = True) -> None:
        self._finished = finished
        self._tells_ns = tells_ns
        self._loops: dict[Namespace, _Loop] = {}
        # The tokens of a message come with one and the same metadata.
        self._last_metadata: object = None
        self._last_message = Placed(Chunk("messages", (), None))
        # Records come of nested graphs whose tasks and checkpoints nobody asked for, and before those.
        self._steps_of_records: dict[Namespace, int] = {}

    def place(self, chunk: Chunk) -> Iterable[Placed]:
        """What can be placed now: this chunk and those that it tells of; or nothing yet."""
        match chunk.mode:
            case "checkpoints":
                return self._at_checkpoint(chunk)
            case "tasks":
                return self._at_task(chunk)
            case "values" | "updates":
                return self._hold(chunk)
            case _:
                return (self._at_once(chunk),)

    def rest(self) -> Iterator[Placed]:
        """What never was told of, when the graph has ended."""
        for ns, loop in self._loops.items():
            for chunk in loop.held:
                yield self._placed(chunk, None, self._after(ns))
            loop.held = []

    def _loop(self, ns: Namespace) -> _Loop:
        return self._loops.setdefault(ns, _Loop())

    def _placed(self, chunk: Chunk, task: str | None, own: int | None) -> Placed:
        above = tuple(self._after(chunk.ns[:depth]) for depth in range(len(chunk.ns)))
        return Placed(chunk, task, (*above, own))

    def _after(self, ns: Namespace) -> int | None:
        """The step of the checkpoint that the tasks of a loop lead to."""
        loop = self._loops.get(ns)
        return None if loop is None or loop.step is None else loop.step + 1

    def _at_checkpoint(self, chunk: Chunk) -> Iterator[Placed]:
        loop, payload = self._loop(chunk.ns), cast("Mapping[str, Any]", chunk.data)
        step = payload["metadata"].get("step")
        for held in self._let_go(loop):
            # Values that come before the first checkpoint are those that it shows.
            yield self._placed(held, None, step)
        loop.started, loop.step = True, step
        loop.planned = {task["id"]: task["name"] for task in payload["tasks"]}
        loop.called, loop.running = {}, {}
        yield self._placed(chunk, None, step)

    def _at_task(self, chunk: Chunk) -> Iterator[Placed]:
        loop, payload = self._loop(chunk.ns), cast("Mapping[str, Any]", chunk.data)
        task, name = payload["id"], payload["name"]
        if "result" not in payload:
            for held in self._let_go(loop) if not loop.started else ():
                yield self._placed(held, None, None)
            loop.started = True
            loop.running[task] = name
            if task not in loop.planned:
                loop.called[task] = name
        else:
            loop.running.pop(task, None)
            for held in self._let_go(loop):
                yield self._placed(held, task if held.mode == "updates" else None, self._after(chunk.ns))
        yield self._placed(chunk, task, self._after(chunk.ns))

    def _hold(self, chunk: Chunk) -> Iterator[Placed]:
        """Updates wait for their task's result; what comes before a graph's first checkpoint waits for that."""
        loop = self._loop(chunk.ns)
        if chunk.mode == "updates":
            cached = _cached(chunk.data)
            # Questions are never held: LangGraph takes them out of the same object a moment later (version v2).
            if cached is None and loop.running and _INTERRUPT not in cast("Mapping[str, Any]", chunk.data or ()):
                loop.held.append(chunk)
                return
            # No result follows an update that an earlier attempt has saved; tasks of one name come in their order. Nor
            # does one follow where the graph was told to stop at a node.
            named = [task for task, name in loop.running.items() if name == cached]
            task = next((task for task in named if task in self._finished), named[0] if named else None)
            loop.running.pop(task or "", None)
            yield self._placed(chunk, task, self._after(chunk.ns))
        elif loop.held or not loop.started:
            loop.held.append(chunk)
        else:
            yield self._placed(chunk, None, self._after(chunk.ns))

    def _let_go(self, loop: _Loop) -> list[Chunk]:
        held, loop.held = loop.held, []
        return held

    def _at_once(self, chunk: Chunk) -> Placed:
        match chunk.mode:
            case "messages":
                return self._of_message(chunk)
            case "events":
                return self._of_record(chunk)
            case "debug":
                return self._of_debug(chunk)
            case _:
                return self._of_custom(chunk)

    def _of_message(self, chunk: Chunk) -> Placed:
        metadata = cast("tuple[object, Mapping[str, Any]]", chunk.data)[1]
        if metadata is self._last_metadata:
            return Placed(chunk, self._last_message.task, self._last_message.steps)
        self._last_metadata = metadata
        self._last_message = self._placed(chunk, _task_of(metadata), self._after(chunk.ns))
        return self._last_message

    def _of_custom(self, chunk: Chunk) -> Placed:
        loop = self._loops.get(chunk.ns)
        if loop is not None and loop.planned:
            called = [] if self._tells_ns else loop.running_calls
            # Who calls others waits for them, and says nothing meanwhile.
            return self._placed(chunk, _only(called or loop.running_planned), self._after(chunk.ns))
        # No graph runs under this name: it is that of a task which another one called.
        around = self._loops.get(chunk.ns[:-1]) if chunk.ns else None
        task = None if around is None else _only(around.running_calls)
        return self._placed(chunk, task, self._after(chunk.ns[:-1]))

    def _of_debug(self, chunk: Chunk) -> Placed:
        payload = cast("Mapping[str, Any]", chunk.data)["payload"]
        if "metadata" in payload and "tasks" in payload:
            return self._placed(chunk, None, payload["metadata"].get("step"))
        return self._placed(chunk, payload["id"], self._after(chunk.ns))

    def _of_record(self, chunk: Chunk) -> Placed:
        metadata = cast("Mapping[str, Any]", chunk.data)["metadata"]
        task = _task_of(metadata)
        if task is None:
            return Placed(chunk)
        step = metadata["langgraph_step"]
        self._steps_of_records[chunk.ns] = step
        return Placed(chunk, task, (*(self._above(chunk.ns, depth) for depth in range(len(chunk.ns))), step))

    def _above(self, ns: Namespace, depth: int) -> int | None:
        """The step that a level of a record's namespace belongs to."""
        step = self._steps_of_records.get(ns[:depth])
        if step is None:
            return self._after(ns[:depth])
        # A number in the place of a task tells one graph that a task calls from another. It has no step of its own.
        return step if ":" in ns[depth] else step + 1


def _only(tasks: list[str]) -> str | None:
    return tasks[0] if len(tasks) == 1 else None


def _task_of(metadata: Mapping[str, Any]) -> str | None:
    path = str(metadata.get("langgraph_checkpoint_ns", "")).split("|")
    tasks = [segment.rpartition(":")[2] for segment in path if ":" in segment]
    return tasks[-1] if tasks else None


def _cached(update: object) -> str | None:
    """The name of the node, of an update that was not made just now."""
    if not isinstance(update, dict) or not update.get(_METADATA, {}).get("cached"):
        return None
    return next((name for name in update if name != _METADATA), None)
