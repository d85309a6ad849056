"""Where chunks come from: held against what the checkpointer knows of tasks and steps, for every graph of the zoo."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from tests.support.graphs import ZOO, Case
from tests.support.parity import MODES, as_json

from runstream_worker.chunks import chunks
from runstream_worker.origins import Namespace, Origins, Placed

CASES = [case for case in ZOO if "error" not in case.ends]


async def placed(case: Case, saver: Any, graph_input: Any, **options: Any) -> AsyncIterator[Placed]:
    """The chunks of one run, with their origins."""
    origins = Origins(tells_ns=options["subgraphs"])
    config = {"configurable": {"thread_id": "t", **case.configurable}}
    stream = chunks(
        case.build(saver).copy(update={"stream_eager": True}),
        graph_input,
        config,
        modes=list(MODES),
        version="v1",
        **{**case.options, **options},
    )
    async with aclosing(stream) as emitted:
        async for chunk in emitted:
            for one in origins.place(chunk):
                yield one
    for one in origins.rest():
        yield one


async def steps_of_tasks(saver: InMemorySaver) -> dict[str, tuple[str, int]]:
    """Of each task that has written anything: its namespace, and the step that its result goes into."""
    found = {}
    async for kept in saver.alist({"configurable": {"thread_id": "t"}}):
        for task, _, _ in kept.pending_writes or ():
            found[task] = (kept.config["configurable"]["checkpoint_ns"], kept.metadata["step"] + 1)
    return found


async def values_of_steps(saver: InMemorySaver) -> dict[tuple[str, int], Any]:
    found: dict[tuple[str, int], Any] = {}
    async for kept in saver.alist({"configurable": {"thread_id": "t"}}):
        key = (kept.config["configurable"]["checkpoint_ns"], kept.metadata["step"])
        found.setdefault(key, kept.checkpoint["channel_values"])
    return found


def above(ns: Namespace, tasks: dict[str, tuple[str, int]]) -> list[int]:
    """The steps of the tasks that a namespace names."""
    return [tasks[segment.rpartition(":")[2]][1] for segment in ns if segment.rpartition(":")[2] in tasks]


@pytest.mark.parametrize("subgraphs", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_tasks_and_steps_are_those_of_the_checkpointer(case: Case, subgraphs: bool) -> None:
    saver = InMemorySaver()
    for graph_input in case.inputs:
        came = [one async for one in placed(case, saver, graph_input, subgraphs=subgraphs)]
        tasks, values = await steps_of_tasks(saver), await values_of_steps(saver)
        for chunk, task, steps in came:
            if task is not None:
                ns, step = tasks[task]
                assert steps[-1] == step, (chunk, steps)
                if chunk.mode in ("updates", "tasks", "messages"):
                    assert "|".join(chunk.ns) == ns
            assert list(steps[: len(chunk.ns)])[: len(above(chunk.ns, tasks))] == above(chunk.ns, tasks)
            if chunk.mode == "checkpoints":
                assert (("|".join(chunk.ns)), steps[-1]) in values


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_what_a_task_emits_is_placed_there(case: Case) -> None:
    saver = InMemorySaver()
    for graph_input in case.inputs:
        names: dict[str, str] = {}
        async for chunk, task, _ in placed(case, saver, graph_input, subgraphs=True):
            data: Any = chunk.data
            if chunk.mode == "tasks":
                names[data["id"]] = data["name"]
                assert task == data["id"]
            elif chunk.mode == "updates" and "__interrupt__" not in data:
                assert task is not None
                assert [name for name in data if name != "__metadata__"] == [names[task]]
            elif chunk.mode == "messages" and isinstance(data, tuple):
                assert task is not None
                assert data[1]["langgraph_checkpoint_ns"].endswith(task)
            elif chunk.mode in ("values", "checkpoints"):
                assert task is None


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in ("chat", "agent", "loop", "three_steps")], ids=str
)
async def test_values_are_those_of_the_checkpoint_of_their_step(case: Case) -> None:
    saver = InMemorySaver()
    for graph_input in case.inputs:
        came = [one async for one in placed(case, saver, graph_input, subgraphs=True)]
        kept = await values_of_steps(saver)
        for chunk, _, steps in came:
            if chunk.mode == "values":
                saved = kept["", steps[-1] if steps[-1] is not None else -9]
                shown: Any = as_json(chunk.data)
                assert shown == as_json({key: value for key, value in saved.items() if key in shown})


async def test_nothing_is_held_back_for_ever() -> None:
    """Every chunk that the graph emits is placed once, whatever it waited for."""
    for case in CASES:
        for graph_input in case.inputs[:1]:
            config = {"configurable": {"thread_id": "t", **case.configurable}}
            graph = case.build(InMemorySaver())
            options = {"modes": list(MODES), "version": "v1", "subgraphs": True, **case.options}
            emitted = [chunk.mode async for chunk in chunks(graph, graph_input, config, **options)]
            out = [one.chunk.mode async for one in placed(case, InMemorySaver(), graph_input, subgraphs=True)]
            assert sorted(out) == sorted(emitted), case.name
