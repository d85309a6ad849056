"""How an attempt begins: with its input, or from what earlier attempts have saved; and what of their events is void.

The rules are told in `docs/PROTOCOL.md`, "Taking over".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from runstream.request import RunRequest
from runstream_worker.completion import messages_in
from runstream_worker.origins import Namespace, Placed
from runstream_worker.past import Entry, Mark, Past, mark_of, mark_of_message
from runstream_worker.run_saver import is_beside_runs, listed
from runstream_worker.settlement import Head, Source, finished_tasks, is_saved
from runstream_worker.start_checks import root_checkpoint

Saver = BaseCheckpointSaver[Any]


@dataclass(frozen=True)
class Start:
    """How an attempt begins.

    Attributes:
        goes_on: no input is passed: the run's has been saved.
        gives_again: a `Command` is passed again; what it has written already is to be forgotten.
        checkpoint: the id of the checkpoint that it goes on from; None where there is none.
        voids: what of the earlier attempts' events is void, as the attempt event tells it; None for the first attempt.
        past: what of them stands.
        told: the ids of messages that other runs have told.
        finished: the tasks whose results have been saved and wait for the others of their step.
        silent: what the graph emits on resuming and would not have emitted otherwise.
        has_outlived: whether what has been saved is all that there is of an attempt: Redis has lost the rest.
    """

    goes_on: bool = False
    gives_again: bool = False
    checkpoint: str | None = None
    voids: Mapping[str, Any] | None = None
    past: Past = field(default_factory=Past)
    told: frozenset[str] = frozenset()
    finished: frozenset[str] = frozenset()
    silent: frozenset[Mark] = frozenset()
    has_outlived: bool = False

    def marks(self) -> frozenset[Mark]:
        """What is in the stream already, or does not belong there, should the graph emit it."""
        told = map(mark_of_message, self.told)
        return self.silent.union((entry.mark for entry in self.past if entry.mark is not None), told)


def is_there(placed: Placed, marks: Collection[Mark]) -> bool:
    """Whether a chunk is in the stream already."""
    return bool(marks) and (mark := mark_of(placed)) is not None and mark in marks


async def first_start(saver: Saver | None, request: RunRequest, run_id: str) -> Start:
    """How an attempt begins that has no stream to go on from.

    It is the run's first, or Redis has lost those before. Checkpoints in the same Redis are lost with them; those
    elsewhere may be there, and the input with them.
    """
    run_ids = {*request.continues, *(() if is_beside_runs(saver) else (run_id,))}
    if saver is None or not run_ids:
        return Start()
    saved = Saved(saver, request, run_ids)
    head = await saved.head(())
    if head is None or not saved.is_own(head):
        return Start()
    has_outlived = head.metadata.get("run_id") == run_id
    return Start(goes_on=True, checkpoint=head.checkpoint["id"], has_outlived=has_outlived)


async def next_start(saver: Saver, request: RunRequest, run_id: str, past: Past) -> Start:
    """How a later attempt begins, given what the stream has of those before; `past` is left with what stands."""
    saved = Saved(saver, request, {run_id, *request.continues})
    head = await saved.head(())
    goes_on = head is not None and saved.is_own(head)
    voids = await _voids(past, saved)
    past.leave_out(voids)
    goes_on_from_another = request.input is None and request.subgraphs
    return Start(
        goes_on=goes_on,
        gives_again=not goes_on and request.command is not None,
        checkpoint=None if head is None else head.checkpoint["id"],
        voids=voids,
        past=past,
        told=await _told_in_subgraphs(past, saved) if goes_on_from_another else frozenset(),
        finished=saved.finished,
        silent=saved.silent if goes_on else frozenset(),
    )


def start_over(past: Past) -> Start:
    """How an attempt begins that has nothing to go on from."""
    return Start(voids={"all": True, "count": len(past)})


class Saved:
    """What has been saved of a run's thread, in every namespace; looked up as it is asked for.

    Args:
        saver: what keeps it.
        request: the run's.
        run_ids: the run's id, and those of runs that it continues.
    """

    def __init__(self, saver: Saver, request: RunRequest, run_ids: Collection[str]) -> None:
        self._saver = saver
        self._thread_id = request.thread_id
        self._run_ids = run_ids
        self._addressed = root_checkpoint(request.config.get("configurable", {}))
        self._heads: dict[Namespace, CheckpointTuple | None] = {}

    def is_own(self, found: CheckpointTuple) -> bool:
        """Whether a checkpoint was saved by the run itself."""
        return found.metadata.get("run_id") in self._run_ids

    async def head(self, ns: Namespace) -> CheckpointTuple | None:
        """The newest checkpoint of a namespace; at the root that which the request names, if nothing came of it yet."""
        if ns not in self._heads:
            found = await self._saver.aget_tuple(self.config(ns))
            if not ns and self._addressed and (found is None or not self.is_own(found)):
                found = await self._saver.aget_tuple(self.config(ns, self._addressed))
            self._heads[ns] = found
        return self._heads[ns]

    @property
    def finished(self) -> frozenset[str]:
        """The tasks whose results have been saved and wait for the others of their step, as far as was looked."""
        return frozenset().union(*(finished_tasks(head) for head in self._heads.values() if head is not None))

    @property
    def silent(self) -> frozenset[Mark]:
        """The values at the checkpoints of inputs, which LangGraph shows only where it goes on from one."""
        return frozenset(
            ("values", ns, head.metadata["step"])
            for ns, head in self._heads.items()
            if head is not None and head.metadata.get("source") == "input"
        )

    def config(self, ns: Namespace = (), checkpoint_id: str | None = None) -> RunnableConfig:
        """What a checkpointer is asked with."""
        place = {"thread_id": self._thread_id, "checkpoint_ns": "|".join(ns)}
        return {"configurable": {**place, "checkpoint_id": checkpoint_id} if checkpoint_id else place}

    async def told_before(self, ns: Namespace) -> frozenset[str]:
        """The ids of the messages that a namespace had when the run came to it."""
        async with listed(self._saver, self.config(ns)) as checkpoints:
            async for found in checkpoints:
                if not self.is_own(found):
                    return frozenset(message.id for message in messages_in(found) if message.id)
        return frozenset()

    async def has(self, entry: Entry) -> bool:
        """Whether what an event tells of has been saved, so that it will not be told again."""
        rule = is_saved(Source(entry.ns, entry.task, entry.steps, entry.mode == "custom"))
        try:
            ns = next(rule)
            while True:
                found = await self.head(ns)
                ns = rule.send(None if found is None else Head(found.metadata["step"], finished_tasks(found)))
        except StopIteration as decision:
            return bool(decision.value)


async def _told_in_subgraphs(past: Past, saved: Saved) -> frozenset[str]:
    """What an interrupted run has told in subgraphs that this one goes on with.

    A subgraph that ends tells all its messages of which LangGraph does not know that they have been told. It knows of
    those that a node was given; where an earlier attempt has run the last node, there is none any more.
    """
    told: frozenset[str] = frozenset()
    for ns in {entry.ns for entry in past if entry.ns}:
        told |= await saved.told_before(ns)
    return told


async def _voids(past: Past, saved: Saved) -> dict[str, Any]:
    by_task: defaultdict[str, list[Entry]] = defaultdict(list)
    events: list[str] = []
    count = 0
    for entry in past:
        if entry.task is not None:
            by_task[entry.task].append(entry)
        elif entry.mode == "events":
            # A record of the graph itself: what stands of its tasks' records belongs to it.
            continue
        elif not await saved.has(entry):
            events += entry.ids
    tasks = []
    for task, entries in by_task.items():
        # A task is judged as a whole.
        if not any([await saved.has(entry) for entry in entries]):
            name = next((entry.name for entry in entries if entry.name is not None), None)
            tasks.append({"id": task, "name": name, "ns": list(entries[0].ns)})
            count += sum(len(entry.ids) for entry in entries)
    return {"tasks": tasks, "events": events, "count": count + len(events)}
