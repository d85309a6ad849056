"""Which events of an attempt are settled: no later attempt can void them, since their tasks' results are saved.

`is_saved` is the one rule. The attempt that takes a run over applies it to the saved state that it reads
(`resume.Saved.has`); the attempt that is at work applies it, in `Settlement`, to what its checkpointer has confirmed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Generator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple

from runstream_worker.origins import Namespace, Placed

CONTROL_CHANNELS = frozenset(("__error__", "__error_source_node__", "__interrupt__", "__resume__"))
"""LangGraph's `CONTROL_WRITES`: a task that has written to other channels, too, has finished."""


class Head(NamedTuple):
    """The newest checkpoint of a namespace.

    Attributes:
        step: its step.
        finished: the tasks of the step behind it whose results have been saved with it.
    """

    step: int
    finished: AbstractSet[str]


class Source(NamedTuple):
    """Where an event comes from: `Placed` without its chunk, and whether it is of the mode `custom`."""

    ns: Namespace
    task: str | None
    steps: tuple[int | None, ...]
    is_custom: bool = False

    def can_depend_on(self, task_id: str) -> bool:
        """Whether a task's result can save this: it is the task's own, or of a graph in it, or of no known task."""
        return self.task in (task_id, None) or any(segment.endswith(task_id) for segment in self.ns)


def is_saved(source: Source) -> Generator[Namespace, Head | None, bool]:
    """Decide whether the state that an event is about has been saved, so that no attempt publishes it again.

    A generator without I/O: it yields the namespaces whose heads it needs, one by one, and returns the decision.
    """
    path = [segment.rpartition(":")[2] for segment in source.ns]
    for depth, step in enumerate(source.steps):
        head = yield source.ns[:depth]
        if head is None or step is None:
            return False
        if step <= head.step:
            return True
        if step > head.step + 1:
            return False
        is_own = depth == len(source.ns)
        if source.task in head.finished or (not is_own and path[depth] in head.finished):
            return True
        if is_own and source.is_custom and source.task is None:
            # From one of several tasks: it stands as long as one of them will not publish it again.
            return bool(head.finished)
    return False


def finishes(channels: Collection[str]) -> bool:
    """Whether a task that has written to these channels has finished."""
    return bool(set(channels) - CONTROL_CHANNELS) or "__error_source_node__" in channels


def finished_tasks(found: CheckpointTuple) -> frozenset[str]:
    """The tasks of the step behind a checkpoint whose results have been saved with it."""
    channels: defaultdict[str, set[str]] = defaultdict(set)
    for task, channel, _ in found.pending_writes or ():
        channels[task].add(channel)
    return frozenset(task for task, written in channels.items() if finishes(written))


@dataclass
class _Saved:
    """What is known of one namespace: its newest confirmed checkpoint, and finished tasks by their checkpoint's id."""

    checkpoint_id: str = ""
    step: int | None = None
    finished: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def head(self) -> Head | None:
        return None if self.step is None else Head(self.step, self.finished.get(self.checkpoint_id, frozenset()))


class Settlement:
    """How far the events of one attempt are settled.

    The publisher notes each event as it takes it; the checkpointer notes each read and write that was confirmed.
    """

    def __init__(self) -> None:
        self._saved: dict[Namespace, _Saved] = {}
        # By the first event of each source: in ascending order, since each source enters with the newest event.
        self._first_unsettled: dict[Source, int] = {}
        self._last: Placed | None = None

    def publish(self, placed: Placed, seq: int) -> None:
        """Note an event that is about to be published under this sequence number."""
        last = self._last
        if last is not None and placed.task is not None and placed.task is last.task and placed.steps is last.steps:
            # The tokens of one message share these objects, and their source has been noted.
            return
        self._last = placed
        mode = placed.chunk.mode
        if mode == "events" and placed.task is None:
            # A record of the graph itself stands in any case.
            return
        source = Source(placed.chunk.ns, placed.task, placed.steps, mode == "custom")
        if source not in self._first_unsettled and not self._is_saved(source):
            self._first_unsettled[source] = seq

    def read(self, config: RunnableConfig, found: CheckpointTuple) -> None:
        """Note a checkpoint from which the graph, or a graph in it, begins."""
        self._note(namespace_of(config), found.checkpoint["id"], found.metadata.get("step"), finished_tasks(found))

    def saved_checkpoint(self, config: RunnableConfig, checkpoint_id: str, step: int | None) -> None:
        """Note that a checkpoint has been saved."""
        self._note(namespace_of(config), checkpoint_id, step, ())

    def saved_writes(self, config: RunnableConfig, task_id: str, channels: Collection[str]) -> None:
        """Note that a task's writes have been saved beside the checkpoint that the config names."""
        if finishes(channels):
            saved = self._saved.setdefault(namespace_of(config), _Saved())
            saved.finished[config["configurable"].get("checkpoint_id", "")].add(task_id)
            self._settle(task_id)

    def up_to(self, next_seq: int) -> int:
        """Return the sequence number up to which all events are settled; `next_seq` is that of the next event."""
        return next(iter(self._first_unsettled.values()), next_seq) - 1

    def _note(self, ns: Namespace, checkpoint_id: str, step: int | None, finished: Collection[str]) -> None:
        saved = self._saved.setdefault(ns, _Saved())
        if step is None or (saved.step is not None and step < saved.step):
            return
        if saved.checkpoint_id != checkpoint_id:
            saved.finished.pop(saved.checkpoint_id, None)
        saved.checkpoint_id, saved.step = checkpoint_id, step
        saved.finished[checkpoint_id].update(finished)
        self._settle()

    def _settle(self, task_id: str | None = None) -> None:
        """Take out what is saved by now; only what a task's result can have saved, where the task is given."""
        self._last = None
        self._first_unsettled = {
            source: seq
            for source, seq in self._first_unsettled.items()
            if (task_id is not None and not source.can_depend_on(task_id)) or not self._is_saved(source)
        }

    def _is_saved(self, source: Source) -> bool:
        rule = is_saved(source)
        try:
            ns = next(rule)
            while True:
                saved = self._saved.get(ns)
                ns = rule.send(None if saved is None else saved.head())
        except StopIteration as decision:
            return bool(decision.value)


def namespace_of(config: RunnableConfig) -> Namespace:
    """Return the namespace of a checkpointer's config."""
    ns = config["configurable"].get("checkpoint_ns", "")
    return tuple(ns.split("|")) if ns else ()
